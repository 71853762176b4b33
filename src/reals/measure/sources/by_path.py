"""The images at a path, whatever kind of file or folder it is."""

from pathlib import Path

from reals.data import image_files
from reals.measure.source import Source
from reals.measure.sources.archive import open_zip, unpacked
from reals.measure.sources.arrays import npy_source, npz_source, shards_source
from reals.measure.sources.image_files import folder_source, zip_source
from reals.measure.sources.numbers import RANGES
from reals.measure.sources.tar_files import tar_source, tars_in


def open_source(path: Path, value_range: str = "bytes") -> Source:
    """The images at ``path``: ADM's .npz, a list of arrays in an .npz or .npy, our shards, a folder, a zip or tar archives.

    ``value_range`` declares what floating numbers mean: ``unit`` (in [0, 1], as diffusers' ``output_type="np"``,
    rounded to bytes as diffusers does) or ``signed`` (in [-1, 1], trunc(127.5 x + 128) as ADM and DiT do);
    ``bytes`` refuses them. uint8 is taken as it is. Nothing is guessed, cropped or resized. ValueError, one line, for a missing,
    empty or truncated source, another type, shape or channel count, images of several sizes, and transparency.
    """
    if value_range not in RANGES:
        raise ValueError(f"range: got {value_range!r}, expected one of {', '.join(RANGES)}")
    if path.is_dir():
        shards = sorted(path.glob("shard_*.npy"))
        if shards:
            return shards_source(path, shards, value_range)
        tars = tars_in(path)
        return tar_source(path, tars) if tars else folder_source(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file or folder" + ("; give the folder of the archives" if "{" in path.name else ""))
    if path.suffix.lower() == ".npy":
        return npy_source(path, value_range)
    if path.suffix.lower() == ".tar":
        return tar_source(path, [path])
    if path.suffix.lower() not in (".npz", ".zip"):
        packed = path.name.lower().endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst"))
        advice = "; unpack it and give the .tar or the folder" if packed else ""
        raise ValueError(f"{path}: expected an .npz, an .npy, a .zip or .tar of images or a folder{advice}")
    archive = open_zip(path)
    names = unpacked(archive)
    if any(name.endswith(".npy") for name in names) and not image_files.among(names).names:
        return npz_source(path, archive, value_range)
    return zip_source(path, archive)
