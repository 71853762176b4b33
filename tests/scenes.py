"""Small painted scenes with exact ground truth: discs, squares and triangles before a background, each at its own depth."""

from pathlib import Path

import numpy as np
from PIL import Image

SHAPES = ("background", "disc", "square", "triangle")
COLOURS = np.array([[70, 90, 120], [210, 70, 60], [70, 180, 90], [230, 200, 70]])
FAR = 10.0


def scene(seed: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(image [size, size, 3] uint8; classes [size, size]; depth [size, size] in metres) with one to three shapes, nearer ones in front."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    classes = np.zeros((size, size), np.int64)
    depth = np.full((size, size), FAR)
    for away in sorted(rng.uniform(2, 8, rng.integers(1, 4)))[::-1]:
        kind = int(rng.integers(1, len(SHAPES)))
        radius = size * rng.uniform(1.0, 1.4) / away
        cx, cy = rng.uniform(0.2, 0.8, 2) * size
        u, v = np.abs(x - cx), y - cy
        inside = {
            1: u**2 + v**2 < radius**2,
            2: (u < radius) & (np.abs(v) < radius),
            3: (np.abs(v) < radius) & (u < (v + radius) / 2),
        }[kind]
        classes[inside], depth[inside] = kind, away
    light = 1.3 - depth / 20  # nearer is brighter, as a cue
    noise = rng.normal(0, 6, (size, size, 3))
    return (COLOURS[classes] * light[..., None] + noise).clip(0, 255).astype(np.uint8), classes, depth


def write_voc(root: Path, n: int, size: int, first: int = 0) -> Path:
    """``n`` scenes in VOC's layout, three quarters of them to train on; shapes' borders are 255, as VOC's are."""
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    for k in range(n):
        image, classes, _ = scene(first + k, size)
        edge = np.zeros_like(classes, bool)
        edge[1:] |= classes[1:] != classes[:-1]
        mask = Image.fromarray(np.where(edge, 255, classes).astype(np.uint8), mode="P")
        mask.putpalette([int(v) for colour in np.random.default_rng(0).integers(0, 256, (256, 3)) for v in colour])
        Image.fromarray(image).save(root / f"JPEGImages/scene_{k:04d}.jpg", quality=95)
        mask.save(root / f"SegmentationClass/scene_{k:04d}.png")
    names = [f"scene_{k:04d}" for k in range(n)]
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(names[: 3 * n // 4]) + "\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(names[3 * n // 4 :]) + "\n")
    return root


def write_depth(root: Path, n: int, size: int, first: int = 0) -> Path:
    """``n`` scenes with depth maps, every second one a 16-bit PNG in millimetres, the others .npy with a hole of NaN."""
    for k in range(n):
        split = root / ("train" if k < 3 * n // 4 else "val")
        for name in ("images", "depth"):
            (split / name).mkdir(parents=True, exist_ok=True)
        image, _, depth = scene(first + k, size)
        Image.fromarray(image).save(split / f"images/{k:04d}.png")
        if k % 2:
            Image.fromarray((depth * 1000).round().astype(np.uint16)).save(split / f"depth/{k:04d}.png")
        else:
            depth[:2, :2] = np.nan
            np.save(split / f"depth/{k:04d}.npy", depth)
    return root
