"""One image file to bytes: read whole, turned upright, made RGB, cut to a square."""

import io
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError

OPAQUE = LARGEST_BYTE = 255
RGB_OR_GREY = ("RGB", "RGBA", "L", "LA", "1", "P", "PA")  # modes that are RGB as they are, or grey, or a palette of it
WHOLE = {"MPO", "PSD"}  # of several pictures that are one: a photograph and its preview, the layers below a composition
PNG, ENDS = b"\x89PNG\r\n\x1a\n", 12  # a PNG's first bytes; what a chunk has beside its content
PngImagePlugin.MAX_TEXT_CHUNK = 64 * 2**20  # a colour profile or an editor's notes of more than Pillow's 1 MiB spoil no pixel
MEGAPIXELS = 178.956970  # Pillow's own limit: a small file can unpack to more than memory holds
Image.MAX_IMAGE_PIXELS = None  # `too_many_pixels` stands in for it, with a limit that can be raised


class Unreadable(ValueError):
    """An image file that cannot be decoded whole; the message is one line: which, and why."""


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """ADM's crop: halve by box filter while twice too large, bicubic to the shorter side, cut the middle square."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def opened(data: bytes) -> ImageFile.ImageFile:
    """The image in a file's bytes, not decoded yet. A PNG's chunks that no pixel needs are left out where they are damaged."""
    try:
        return Image.open(io.BytesIO(data))
    except Exception:
        if (sound := _sound_png(data)) == data:
            raise
        return Image.open(io.BytesIO(sound))


def _sound_png(data: bytes) -> bytes:
    """A PNG without the chunks that are no part of its picture and whose checksum is wrong; other bytes as they are."""
    if not data.startswith(PNG):
        return data
    kept, at = [PNG], len(PNG)
    while at < len(data):
        chunk = data[at : at + ENDS + int.from_bytes(data[at : at + 4], "big")]
        spare = chunk[4:5].islower() and chunk[4:8] != b"tRNS"
        if not spare or zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big"):
            kept.append(chunk)
        at += len(chunk)
    return b"".join(kept)


def several(image: Image.Image) -> bool:
    """Whether a file holds more pictures than the one that is read, the first: an animation, or pages."""
    return image.format not in WHOLE and getattr(image, "is_animated", False)


def first_of_several(count: int, of: int) -> str | None:
    """The note on ``count`` such files of ``of``."""
    return f"{count:,} of {of:,} images hold several pictures (animations, pages), of which the first is read" if count else None


def is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether a file that was not decoded yet has 16 bits a channel, which Pillow cuts to 8 without a word in RGB."""
    if image.mode.startswith("I"):
        return True
    for tile in image.tile:
        args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        largest = args[-1] if tile.codec_name.startswith("ppm") else None
        if tile.codec_name == "SGI16" or ";16" in str(args) or (isinstance(largest, int) and largest > LARGEST_BYTE):
            return True
    return False


def converted(modes: Iterable[str], of: int) -> str | None:
    """The note on images of ``of`` that are in another colour model than RGB or grey, by their modes: CMYK, as some of ImageNet's."""
    counts = Counter(mode for mode in modes if mode not in RGB_OR_GREY and not mode.startswith(("I", "F")))
    if not counts:
        return None
    return f"{counts.total():,} of {of:,} images are {', '.join(sorted(counts))}, converted to RGB as Pillow does"


def rounded(count: int, of: int) -> str | None:
    """The note on ``count`` images of ``of`` with 16 bits a channel that are read with 8."""
    return f"{count:,} of {of:,} images have 16 bits a channel, of which 8 are kept" if count else None


def to_rgb(image: Image.Image, exif_rotate: bool) -> Image.Image:
    """RGB, 8 bits a channel: the first frame of an animation, 16-bit greys scaled (not clipped), EXIF rotation applied."""
    if exif_rotate:
        with suppress(Exception):  # a broken EXIF chunk says nothing of the rotation, and the pixels are good: raises anything
            image = ImageOps.exif_transpose(image)
    image = opaque(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        image = Image.fromarray(((np.asarray(image).astype(np.int64) + 128) // 257).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def opaque(image: Image.Image) -> Image.Image:
    """An image without its alpha channel. ValueError where a pixel is transparent: what colour it has is no image's business but the
    reader's, who composes it; an alpha channel that is opaque throughout is no transparency."""
    key = image.info.get("transparency")
    if "A" not in image.getbands() and key is None:
        return image
    if image.mode.startswith("I"):  # 16-bit grey, one value of which is transparent
        clear = bool((np.asarray(image) == key).any())
    else:
        seen = image.convert("RGBA")
        clear, image = np.asarray(seen)[..., 3].min() < OPAQUE, seen.convert("RGB")
    if clear:
        raise ValueError("transparent pixels, whose colour is anyone's guess; save it on a background")
    return image


def too_many_pixels(image: Image.Image, megapixels: float = MEGAPIXELS) -> str | None:
    """Words where an image, not unpacked yet, has more pixels than ``megapixels``; else None."""
    size = image.width * image.height / 1e6
    return f"{size:.0f} megapixels, more than {megapixels:.0f}" if size > megapixels else None


def decode(
    path: Path,
    size: int,
    exif_rotate: bool,
    megapixels: float | None = None,
    seen: Callable[[ImageFile.ImageFile], None] = lambda image: None,
) -> np.ndarray:
    """One image file of up to so many megapixels as uint8 [3, size, size]; ``seen`` is shown it as it is opened.

    Unreadable (one line) where it cannot be read whole.
    """
    try:
        with opened(path.read_bytes()) as image:
            if fault := too_many_pixels(image, megapixels or MEGAPIXELS):
                raise ValueError(f"{fault}; shrink it, or allow it by data.megapixels in the scale file")
            seen(image)
            image.load()
            return np.asarray(center_crop(to_rgb(image, exif_rotate), size)).transpose(2, 0, 1)
    except Exception as error:  # on a damaged file decoders raise anything: struct.error, zlib.error, KeyError, ...
        if isinstance(error, UnidentifiedImageError):
            reason = "of no known format" if path.stat().st_size else "zero bytes"
        else:
            reason = " ".join(str(error).split()) or type(error).__name__
        raise Unreadable(f"{path} cannot be read as an image ({reason})") from None
