"""Any image file is read as the crop of its picture, or one line says why not."""

import re
import struct
from pathlib import Path

import numpy as np
import pytest
from photos import photo
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from reals.data.decode import Unreadable, center_crop, decode


def test_crop_halves_with_a_box_and_cuts_the_middle():
    wide = Image.new("RGB", (128, 64))
    wide.paste((255, 0, 0), (32, 0, 96, 64))
    pixels = np.asarray(center_crop(wide, 16))
    assert pixels.shape == (16, 16, 3)
    assert (pixels == (255, 0, 0)).all()


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "png"), ("CMYK", "jpg"), ("RGBA", "png"), ("P", "png"), ("1", "png"), ("LA", "png")]
)
def test_any_mode_is_read_as_rgb(tmp_path, mode, suffix):
    assert decode(photo(tmp_path / f"a.{suffix}", mode=mode), 16, True).shape == (3, 16, 16)


def test_sixteen_bit_greys_are_scaled_not_clipped(tmp_path):
    Image.fromarray(np.full((20, 20), 0x8080, np.uint16)).save(tmp_path / "a.png")
    assert set(decode(tmp_path / "a.png", 16, True).ravel()) == {0x80}


def test_animation_and_exif_rotation(tmp_path):
    frames = [Image.new("RGB", (20, 20), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert decode(tmp_path / "a.gif", 16, True)[:, 0, 0].tolist() == [255, 0, 0]
    upright = Image.new("RGB", (20, 20))
    upright.paste((255, 255, 255), (0, 0, 20, 10))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    upright.save(tmp_path / "a.png", exif=exif)
    assert decode(tmp_path / "a.png", 16, False)[0, 0, 0] == 255
    assert decode(tmp_path / "a.png", 16, True)[0, 0, 0] == 0


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
        assert np.array_equal(np.asarray(center_crop(Image.fromarray(pixels), 16)), adm(pixels, 16)), (height, width)


def grey(path: Path, pixels: np.ndarray) -> np.ndarray:
    """What is read of a 16x16 grey image saved with these pixels."""
    Image.fromarray(pixels).save(path)
    return decode(path, 16, True)


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
        assert decode(tmp_path / f"d.{suffix}", 16, True)[:, 8, 8].tolist() == [255, 0, 0]
    assert decode(tmp_path / "a.tif", 16, True)[:, 8, 8].tolist() == [255, 0, 0]
    assert decode(tmp_path / "b.gif", 16, True)[:, 8, 8].tolist() == [255, 0, 0]
    assert decode(tmp_path / "c.png", 16, True)[:, 8, 8].tolist() == [76, 76, 76]  # 0.299 x 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(tmp_path, orientation):
    upright = np.zeros((16, 16, 3), np.uint8)
    upright[:8, :8] = 255  # white in the upper left quarter
    stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
              6: np.rot90(upright, 1), 7: np.rot90(upright.transpose(1, 0, 2), 2), 8: np.rot90(upright, -1)}  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored[orientation])).save(tmp_path / "a.jpg", exif=exif, quality=100)
    read = decode(tmp_path / "a.jpg", 16, True)[0].astype(int)
    assert [read[4, 4] > 200, read[4, 12] < 50, read[12, 4] < 50, read[12, 12] < 50] == [True] * 4


def complaint(path: Path) -> str | None:
    """What `decode` says of a file it cannot read; None where it can."""
    try:
        decode(path, 16, True)
    except Unreadable as error:
        return str(error)
    return None


def _bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in a few bytes: only its header is looked at."""
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
        (lambda whole: _bomb(), "900 megapixels, more than 179"),
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
    with pytest.raises(Unreadable, match="floating-point pixels"):
        grey(tmp_path / "a.tif", np.ones((16, 16), np.float32))


def test_transparent_pixels_are_refused_and_an_opaque_alpha_is_not(tmp_path):
    x = np.full((8, 8, 4), 255, np.uint8)
    x[..., :3] = 7
    Image.fromarray(x).save(tmp_path / "opaque.png")
    assert (decode(tmp_path / "opaque.png", 8, True) == 7).all()
    x[0, 0, 3] = 254
    Image.fromarray(x).save(tmp_path / "clear.png")
    with pytest.raises(Unreadable, match=r"clear\.png cannot be read as an image \(transparent pixels"):
        decode(tmp_path / "clear.png", 8, True)


def test_good_pixels_with_a_broken_exif_chunk_are_read(tmp_path):
    Image.new("RGB", (8, 8), (7, 7, 7)).save(tmp_path / "a.jpg", quality=100, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert abs(decode(tmp_path / "a.jpg", 8, True).astype(int) - 7).max() <= 1


@pytest.mark.parametrize(
    ("mode", "key"),
    [("L", 7), ("RGB", (7, 7, 7)), ("P", 1), ("P", b"\xff\0"), ("I;16", 7), ("1", 0), ("LA", None), ("RGBA", None)],
)
def test_transparency_is_refused_however_it_is_said(tmp_path, mode, key):
    values = {"RGB": (7, 7, 7), "P": 1, "1": 0, "LA": (7, 0), "RGBA": (7, 7, 7, 0)}
    image = Image.new(mode, (8, 8), values.get(mode, 7))
    if mode == "P":
        image.putpalette([9, 9, 9, 7, 7, 7])
    image.save(tmp_path / "a.png", **({} if key is None else {"transparency": key}))
    assert "transparent pixels" in (complaint(tmp_path / "a.png") or "")


def test_good_pixels_beside_a_damaged_or_large_note_are_read(tmp_path):
    """A checksum that is wrong in a chunk that no pixel needs, texts and colour profiles of megabytes; not so for the pixels' own."""
    note = PngInfo()
    note.add_text("Comment", "x" * 3_000_000, zip=True)
    Image.new("RGB", (8, 8), (7, 7, 7)).save(tmp_path / "a.png", pnginfo=note, exif=Image.Exif(), icc_profile=bytes(3_000_000))
    assert (decode(tmp_path / "a.png", 8, True) == 7).all()
    Image.new("RGB", (8, 8), (7, 7, 7)).save(tmp_path / "b.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0")
    data = bytearray((tmp_path / "b.png").read_bytes())
    for chunk, good in ((b"eXIf", True), (b"IDAT", False)):
        data[data.index(chunk) + 5] ^= 1
        (tmp_path / "b.png").write_bytes(data)
        assert (complaint(tmp_path / "b.png") is None) is good


@pytest.mark.slow
def test_huge_images_are_refused_before_they_are_unpacked_and_can_be_allowed(tmp_path):
    Image.new("1", (20000, 10000)).save(tmp_path / "a.png")
    with pytest.raises(Unreadable, match=r"200 megapixels, more than 179; shrink it, or allow it by data\.megapixels"):
        decode(tmp_path / "a.png", 8, True)
    assert decode(tmp_path / "a.png", 8, True, megapixels=201).shape == (3, 8, 8)
