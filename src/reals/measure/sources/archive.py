"""Zip archives, which .npz files are too, with damage said in one line."""

import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path

ENCRYPTED = 0x1  # of a member's flags
DEFLATE64 = 9
OTHERS = {1: "Shrink", 6: "Implode", 93: "Zstandard", 95: "XZ", 97: "WavPack", 98: "PPMd"}  # of the zip format
METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
DAMAGE = (zipfile.BadZipFile, zlib.error, LZMAError, EOFError, OSError)  # what unpacking a damaged member raises, by its method


def unpacked_name(name: str) -> str:
    """A member's path in an archive as that of a folder below it: ./a//b.png is a/b.png, as is a\\b.png of some writers on Windows."""
    return posixpath.normpath(name.replace("\\", "/")).lstrip("/")


def unpacked(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The files in a zip archive by :func:`unpacked_name`; of a name that is there twice the last."""
    return {unpacked_name(info.filename): info for info in archive.infolist() if not info.filename.endswith(("/", "\\"))}


def open_zip(path: Path) -> zipfile.ZipFile:
    """The archive (an .npz is one); ValueError where its directory is gone, as in every truncated one, and where Python cannot
    unpack it."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise ValueError(
            f"{path}: truncated, or not a zip archive ({path.stat().st_size} bytes); copy or make it again"
        ) from None
    for member in archive.infolist():
        if member.flag_bits & ENCRYPTED:
            raise ValueError(f"{path}: {member.filename} is encrypted; unpack it with its password and give the folder")
        if member.compress_type not in METHODS:
            raise ValueError(
                f"{path}: {member.filename} is packed by {_method(member.compress_type)}; unpack it and give the folder, or pack it again "
                "by `zip`"
            )
    return archive


def _method(number: int) -> str:
    if number == DEFLATE64:
        return "Deflate64, which Python does not read (Windows does it to large archives)"
    name = OTHERS.get(number)
    return f"{f'{name} (method {number})' if name else f'method {number}'}, which Python does not read"


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """Around reading an .npz: ValueError, one line, where a member is damaged, gone or no plain array."""
    try:
        yield
    except (*DAMAGE, KeyError) as error:
        raise ValueError(f"{path}: damaged ({error}); copy or make it again") from None
    except ValueError as error:
        if str(error).startswith(str(path)):  # one of ours
            raise
        raise ValueError(f"{path}: cannot be read ({error}); copy or make it again") from None
