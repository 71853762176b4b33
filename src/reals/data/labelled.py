"""Images with dense labels from folders: class masks in VOC's or ADE20K's layout, depth maps; cut exactly as images are."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from reals.data import image_files
from reals.data.decode import Unreadable, decode
from reals.experiment.datasets import LabelsConfig
from reals.experiment.reading import ConfigError

IGNORE = 255
"""A pixel without a class (VOC's borders, ADE's class 0)."""
CLASSES = {"voc": 21, "ade": 150}
SPLITS = ("train", "held_out")
ADE_SPLITS = {"train": "training", "held_out": "validation"}
VOC_SPLITS = {"train": "train.txt", "held_out": "val.txt"}
DEPTH_SPLITS = {"train": "train", "held_out": "val"}
MILLIMETRES = 1000.0  # a 16-bit PNG's unit, as NYU's and ScanNet's


@dataclass(frozen=True)
class Pairs:
    """One split of a labelled folder: image and label files, in order of name."""

    config: LabelsConfig
    images: list[Path]
    labels: list[Path]
    megapixels: float | None = None  # of the largest image that is read, as `DataConfig` has it

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Iterable[int], size: int) -> tuple[np.ndarray, np.ndarray]:
        """(uint8 [B, 3, size, size]; classes int64 [B, size, size] with IGNORE, or depths float32, 0 where unknown).

        Unreadable (one line) names a file that cannot be read or does not fit its image.
        """
        pairs = [self._pair(self.images[i], self.labels[i], size) for i in indices]
        return np.stack([image for image, _ in pairs]), np.stack([label for _, label in pairs])

    def _pair(self, image: Path, label: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
        pixels = decode(
            image, size, exif_rotate=False, megapixels=self.megapixels
        )  # labels are drawn on the pixels as they are stored
        values = read_depth(label) if self.config.layout == "depth" else read_mask(label, self.config)
        with Image.open(image) as opened:
            width, height = opened.size
        if values.shape != (height, width):
            raise Unreadable(
                f"{label} is {values.shape[1]}x{values.shape[0]} pixels, its image {image} {width}x{height}; they must match"
            )
        return pixels, crop_labels(values, size)


def crop_labels(values: np.ndarray, size: int) -> np.ndarray:
    """`decode.center_crop` for labels [H, W]: the same pixels' nearest values, none mixed."""
    height, width = values.shape
    w, h = width, height
    while min(w, h) >= 2 * size:
        w, h = w // 2, h // 2
    scale = size / min(w, h)
    w, h = round(w * scale), round(h * scale)
    left, top = (w - size) // 2, (h - size) // 2
    rows = ((np.arange(top, top + size) + 0.5) * height / h).astype(int)
    columns = ((np.arange(left, left + size) + 0.5) * width / w).astype(int)
    return values[rows[:, None], columns[None]]


def read_mask(path: Path, config: LabelsConfig) -> np.ndarray:
    """Classes [H, W] int64, IGNORE where there is none. Unreadable where it holds colours, or classes out of range."""
    try:
        with Image.open(path) as image:
            image.load()
            mode, values = image.mode, np.asarray(image).astype(np.int64)
    except Exception as error:
        raise Unreadable(f"{path} cannot be read as a mask ({' '.join(str(error).split())})") from None
    if values.ndim != 2 or mode in ("F", "LA", "1"):
        raise Unreadable(f"{path} is a mask of mode {mode}; expected class numbers (a palette or grey PNG), not colours")
    if config.layout == "ade":  # 0 is no class, 1 to 150 are classes
        values = np.where(values == 0, IGNORE, values - 1)
    odd = values[(values != IGNORE) & (values >= classes(config))]
    if odd.size:
        raise Unreadable(
            f"{path} holds class {int(odd[0])}; {config.layout} has 0 to {classes(config) - 1}; set classes if yours has more"
        )
    return values


def read_depth(path: Path) -> np.ndarray:
    """Depth [H, W] float32, 0 where unknown: a .npy as it is, a 16-bit PNG in millimetres as metres."""
    try:
        if path.suffix == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            with Image.open(path) as image:
                image.load()
                if not image.mode.startswith("I"):
                    raise ValueError(f"mode {image.mode}; expected a 16-bit PNG in millimetres or a .npy")
                values = np.asarray(image) / MILLIMETRES
    except Exception as error:
        raise Unreadable(f"{path} cannot be read as a depth map ({' '.join(str(error).split())})") from None
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values):
        raise Unreadable(f"{path} is {values.dtype} {values.shape}; expected one number a pixel, [height, width]")
    values = values.astype(np.float32)
    return np.where(np.isfinite(values) & (values > 0), values, np.float32(0))


def classes(config: LabelsConfig) -> int:
    return config.classes or CLASSES.get(config.layout, 0)


def pairs(config: LabelsConfig, what: str, megapixels: float | None = None) -> dict[str, Pairs]:
    """Both splits of a folder; ConfigError (one line, naming ``what`` key of the scale) where it has not the layout's form."""
    root = Path(config.path)
    if not root.is_dir():
        raise ConfigError(
            f"{what}.path: {root} is not a folder; give the folder of the {config.layout} layout (docs/downstream.md)"
        )
    found = {split: Pairs(config, *_files(root, config.layout, split, what), megapixels) for split in SPLITS}
    for split, made in found.items():
        if not made.images:
            raise ConfigError(f"{what}.path: {root} has no {split} pairs in the {config.layout} layout (docs/downstream.md)")
    return found


def _files(root: Path, layout: str, split: str, what: str) -> tuple[list[Path], list[Path]]:
    suffixes: tuple[str, ...]
    stems: list[str] | None
    if layout == "voc":
        listing = root / "ImageSets/Segmentation" / VOC_SPLITS[split]
        if not listing.is_file():
            raise ConfigError(f"{what}.path: {listing} is missing; the voc layout lists each split there")
        stems = sorted({line.split()[0] for line in listing.read_text(encoding="utf-8-sig").splitlines() if line.strip()})
        images, labels, suffixes = root / "JPEGImages", root / "SegmentationClass", (".png",)
    elif layout == "ade":
        images, labels = root / "images" / ADE_SPLITS[split], root / "annotations" / ADE_SPLITS[split]
        stems, suffixes = None, (".png",)
    else:
        images, labels = root / DEPTH_SPLITS[split] / "images", root / DEPTH_SPLITS[split] / "depth"
        stems, suffixes = None, (".npy", ".png")
    for folder in (images, labels):
        if not folder.is_dir():
            raise ConfigError(f"{what}.path: {folder} is missing; the {layout} layout has it (docs/downstream.md)")
    by_stem, label_of = _by_stem(images, image_files.suffixes(), what), _by_stem(labels, suffixes, what)
    stems = sorted(by_stem) if stems is None else stems
    for stem in stems:
        if stem not in by_stem:
            raise ConfigError(f"{what}.path: {images} has no image {stem}, which the split lists")
        if stem not in label_of:
            raise ConfigError(
                f"{what}.path: {by_stem[stem]} has no label in {labels}; add {stem}{suffixes[0]} or remove the image"
            )
    return [by_stem[stem] for stem in stems], [label_of[stem] for stem in stems]


def _by_stem(folder: Path, suffixes: Collection[str], what: str) -> dict[str, Path]:
    """The files of a folder with one of the suffixes, hidden ones left out. ConfigError where two have one name but for the suffix."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and not image_files.is_litter(path.name):
            if other := found.get(path.stem):
                raise ConfigError(f"{what}.path: {folder} has {other.name} and {path.name}; which one is it? Remove the other")
            found[path.stem] = path
    return found
