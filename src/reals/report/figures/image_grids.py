"""Figures of images: a grid of samples (Figure 3), samples with what is read from them (Figure 4), rows that belong together."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reals.report.figures import style
from reals.report.figures.style import PAGE, class_colors


def samples(images: np.ndarray, stem: Path, *, columns: int = 8) -> list[Path]:
    """A grid of samples [n, H, W, 3] uint8, row by row; the last row may be short."""
    columns = min(columns, len(images))
    rows, gap = -(-len(images) // columns), 0.03
    cell = (PAGE - (columns - 1) * gap) / columns
    height = rows * cell + (rows - 1) * gap
    with style.paper():
        figure = style.canvas(PAGE, height)
        for k, image in enumerate(images):
            row, column = divmod(k, columns)
            style.place(figure, column * (cell + gap), height - row * (cell + gap) - cell, cell, cell).imshow(image)
        return style.write(figure, stem)


def read_from_latents(
    images: np.ndarray, stem: Path, *, mask: np.ndarray | None = None, classes: np.ndarray | None = None,
    depth: np.ndarray | None = None, columns: int = 8,
) -> list[Path]:  # fmt: skip
    """Generated images [k, H, W, 3] uint8 above what is given of masks [k, h, w] in 0..1, class numbers [k, h, w] (each class
    has its colour) and depths [k, h, w] (any unit)."""
    shown, gap, left, right = min(columns, len(images)), 0.04, 0.2, 0.5
    rows: list[tuple[np.ndarray, dict[str, Any], str, str | None]] = [(images, {}, "generated", None)]
    if mask is not None:
        rows.append((mask, {"cmap": "gray", "vmin": 0, "vmax": 1}, "mask", "probability"))
    if classes is not None:
        present = np.unique(classes[:shown])
        colours = class_colors(len(present))[..., :3]
        rows.append((colours[np.searchsorted(present, classes[:shown])], {"interpolation": "nearest"}, "classes", None))
    if depth is not None:
        bounds = {"vmin": depth[:shown].min(), "vmax": depth[:shown].max()}
        rows.append((depth, bounds, "depth", "relative depth"))
    cell = (PAGE - left - right) / shown - gap
    height = len(rows) * (cell + gap) + 0.06
    with style.paper():
        figure = style.canvas(PAGE, height)
        for row, (arrays, look, name, unit) in enumerate(rows):
            bottom = height - 0.05 - cell - row * (cell + gap)
            for k in range(shown):
                axes = style.place(figure, left + k * (cell + gap), bottom, cell, cell)
                image = axes.imshow(arrays[k], **look)
                if k == 0:
                    axes.set_ylabel(name, labelpad=3)
            if unit:
                style.colorbar(figure, image, style.place(figure, PAGE - right, bottom, 0.08, cell), unit, ticks=2)
        return style.write(figure, stem)


def rows_of_images(rows: Mapping[str, np.ndarray], stem: Path, *, columns: int = 12) -> list[Path]:
    """One row of images [k, H, W, 3] uint8 for each name, printed at its left; column by column they belong together."""
    shown, gap = min([columns, *map(len, rows.values())]), 0.03
    left = 0.06 * max(len(line) for name in rows for line in name.split("\n")) + 0.08
    cell = (PAGE - left) / shown - gap
    height = len(rows) * (cell + gap)
    with style.paper():
        figure = style.canvas(PAGE, height)
        for row, (name, images) in enumerate(rows.items()):
            bottom = height - (row + 1) * (cell + gap) + gap / 2
            figure.text(0.02 / PAGE, (bottom + cell / 2) / height, name, ha="left", va="center", fontsize=7)
            for k in range(shown):
                style.place(figure, left + k * (cell + gap), bottom, cell, cell).imshow(images[k])
        return style.write(figure, stem)
