"""Figure 1: the latent spaces of autoencoders side by side."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reals.report.figures import style
from reals.report.figures.style import PAGE, class_colors
from reals.report.tables.wording import fixed


@dataclass(frozen=True)
class Latents:
    """What an autoencoder's analysis leaves behind (latents.npz).

    tsne [n, 2]; labels [n]; images and their reconstructions [k, H, W, 3] uint8; maps [k, h, w] cosine similarity of the
    anchor token to all tokens; anchors [k, 2] row and column of the anchor in the map.
    """

    tsne: np.ndarray
    labels: np.ndarray
    images: np.ndarray
    reconstructions: np.ndarray
    maps: np.ndarray
    anchors: np.ndarray


def draw(
    autoencoders: Mapping[str, Latents], stem: Path, *, scores: Mapping[str, Mapping[str, float]] | None = None, rows: int = 3
) -> list[Path]:
    """t-SNE of latents coloured by class, and similarity of one token to all, for each autoencoder.

    ``autoencoders`` maps printed names to arrays, the baseline first; all must show the same images and
    anchors (ValueError otherwise). ``scores`` are printed below a name's t-SNE. At most ``rows`` images are shown.
    """
    names = list(autoencoders)
    first = autoencoders[names[0]]
    for name in names[1:]:
        other = autoencoders[name]
        if not np.array_equal(first.images, other.images) or not np.array_equal(first.anchors, other.anchors):
            raise ValueError(f"figure 1: '{name}' and '{names[0]}' differ in images or anchors; redo one analysis")
    shown = min(rows, len(first.images))
    classes = np.unique(np.concatenate([a.labels for a in autoencoders.values()]))
    with style.paper():
        gap, below, cell = 0.05, 0.36 if scores else 0.22, 0.62
        height = shown * cell + (shown - 1) * gap + below
        maps_left = PAGE - 0.55 - (1 + len(names)) * (cell + gap)
        side = min(height - below, maps_left / len(names) - 0.1)
        figure = style.canvas(PAGE, height)
        for i, (name, arrays) in enumerate(autoencoders.items()):
            axes = style.place(figure, i * (side + 0.1), below + (height - below - side) / 2, side, side)
            tint = class_colors(len(classes))[np.searchsorted(classes, arrays.labels)]
            x, y = arrays.tsne.T
            axes.scatter(x, y, c=tint, s=2.5, linewidths=0, rasterized=True)
            said = ", ".join(f"{score} {fixed(value, 2)}" for score, value in (scores or {}).get(name, {}).items())
            axes.set_xlabel(f"{name}, t-SNE" + (f"\n{said}" if said else ""), labelpad=3)
        low = min(a.maps[:shown].min() for a in autoencoders.values())
        for k in range(shown):
            bottom = height - (k + 1) * cell - k * gap
            lefts = [maps_left + j * (cell + gap) for j in range(1 + len(names))]
            row = [style.place(figure, left, bottom, cell, cell) for left in lefts]
            row[0].imshow(first.images[k])
            y, x = (first.anchors[k] + 0.5) * np.divide(first.images.shape[1:3], first.maps.shape[1:3]) - 0.5
            row[0].plot(x, y, "+", color="#D55E00", ms=6, mew=1.4)
            for axes, arrays in zip(row[1:], autoencoders.values(), strict=True):
                image = axes.imshow(arrays.maps[k], vmin=low, vmax=1)
        for axes, name in zip(row, ["image", *names], strict=True):
            axes.set_xlabel(name, labelpad=3)
        bar = style.place(figure, PAGE - 0.52, below, 0.09, height - below)
        style.colorbar(figure, image, bar, "cosine similarity to +", ticks=5)
        return style.write(figure, stem)
