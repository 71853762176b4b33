"""The look of all figures: the paper's widths, one style sheet, places in inches, and files that are equal for equal input."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reals.files import write_atomically

COLUMN, PAGE = 3.25, 6.75  # inches; ICML's column and text width
Dash = Literal["-", "--", ":", "-."]
DASHES: tuple[Dash, ...] = ("-", "--", ":", "-.")


def class_colors(count: int) -> np.ndarray:
    """A colour for each of ``count`` classes, RGBA [count, 4] in [0, 1]: told apart by hue, as far as there are hues (ten)."""
    if count <= 10:
        return matplotlib.colormaps["tab10"](np.arange(count))
    return matplotlib.colormaps["viridis"](np.linspace(0, 1, count))


def paper() -> AbstractContextManager[None]:
    """The style of all figures, to be drawn and written within, whatever the user's own matplotlibrc says."""
    with as_file(files("reals.report.figures") / "style.mplstyle") as path:
        return matplotlib.style.context(path, after_reset=True)


@dataclass(frozen=True)
class Look:
    """By what a line is told from the others of a figure."""

    color: str
    dash: Dash


def looks(count: int) -> list[Look]:
    """The look of each line, told apart in grey too."""
    with paper():
        palette = [entry["color"] for entry in matplotlib.rcParams["axes.prop_cycle"]]
    return [Look(palette[i % len(palette)], DASHES[i // len(palette) % len(DASHES)]) for i in range(count)]


def canvas(width: float, height: float) -> Figure:
    """An empty figure of a size given in inches."""
    return Figure(figsize=(width, height))


def place(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Bare axes at a place given in inches."""
    across, up = figure.get_size_inches()
    axes = figure.add_axes((left / across, bottom / up, width / across, height / up), xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return axes


def colorbar(figure: Figure, image: ScalarMappable, axes: Axes, label: str, *, ticks: int) -> None:
    """A bare colour bar that fills ``axes``, with at most ``ticks`` intervals."""
    bar = figure.colorbar(image, cax=axes)
    bar.ax.yaxis.set_major_locator(MaxNLocator(ticks))
    bar.set_label(label, labelpad=2)
    bar.outline.set_visible(False)


def write(figure: Figure, stem: Path) -> list[Path]:
    """``stem``.pdf and ``stem``.png, without dates inside: equal input gives equal bytes."""
    paths = []
    for suffix, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):
        path = stem.with_name(f"{stem.name}.{suffix}")
        write_atomically(path, partial(figure.savefig, format=suffix, metadata=metadata))
        paths.append(path)
    return paths
