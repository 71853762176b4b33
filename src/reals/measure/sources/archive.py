"""Zip archives, which .npz files are too, with damage said in one line."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def open_zip(path: Path) -> zipfile.ZipFile:
    """The archive (an .npz is one); ValueError where its directory is gone, as in every truncated one."""
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise ValueError(
            f"{path}: truncated, or not a zip archive ({path.stat().st_size} bytes); copy or make it again"
        ) from None


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """Around reading an .npz: ValueError, one line, where a member is damaged, gone or no plain array."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError) as error:
        raise ValueError(f"{path}: damaged ({error}); copy or make it again") from None
    except ValueError as error:
        if str(error).startswith(str(path)):  # one of ours
            raise
        raise ValueError(f"{path}: cannot be read ({error}); copy or make it again") from None
