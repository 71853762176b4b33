"""Image files and folders of them, for tests that read them."""

from pathlib import Path

import numpy as np
from PIL import Image

from reals.experiment.datasets import DataConfig


def photo(path: Path, size=(40, 30), seed: int = 0, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def folder(root: Path, per_class: int = 6, classes=("ant", "bee")) -> Path:
    for c, name in enumerate(classes):
        for i in range(per_class):
            photo(root / name / f"{i}.png", seed=10 * c + i)
    return root


def config(root: Path | None, **kwargs) -> DataConfig:
    settings = {"name": "x", "source": "folder", "path": root and str(root), "resolution": 16, "held_out": 0.5}
    return DataConfig(**settings | kwargs)
