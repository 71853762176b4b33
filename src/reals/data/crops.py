"""Crops of a data set of image files, kept once they are decoded: training then reads 196 kB an image instead of decoding it."""

import shutil
from pathlib import Path

import numpy as np

from reals import files
from reals.data.cache import amount, array_header
from reals.data.dataset import CROPS, Images
from reals.data.folder import SPLITS
from reals.progress import Progress

BATCH = 64


def keep(folder: Path, root: Path | None = None) -> None:
    """Seals ``folder``/crops: ``<split>_images.npy``, uint8 [N, 3, R, R], of the prepared data set in ``folder``.

    ``root`` as for `Images`. Nothing to do where they are there and whole. ValueError where the disk is too small, or
    something else is called so.
    """
    crops = folder / CROPS
    splits = {split: Images(folder, split, root) for split in SPLITS}
    if all(images.stored for images in splits.values()):
        return
    sizes = {split: (len(images), 3, images.resolution, images.resolution) for split, images in splits.items()}
    needed, free = sum(int(np.prod(size)) for size in sizes.values()), shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"{crops}: the crops take {amount(needed)}, the disk has {amount(free)} free; free some, or set data.keep_crops: false"
        )
    if crops.exists() and not crops.is_dir():
        raise ValueError(f"{crops}: is no folder; move it away and run again")
    crops.mkdir(exist_ok=True)
    names = {split: f"{split}_images.npy" for split in SPLITS}
    for split, images in splits.items():
        progress, written = Progress(f"crops {split}", len(images)), 0
        files.sweep(crops / names[split])
        with files.replacing(crops / names[split]) as partial, partial.open("wb") as file:
            file.write(array_header(sizes[split], np.dtype(np.uint8)))
            for indices, pixels in images.ahead(np.array_split(np.arange(len(images)), -(-len(images) // BATCH))):
                file.write(np.ascontiguousarray(pixels).data)
                written += len(indices)
                progress.update(written)
    files.seal(crops, list(names.values()), made_from=images.fingerprint())
