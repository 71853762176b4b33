"""One image file to bytes: read whole, turned upright, made RGB, cut to a square."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


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
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        image = Image.fromarray(((np.asarray(image).astype(np.int64) + 128) // 257).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def decode(path: Path, size: int, exif_rotate: bool) -> np.ndarray:
    """One image file as uint8 [3, size, size]. Raises Unreadable (one line) where it cannot be read whole."""
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            image.load()
            return np.asarray(center_crop(to_rgb(image, exif_rotate), size)).transpose(2, 0, 1)
    except Exception as error:  # on a damaged file decoders raise anything: struct.error, zlib.error, KeyError, ...
        if isinstance(error, UnidentifiedImageError):
            reason = "of no known format" if path.stat().st_size else "zero bytes"
        else:
            reason = " ".join(str(error).split()) or type(error).__name__
        raise Unreadable(f"{path} cannot be read as an image ({reason})") from None
