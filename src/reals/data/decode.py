"""One image file to bytes: read whole, turned upright, made RGB, cut to a square."""

import io
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

OPAQUE = 255
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


def to_rgb(image: Image.Image, exif_rotate: bool) -> Image.Image:
    """RGB, 8 bits a channel: the first frame of an animation, 16-bit greys scaled (not clipped), EXIF rotation applied."""
    if exif_rotate:
        with suppress(Exception):  # a broken EXIF chunk says nothing of the rotation, and the pixels are good: raises anything
            image = ImageOps.exif_transpose(image)
    refuse_transparency(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        image = Image.fromarray(((np.asarray(image).astype(np.int64) + 128) // 257).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def refuse_transparency(image: Image.Image) -> None:
    """ValueError where a pixel is transparent. What colour it has is no image's business but the reader's, who composes it;
    an alpha channel that is opaque throughout is no transparency."""
    if "A" in image.getbands() or "transparency" in image.info:
        if np.asarray(image.convert("RGBA"))[..., 3].min() < OPAQUE:
            raise ValueError("transparent pixels, whose colour is anyone's guess; save it on a background")


def too_many_pixels(image: Image.Image, megapixels: float = MEGAPIXELS) -> str | None:
    """Words where an image, not unpacked yet, has more pixels than ``megapixels``; else None."""
    size = image.width * image.height / 1e6
    return f"{size:.0f} megapixels, more than {megapixels:.0f}" if size > megapixels else None


def decode(path: Path, size: int, exif_rotate: bool, megapixels: float | None = None) -> np.ndarray:
    """One image file of up to so many megapixels as uint8 [3, size, size]. Unreadable (one line) where it cannot be read whole."""
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            if fault := too_many_pixels(image, megapixels or MEGAPIXELS):
                raise ValueError(f"{fault}; shrink it, or allow it by data.megapixels in the scale file")
            image.load()
            return np.asarray(center_crop(to_rgb(image, exif_rotate), size)).transpose(2, 0, 1)
    except Exception as error:  # on a damaged file decoders raise anything: struct.error, zlib.error, KeyError, ...
        if isinstance(error, UnidentifiedImageError):
            reason = "of no known format" if path.stat().st_size else "zero bytes"
        else:
            reason = " ".join(str(error).split()) or type(error).__name__
        raise Unreadable(f"{path} cannot be read as an image ({reason})") from None
