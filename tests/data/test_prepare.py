"""A folder becomes one prepared data set, in either storage, or one line says why not."""

import os

import numpy as np
import pytest
from photos import config, folder, photo
from PIL import Image

from reals import files
from reals.data.dataset import Images
from reals.data.decode import decode
from reals.data.prepare import prepare
from reals.experiment.reading import ConfigError


def test_prepared_arrays_are_the_center_crops(tmp_path):
    prepare(config(folder(tmp_path / "in")), 0, tmp_path / "out")
    train, held = Images(tmp_path / "out", "train"), Images(tmp_path / "out", "held_out")
    assert (len(train), len(held), train.classes) == (6, 6, ["ant", "bee"])
    assert sorted(train.labels.tolist()) == [0, 0, 0, 1, 1, 1]
    truth = {decode(p, 16, True).tobytes() for p in (tmp_path / "in").rglob("*.png")}
    got = {x.tobytes() for split in (train, held) for x in split.batch(np.arange(6))}
    assert got == truth


def test_files_storage_gives_the_same_pixels(tmp_path):
    root = folder(tmp_path / "in")
    for storage in ("array", "files"):
        prepare(config(root, storage=storage), 0, tmp_path / storage)
    a, b = (Images(tmp_path / s, "train") for s in ("array", "files"))
    flips = np.array([True, False, True])
    assert np.array_equal(a.batch([4, 0, 2], flips), b.batch([4, 0, 2], flips))
    assert np.array_equal(a.batch([4], np.array([True])), a.batch([4])[..., ::-1])


def test_an_unreadable_image_is_named_or_skipped_and_counted(tmp_path):
    root = folder(tmp_path / "in")
    whole = (root / "bee" / "0.png").read_bytes()
    (root / "bee" / "0.png").write_bytes(whole[: len(whole) // 2])
    (root / "ant" / "1.png").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"(ant/1|bee/0)\.png cannot be read as an image.*unreadable: skip") as caught:
        prepare(config(root), 0, tmp_path / "a")
    assert "\n" not in str(caught.value)
    prepare(config(root, unreadable="skip"), 0, tmp_path / "b")
    manifest = files.opened(tmp_path / "b")
    assert manifest["skipped"] == 2
    assert sum(manifest["images"].values()) == 10
    assert len(Images(tmp_path / "b", "train").batch(np.arange(manifest["images"]["train"]))) == manifest["images"]["train"]


def test_what_is_left_without_unreadable_images_must_be_a_data_set(tmp_path):
    root = folder(tmp_path / "in" / "train")
    folder(tmp_path / "in" / "val")
    for path in (root / "bee").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ConfigError, match="no readable training image of class 'bee'"):
        prepare(config(tmp_path / "in", unreadable="skip"), 0, tmp_path / "a")
    for path in list((root / "ant").iterdir())[:5]:
        path.write_bytes(b"")
    photo(root / "bee" / "6.png")
    with pytest.raises(ConfigError, match="2 readable images for the train split, at least 4"):
        prepare(config(tmp_path / "in", unreadable="skip"), 0, tmp_path / "b")


def test_a_dangling_link_and_a_name_in_no_encoding(tmp_path):
    root = folder(tmp_path / "in")
    (root / "bee/gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ConfigError, match=r"bee/gone\.png cannot be read as an image \(.*No such file"):
        prepare(config(root), 0, tmp_path / "a")
    (root / "bee/gone.png").unlink()
    (root / "bee/0.png").rename(os.fsdecode(os.fsencode(root / "bee") + b"/\xff.png"))
    prepare(config(root, storage="files"), 0, tmp_path / "b")
    assert Images(tmp_path / "b", "train").batch(np.arange(6)).shape == (6, 3, 16, 16)


def test_images_of_other_colour_models_and_depths_are_counted(tmp_path, capsys):
    root = folder(tmp_path / "in", per_class=4)
    for name in ("ant", "bee"):
        Image.new("CMYK", (40, 30), (10, 200, 30, 5)).save(root / name / "0.tif")
        Image.fromarray(np.full((40, 30), 0x8080, np.uint16)).save(root / name / "1.png")
    prepare(config(root), 0, tmp_path / "out")
    said = capsys.readouterr().out.splitlines()
    for what in ("images are CMYK, converted to RGB as Pillow does", "images have 16 bits a channel, of which 8 are kept"):
        assert sum(int(line.split(": ")[1].split()[0]) for line in said if line.endswith(what)) == 2


def test_files_of_several_pictures_are_counted(tmp_path, capsys):
    root = folder(tmp_path / "in", per_class=4)
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    frames[0].save(root / "ant/0.png", save_all=True, append_images=frames[1:])
    frames[0].save(root / "bee/0.png", save_all=True, append_images=frames[1:])
    prepare(config(root), 0, tmp_path / "out")
    said = capsys.readouterr().out
    assert sum(int(line.split(": ")[1].split()[0]) for line in said.splitlines() if "hold several pictures" in line) == 2
