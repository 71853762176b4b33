"""Dense metrics have their closed forms, labels are cut as images are, and a bad folder gets one line."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scenes import scene, write_depth, write_voc
from sklearn.metrics import jaccard_score

from reals.data import labelled
from reals.data.decode import Unreadable, center_crop
from reals.experiment.datasets import LabelsConfig
from reals.experiment.reading import ConfigError
from reals.measure.metrics import dense


def config(layout: str, path, **more) -> LabelsConfig:
    return LabelsConfig(name="scenes", layout=layout, path=str(path), **more)


def test_mean_iou_by_hand():
    truth = torch.tensor([[0, 0, 1, 1], [2, 2, 255, 255]])
    guess = torch.tensor([[0, 1, 1, 1], [2, 0, 2, 0]])
    # class 0: 1 of {0,0} + guessed at one 2: 1/3; class 1: 2/3; class 2: 1/2; class 3 occurs nowhere
    assert dense.mean_iou(dense.confusion(guess, truth, 4)) == pytest.approx((1 / 3 + 2 / 3 + 1 / 2) / 3)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(2, 6))
def test_mean_iou_is_sklearns_jaccard_for_any_batching(seed, classes):
    g = torch.Generator().manual_seed(seed)
    truth, guess = torch.randint(0, classes, (2, 5, 4, 4), generator=g)
    hidden = torch.rand(truth.shape, generator=g) < 0.2
    whole = dense.confusion(guess, torch.where(hidden, 255, truth), classes)
    parts = sum(dense.confusion(guess[i : i + 2], torch.where(hidden, 255, truth)[i : i + 2], classes) for i in (0, 2, 4))
    assert torch.equal(whole, parts)
    seen = sorted(set(truth[~hidden].tolist()) | set(guess[~hidden].tolist()))
    theirs = jaccard_score(truth[~hidden], guess[~hidden], labels=seen, average="macro", zero_division=0)
    assert dense.mean_iou(whole) == pytest.approx(theirs)


def test_classes_out_of_range_are_refused():
    with pytest.raises(ValueError, match="true classes 7 to 7, expected 0 to 3"):
        dense.confusion(torch.zeros(2, dtype=torch.long), torch.tensor([7, 255]), 4)


def test_depth_errors_by_hand_and_unknown_pixels_do_not_count():
    truth = torch.tensor([[[2.0, 4.0], [0.0, 8.0]], [[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])
    guess = torch.tensor([[[1.0, 4.0], [99.0, 9.0]], [[5.0, 5.0], [5.0, 5.0]], [[-3.0, 1.0], [1.0, 1.0]]])
    found = dense.depth_errors(guess, truth)
    assert found["absrel"] == pytest.approx(((1 / 2 + 0 + 1 / 8) / 3 + 4) / 2)
    assert found["delta1"] == pytest.approx((2 / 3 + 0) / 2)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.floats(0.1, 50), st.floats(-5, 5))
def test_aligned_depth_undoes_scale_and_shift(seed, scale, shift):
    g = torch.Generator().manual_seed(seed)
    truth = torch.rand(3, 6, 6, generator=g, dtype=torch.float64) + 0.5
    truth[:, 0] = 0  # unknown
    assert dense.depth_errors(dense.aligned_depth((truth - shift) / scale, truth), truth)["absrel"] < 1e-9
    constant = dense.aligned_depth(torch.full((1, 6, 6), 3.0), truth[:1])
    assert constant[0, 1, 1] == pytest.approx(float(truth[0, 1:].mean()))


@pytest.mark.parametrize(("width", "height"), [(32, 32), (47, 61), (200, 90), (33, 130)])
def test_labels_are_cut_where_the_image_is(width, height):
    """An image whose brightness is its class: after both cuts the two agree but for the edges, which bicubic mixes."""
    classes = (np.indices((height, width)).sum(0) // 16 % 2).astype(np.int64)
    picture = Image.fromarray((classes * 255).astype(np.uint8)).convert("RGB")
    cut = np.asarray(center_crop(picture, 32))[..., 0] / 255
    assert np.abs(cut - labelled.crop_labels(classes, 32)).mean() < 0.2
    flat = np.asarray(center_crop(picture.resize((width * 4, height * 4), 0), 32))[..., 0] / 255
    sharp = (flat < 0.05) | (flat > 0.95)
    big = labelled.crop_labels(classes.repeat(4, 0).repeat(4, 1), 32)
    assert (np.abs(flat - big)[sharp] < 0.5).mean() > 0.97


def test_scenes_come_back_from_each_layout(tmp_path):
    voc = labelled.pairs(config("voc", write_voc(tmp_path / "voc", 8, 32), classes=4), "downstream.segmentation")
    assert (len(voc["train"]), len(voc["held_out"])) == (6, 2)
    images, masks = voc["train"].batch([0, 3], 32)
    picture, classes, _ = scene(3, 32)
    assert images.shape == (2, 3, 32, 32) and np.abs(images[1].transpose(1, 2, 0).astype(int) - picture).mean() < 12  # JPEG
    known = masks[1] != 255
    assert not known.all() and (masks[1] == classes)[known].all()
    depth = labelled.pairs(config("depth", write_depth(tmp_path / "depth", 8, 32)), "downstream.depth")
    _, maps = depth["train"].batch([0, 1], 32)
    assert (
        maps.dtype == np.float32
        and (maps[0, :2, :2] == 0).all()
        and (maps[0, 2:] == scene(0, 32)[2][2:].astype(np.float32)).all()
    )
    assert np.abs(maps[1] - scene(1, 32)[2]).max() < 1e-3  # millimetres


def test_what_systems_leave_in_a_labelled_folder_is_no_pair(tmp_path):
    """A mark before the text of a list, hidden files beside images and masks."""
    root = write_voc(tmp_path / "voc", 8, 32)
    listing = root / "ImageSets/Segmentation/train.txt"
    listing.write_text(listing.read_text(), encoding="utf-8-sig")
    depth = write_depth(tmp_path / "depth", 8, 32)
    for hidden in ("train/images/._scene_0000.png", "train/depth/._scene_0000.npy"):
        (depth / hidden).write_bytes(b"x")
    assert len(labelled.pairs(config("voc", root, classes=4), "downstream.segmentation")["train"]) == 6
    assert len(labelled.pairs(config("depth", depth), "downstream.depth")["train"]) == 6


def test_the_largest_image_of_a_scale_is_that_of_its_labelled_images(tmp_path):
    root = write_voc(tmp_path / "voc", 8, 32)
    with pytest.raises(Unreadable, match=r"megapixels, more than 0; shrink it, or allow it by data\.megapixels"):
        labelled.pairs(config("voc", root, classes=4), "downstream.segmentation", 1e-6)["train"].batch([0], 32)


def test_ades_zero_is_no_class(tmp_path):
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (tmp_path / kind / split).mkdir(parents=True)
        Image.new("RGB", (40, 32)).save(tmp_path / f"images/{split}/a.jpg")
        Image.fromarray(np.array([[0] * 20 + [150] * 20] * 32, np.uint8)).save(tmp_path / f"annotations/{split}/a.png")
    _, masks = labelled.pairs(config("ade", tmp_path), "downstream.segmentation")["held_out"].batch([0], 32)
    assert set(masks.ravel().tolist()) == {255, 149}


def _spoil(root, how):
    mask, image = root / "SegmentationClass/scene_0000.png", root / "JPEGImages/scene_0000.jpg"
    if how == "colours":
        Image.open(mask).convert("RGB").save(mask)
    elif how == "size":
        Image.new("P", (31, 32)).save(mask)
    elif how == "class":
        Image.new("L", (32, 32), 9).save(mask)
    elif how == "torn":
        mask.write_bytes(mask.read_bytes()[:40])
    elif how == "image":
        image.write_bytes(b"no picture")


@pytest.mark.parametrize(
    ("how", "says"),
    [("colours", "mask of mode RGB"), ("size", "is 31x32 pixels, its image .* 32x32"), ("class", "holds class 9; voc has 0 to 3"),
     ("torn", r"scene_0000\.png cannot be read as a mask"), ("image", r"scene_0000\.jpg cannot be read as an image")],
)  # fmt: skip
def test_a_spoilt_pair_is_one_line_that_names_the_file(tmp_path, how, says):
    root = write_voc(tmp_path / "voc", 8, 32)
    _spoil(root, how)
    with pytest.raises(Unreadable, match=says) as error:
        labelled.pairs(config("voc", root, classes=4), "downstream.segmentation")["train"].batch([0], 32)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("layout", "break_it", "says"),
    [("voc", lambda root: (root / "SegmentationClass/scene_0001.png").unlink(), "has no label in .*SegmentationClass; add scene_0001.png"),
     ("voc", lambda root: (root / "JPEGImages/scene_0001.jpg").unlink(), "has no image scene_0001, which the split lists"),
     ("voc", lambda root: (root / "ImageSets/Segmentation/val.txt").write_text(""), "has no held_out pairs"),
     ("voc", lambda root: (root / "ImageSets/Segmentation/val.txt").unlink(), r"val\.txt is missing"),
     ("voc", lambda root: shutil.copy(root / "JPEGImages/scene_0001.jpg", root / "JPEGImages/scene_0001.JPEG"), "which one is it"),
     ("ade", lambda root: None, "images/training is missing; the ade layout has it"),
     ("depth", lambda root: None, "train/images is missing; the depth layout has it")],
)  # fmt: skip
def test_a_folder_of_another_form_is_one_line(tmp_path, layout, break_it, says):
    root = write_voc(tmp_path / "voc", 8, 32)
    break_it(root)
    with pytest.raises(ConfigError, match=says):
        labelled.pairs(config(layout, root), "downstream.segmentation")
    with pytest.raises(ConfigError, match="is not a folder"):
        labelled.pairs(config(layout, root / "none"), "downstream.segmentation")


@pytest.mark.parametrize(
    ("array", "says"), [(np.zeros((32, 32, 3)), "one number a pixel"), (np.zeros((32, 32), complex), "one number a pixel"),
                        (np.array([{}], dtype=object), "cannot be read as a depth map")])  # fmt: skip
def test_a_depth_map_that_is_none(tmp_path, array, says):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(Unreadable, match=says):
        labelled.read_depth(tmp_path / "a.npy")
    Image.new("L", (4, 4)).save(tmp_path / "b.png")
    with pytest.raises(Unreadable, match="mode L; expected a 16-bit PNG"):
        labelled.read_depth(tmp_path / "b.png")


def test_settings_that_mean_nothing_are_refused(tmp_path):
    for more, layout in (({"relative": True}, "voc"), ({"classes": 3}, "depth"), ({"experimental": True}, "voc")):
        with pytest.raises(ValueError, match="means nothing to the"):
            config(layout, tmp_path, **more)


def test_the_correlation_of_depths_sees_neither_scale_nor_shift_and_is_a_mean_over_images():
    one = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(0))
    assert dense.depth_correlation(one, 3 * one + 7) == pytest.approx(1)
    assert dense.depth_correlation(one, torch.stack([one[0], -one[1], torch.ones(6, 6)])) == pytest.approx(0)
    other = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(1))
    by_hand = np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(one.numpy(), other.numpy(), strict=True)])
    assert dense.depth_correlation(one, other) == pytest.approx(by_hand, rel=1e-5)
