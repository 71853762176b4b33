"""The paper's figures and our own, drawn from arrays and written as PDF and PNG."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path
from typing import Literal

import matplotlib
import networkx
import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Bezier
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, ScalarFormatter
from scipy.optimize import isotonic_regression

from reals.files import write_atomically

COLUMN, PAGE = 3.25, 6.75  # inches; ICML's column and text width
CLASS_COLORS = matplotlib.colormaps["viridis"]


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


@dataclass(frozen=True)
class WeightPoint:
    """One point of Figure 5; ``fids`` (one a seed) is empty and ``latent_std`` None while not measured."""

    lambda_k: float
    fids: Sequence[float]
    latent_std: float | None


@dataclass(frozen=True)
class Milestone:
    """One measured checkpoint of a run: its step, and the FID of each seed."""

    step: int
    fids: Sequence[float]


@dataclass(frozen=True)
class Guided:
    """One measured evaluation of a checkpoint: guidance scale, if it acts in an interval only, FID and recall of each seed."""

    scale: float
    interval: bool
    fids: Sequence[float]
    recalls: Sequence[float]


@dataclass(frozen=True)
class Curve:
    """A logged quantity: steps [n] and values [n]."""

    steps: Sequence[float]
    values: Sequence[float]


def figure1(
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
    with _style():
        gap, below, cell = 0.05, 0.36 if scores else 0.22, 0.62
        height = shown * cell + (shown - 1) * gap + below
        maps_left = PAGE - 0.55 - (1 + len(names)) * (cell + gap)
        side = min(height - below, maps_left / len(names) - 0.1)
        figure = _canvas(PAGE, height)
        for i, (name, arrays) in enumerate(autoencoders.items()):
            axes = _place(figure, i * (side + 0.1), below + (height - below - side) / 2, side, side)
            tint = CLASS_COLORS(np.searchsorted(classes, arrays.labels) / max(1, len(classes) - 1))
            axes.scatter(*arrays.tsne.T, c=tint, s=2.5, linewidths=0, rasterized=True)
            said = ", ".join(f"{score} {value:.2f}" for score, value in (scores or {}).get(name, {}).items())
            axes.set_xlabel(f"{name}, t-SNE" + (f"\n{said}" if said else ""), labelpad=3)
        low = min(a.maps[:shown].min() for a in autoencoders.values())
        for k in range(shown):
            bottom = height - (k + 1) * cell - k * gap
            lefts = [maps_left + j * (cell + gap) for j in range(1 + len(names))]
            row = [_place(figure, left, bottom, cell, cell) for left in lefts]
            row[0].imshow(first.images[k])
            y, x = (first.anchors[k] + 0.5) * np.divide(first.images.shape[1:3], first.maps.shape[1:3]) - 0.5
            row[0].plot(x, y, "+", color="#D55E00", ms=6, mew=1.4)
            for axes, arrays in zip(row[1:], autoencoders.values(), strict=True):
                image = axes.imshow(arrays.maps[k], vmin=low, vmax=1)
        for axes, name in zip(row, ["image", *names], strict=True):
            axes.set_xlabel(name, labelpad=3)
        bar = _place(figure, PAGE - 0.52, below, 0.09, height - below)
        _colorbar(figure, image, bar, "cosine similarity to +", ticks=5)
        return _write(figure, stem)


def figure2(rulegraph: str, stem: Path) -> list[Path]:
    """The pipeline from the text of ``snakemake --rulegraph``: a box per rule, results flow downwards.

    Left out: the target rule (the last one, usually "all"), which everything leads to, and arrows that longer
    ways imply. Raises ValueError if the text holds no graph.
    """
    graph = read_rulegraph(rulegraph)
    targets = [node for node in graph if graph.out_degree(node) == 0]
    if len(targets) == 1 and len(graph) > 1:
        graph.remove_node(targets[0])
    labels = {node: graph.nodes[node]["label"].replace("_", " ") for node in graph}
    step, height, box = 0.5, 0.24, 0.2 + 0.052 * max(map(len, labels.values()))
    implied = set(graph.edges) - set(networkx.transitive_reduction(graph).edges)
    graph.remove_edges_from(implied)
    places, routes = layout(graph, width=PAGE, box=box)
    bottom = min(level for _, level in places.values()) * step
    with _style():
        figure = _canvas(PAGE, height + 0.1 - bottom)
        axes = _place(figure, 0, 0, PAGE, height + 0.1 - bottom)
        axes.set(xlim=(0, PAGE), ylim=(bottom - height / 2 - 0.05, height / 2 + 0.05))
        for route in routes:
            axes.add_patch(
                FancyArrowPatch(
                    path=_smooth([(x, level * step) for x, level in route], height / 2),
                    arrowstyle="-|>,head_length=2.6,head_width=1.3",
                    color="#666666", linewidth=0.7, shrinkA=0, shrinkB=0, zorder=1,
                )
            )  # fmt: skip
        for node, (x, level) in places.items():
            y = level * step
            axes.add_patch(
                FancyBboxPatch(
                    (x - box / 2, y - height / 2), box, height, boxstyle="round,pad=0,rounding_size=0.05",
                    facecolor="#EAF2F8", edgecolor="#0072B2", linewidth=0.7, zorder=3,
                )
            )  # fmt: skip
            axes.text(x, y, labels[node], ha="center", va="center_baseline", zorder=4)
        return _write(figure, stem)


def figure3(samples: np.ndarray, stem: Path, *, columns: int = 8) -> list[Path]:
    """A grid of samples [n, H, W, 3] uint8, row by row; the last row may be short."""
    columns = min(columns, len(samples))
    rows, gap = -(-len(samples) // columns), 0.03
    cell = (PAGE - (columns - 1) * gap) / columns
    height = rows * cell + (rows - 1) * gap
    with _style():
        figure = _canvas(PAGE, height)
        for k, sample in enumerate(samples):
            row, column = divmod(k, columns)
            _place(figure, column * (cell + gap), height - row * (cell + gap) - cell, cell, cell).imshow(sample)
        return _write(figure, stem)


def figure4(
    images: np.ndarray, stem: Path, *, mask: np.ndarray | None = None, classes: np.ndarray | None = None,
    depth: np.ndarray | None = None, columns: int = 8,
) -> list[Path]:  # fmt: skip
    """Generated images [k, H, W, 3] uint8 above what is given of masks [k, h, w] in 0..1, class numbers [k, h, w] (each class
    has its colour) and depths [k, h, w] (any unit)."""
    shown, gap, left, right = min(columns, len(images)), 0.04, 0.2, 0.5
    rows = [(images, {}, "generated", None)]
    if mask is not None:
        rows.append((mask, {"cmap": "gray", "vmin": 0, "vmax": 1}, "mask", "probability"))
    if classes is not None:
        present = np.unique(classes[:shown])
        colours = CLASS_COLORS(np.linspace(0, 1, len(present)))[..., :3]
        rows.append((colours[np.searchsorted(present, classes[:shown])], {"interpolation": "nearest"}, "classes", None))
    if depth is not None:
        bounds = {"vmin": depth[:shown].min(), "vmax": depth[:shown].max()}
        rows.append((depth, bounds, "depth", "relative depth"))
    cell = (PAGE - left - right) / shown - gap
    height = len(rows) * (cell + gap) + 0.06
    with _style():
        figure = _canvas(PAGE, height)
        for row, (arrays, look, name, unit) in enumerate(rows):
            bottom = height - 0.05 - cell - row * (cell + gap)
            for k in range(shown):
                axes = _place(figure, left + k * (cell + gap), bottom, cell, cell)
                image = axes.imshow(arrays[k], **look)
                if k == 0:
                    axes.set_ylabel(name, labelpad=3)
            if unit:
                _colorbar(figure, image, _place(figure, PAGE - right, bottom, 0.08, cell), unit, ticks=2)
        return _write(figure, stem)


def figure5(points: Sequence[WeightPoint], stem: Path, *, fid: str) -> list[Path]:
    """FID against the KL weight at even spacing; a point's area and label are the latents' std, its bar that of the FID over seeds.

    ``fid`` is the axis name with its feature extractor. Points not measured leave their place on the
    axis empty. Raises ValueError if the weights do not ascend.
    """
    weights = [point.lambda_k for point in points]
    if any(b <= a for a, b in pairwise(weights)):
        raise ValueError(f"figure 5: KL weights {weights} must ascend; order the evaluations in figures.yaml")
    measured = [(x, p) for x, p in enumerate(points) if p.fids]
    stds = [p.latent_std for _, p in measured if p.latent_std is not None]
    with _style():
        figure = Figure(figsize=(COLUMN, 2.3), layout="constrained")
        axes = figure.subplots()
        line, spread = _over_seeds([p.fids for _, p in measured])
        axes.plot([x for x, _ in measured], line, color="#9A9A9A", linewidth=0.8, zorder=1)
        for (x, point), y, bar in zip(measured, line, spread, strict=True):
            if bar:
                axes.errorbar(x, y, bar, color="#444444", linewidth=0.8, capsize=2, zorder=3)
            area = 60.0 if point.latent_std is None else 160 * point.latent_std / max(stds)
            axes.scatter(x, y, s=max(area, 8), color="#0072B2", edgecolors="white", linewidths=0.6, zorder=2)
            if point.latent_std is not None:
                offset = 3 + np.sqrt(max(area, 8)) / 2
                text = axes.annotate(
                    f"{point.latent_std:.2f}", (x, y + bar), (0, offset), textcoords="offset points",
                    ha="center", va="bottom", fontsize=7,
                )  # fmt: skip
                text.set_path_effects([withStroke(linewidth=2, foreground="white")])
        axes.set_xticks(range(len(points)), [_weight(w) for w in weights])
        axes.set_xlim(-0.5, len(points) - 0.5)
        axes.margins(y=0.22)
        axes.grid(axis="x", visible=False)
        axes.set_xlabel(r"KL weight $\lambda_k$ (evenly spaced; area and label: latent std)")
        axes.set_ylabel(fid)
        return _write(figure, stem)


def curves(panels: Mapping[str, Mapping[str, Curve]], stem: Path, *, y_scale: Literal["linear", "log"] = "linear") -> list[Path]:
    """Small multiples of training curves: panel name (the y axis label) -> line name -> curve.

    A line name keeps its colour and dash in every panel; one legend below serves all.
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    looks = dict(zip(names, _looks(len(names)), strict=True))
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = -(-len(panels) // columns)
    legend_columns = 4 if max(map(len, names), default=0) > 12 else 6
    legend_rows = -(-len(names) // legend_columns)
    with _style():
        width = PAGE if columns > 1 else COLUMN
        figure = Figure(figsize=(width, 1.6 * rows + 0.14 * legend_rows + 0.1), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, (panel, lines) in zip(grid.flat, panels.items(), strict=False):
            for name, curve in lines.items():
                axes.plot(curve.steps, curve.values, **looks[name], linewidth=1.0)
            axes.set_yscale(y_scale)
            axes.set_ylabel(panel)
            axes.set_xlabel("step")
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        handles = [Line2D([], [], **looks[name], linewidth=1.2) for name in names]
        figure.legend(handles, names, loc="outside lower center", ncols=min(legend_columns, len(names)))
        return _write(figure, stem)


def fid_over_steps(lines: Mapping[str, Sequence[Milestone]], stem: Path, *, fid: str) -> list[Path]:
    """FID along each run's training, on logarithmic axes; a band is one standard deviation over seeds to both sides."""
    with _style():
        figure = Figure(figsize=(COLUMN, 2.5 + 0.14 * -(-len(lines) // 2)), layout="constrained")
        axes = figure.subplots()
        for (name, points), look in zip(lines.items(), _looks(len(lines)), strict=True):
            mean, spread = _over_seeds([point.fids for point in points])
            steps = [point.step for point in points]
            axes.plot(steps, mean, marker="o", markersize=3, label=name, **look)
            if any(spread):
                axes.fill_between(steps, mean - spread, mean + spread, color=look["color"], alpha=0.2, linewidth=0)
        axes.set_xscale("log")
        axes.set_yscale("log")
        ticks = sorted({point.step for points in lines.values() for point in points})
        axes.set_xticks(ticks, [_thousands(step) for step in ticks])
        axes.minorticks_off()
        _few_ticks(axes)
        axes.set_xlabel("training step")
        axes.set_ylabel(fid)
        figure.legend(loc="outside lower center", ncols=2)
        return _write(figure, stem)


def guidance(lines: Mapping[str, Sequence[Guided]], stem: Path, *, fid: str, recall: str) -> list[Path]:
    """FID against the guidance scale, and the FID's price in recall; hollow points are guided in an interval only."""
    with _style():
        figure = Figure(figsize=(PAGE, 2.4 + 0.14 * -(-len(lines) // 3)), layout="constrained")
        left, right = figure.subplots(1, 2)
        for (name, points), look in zip(lines.items(), _looks(len(lines)), strict=True):
            points = sorted(points, key=lambda p: (p.interval, p.scale))
            fids, fid_spread = _over_seeds([p.fids for p in points])
            recalls, _ = _over_seeds([p.recalls for p in points])
            everywhere = [k for k, p in enumerate(points) if not p.interval]
            left.plot([points[k].scale for k in everywhere], fids[everywhere], label=name, **look)
            right.plot(recalls[everywhere], fids[everywhere], **look)
            for k, point in enumerate(points):
                face = "white" if point.interval else look["color"]
                mark = {"marker": "o", "markersize": 4, "markerfacecolor": face, "color": look["color"], "linestyle": "none"}
                left.errorbar(point.scale, fids[k], fid_spread[k] or None, elinewidth=0.8, capsize=2, **mark)
                right.plot(recalls[k], fids[k], **mark)
                right.annotate(f"{point.scale:g}", (recalls[k], fids[k]), (3, 3), textcoords="offset points", fontsize=6)
        left.set_xlabel("guidance scale")
        left.set_ylabel(fid)
        right.set_xlabel(f"{recall} (labels: guidance scale)")
        right.set_ylabel(fid)
        figure.legend(loc="outside lower center", ncols=3)
        return _write(figure, stem)


def rows_of_images(rows: Mapping[str, np.ndarray], stem: Path, *, columns: int = 12) -> list[Path]:
    """One row of images [k, H, W, 3] uint8 for each name, printed at its left; column by column they belong together."""
    shown, gap = min([columns, *map(len, rows.values())]), 0.03
    left = 0.06 * max(len(line) for name in rows for line in name.split("\n")) + 0.08
    cell = (PAGE - left) / shown - gap
    height = len(rows) * (cell + gap)
    with _style():
        figure = _canvas(PAGE, height)
        for row, (name, images) in enumerate(rows.items()):
            bottom = height - (row + 1) * (cell + gap) + gap / 2
            figure.text(0.02 / PAGE, (bottom + cell / 2) / height, name, ha="left", va="center", fontsize=7)
            for k in range(shown):
                _place(figure, left + k * (cell + gap), bottom, cell, cell).imshow(images[k])
        return _write(figure, stem)


def cost(stages: Mapping[str, tuple[float, float]], stem: Path) -> list[Path]:
    """Wall-clock and CPU seconds of each stage, summed over its jobs, as bars; the longest is on top."""
    order = sorted(stages, key=lambda stage: stages[stage][0])
    unit, seconds = ("hours", 3600) if max(stages[order[-1]]) >= 7200 else ("minutes", 60)
    with _style():
        figure = Figure(figsize=(COLUMN, 0.5 + 0.24 * len(order)), layout="constrained")
        axes = figure.subplots()
        for shift, part, label in ((0.18, 0, "wall clock"), (-0.18, 1, "CPU")):
            places = [k + shift for k in range(len(order))]
            axes.barh(places, [stages[stage][part] / seconds for stage in order], height=0.34, label=label)
        axes.set_yticks(range(len(order)), order)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"{unit}, summed over jobs")
        axes.legend(loc="lower right")
        return _write(figure, stem)


def _over_seeds(values: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (n - 1) of each; 0 where there is one seed."""
    spread = [np.std(v, ddof=1) if len(v) > 1 else 0.0 for v in values]
    return np.array([np.mean(v) for v in values]), np.array(spread)


def _looks(count: int) -> list[dict]:
    """Colour and dash of each line, told apart in grey too."""
    palette = [entry["color"] for entry in _prop_cycle()]
    dashes = ("-", "--", ":", "-.")
    return [{"color": palette[i % len(palette)], "linestyle": dashes[i // len(palette) % len(dashes)]} for i in range(count)]


def _few_ticks(axes) -> None:
    """Plain numbers on a logarithmic axis of less than a decade or two."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.yaxis.set_major_formatter(ScalarFormatter())


def _thousands(step: int) -> str:
    for unit, size in (("M", 1_000_000), ("K", 1000)):
        if step >= size:
            return f"{step / size:g}{unit}"
    return str(step)


def read_rulegraph(text: str) -> networkx.DiGraph:
    """The graph that ``snakemake --rulegraph`` prints as dot text; nodes carry a ``label``."""
    graph = networkx.DiGraph()
    for node, label in re.findall(r"^\s*(\w+)\s*\[\s*label\s*=\s*\"([^\"]*)\"", text, re.MULTILINE):
        graph.add_node(node, label=label.split("\\n")[0])
    for start, end in re.findall(r"^\s*(\w+)\s*->\s*(\w+)", text, re.MULTILINE):
        if start not in graph or end not in graph:
            raise ValueError(f"rule graph: edge {start} -> {end} names no rule; pass what snakemake --rulegraph prints")
        if start != end:  # a rule that continues its own results (milestones, fine-tuning)
            graph.add_edge(start, end)
    if not len(graph):
        raise ValueError("rule graph: no rules found; pass what snakemake --rulegraph prints")
    if not networkx.is_directed_acyclic_graph(graph):
        raise ValueError("rule graph: rules form a circle; pass what snakemake --rulegraph prints")
    return graph


def layout(
    graph: networkx.DiGraph, *, width: float, box: float, lane: float = 0.16, sweeps: int = 24
) -> tuple[dict[str, tuple[float, int]], list[list[tuple[float, int]]]]:
    """A layered drawing (Sugiyama's method): (x, level) of each node and the way of each edge.

    Levels fall from 0; every edge runs downwards and passes each level between its ends in a lane of its own,
    so no arrow crosses a box. Boxes keep ``box`` between centres plus a gap, all in 0..``width``; equal
    graphs give equal layouts. Raises ValueError if a level's boxes do not fit.
    """
    level = {}
    order = list(networkx.topological_sort(graph))
    for node in order:
        level[node] = max((level[p] for p in graph.predecessors(node)), default=-1) + 1
    for node in reversed(order):
        if graph.in_degree(node) == 0 and graph.out_degree(node):
            level[node] = min(level[s] for s in graph.successors(node)) - 1
    chains = []
    neighbours: dict = {node: ([], []) for node in graph}
    layers = [[n for n in order if level[n] == k] for k in range(max(level.values()) + 1)]
    for start, end in graph.edges:
        lanes = [(start, end, k) for k in range(level[start] + 1, level[end])]
        for at in lanes:
            layers[at[2]].append(at)
            neighbours[at] = ([], [])
        chains.append([start, *lanes, end])
        for above, below in pairwise(chains[-1]):
            neighbours[below][0].append(above)
            neighbours[above][1].append(below)
    half = {n: lane / 2 if isinstance(n, tuple) else box / 2 + 0.06 for n in neighbours}
    for k, layer in enumerate(layers):
        needed = sum(2 * half[n] for n in layer)
        if needed > width:
            raise ValueError(f"rule graph: level {k} needs {needed:.1f} in, the page has {width:.1f}; shorten rule names")
    x = {n: width * (i + 0.5) / len(layer) for layer in layers for i, n in enumerate(layer)}
    for sweep in range(sweeps):
        down = sweep % 2 == 0
        for layer in layers if down else reversed(layers):
            near = {n: neighbours[n][0 if down else 1] or neighbours[n][1 if down else 0] for n in layer}
            wish = {n: float(np.mean([x[m] for m in near[n]] or [x[n]])) for n in layer}
            layer.sort(key=wish.__getitem__)
            x.update(_spread(layer, wish, half, width))
    shift = (width - min(x[n] - half[n] for n in x) - max(x[n] + half[n] for n in x)) / 2
    x = {n: at + shift for n, at in x.items()}
    places = {node: (x[node], -level[node]) for node in graph}
    ways = [[(x[n], -level[n] if n in level else -n[2]) for n in chain] for chain in chains]
    return places, ways


def _spread(layer: list, wish: Mapping, half: Mapping, width: float) -> dict:
    """Places nearest to the wished ones (least squares) that keep the order, the distances and the page."""
    offsets = np.cumsum([0.0, *(half[a] + half[b] for a, b in pairwise(layer))])
    free = isotonic_regression([wish[n] for n in layer] - offsets).x
    free = np.clip(free, half[layer[0]], width - half[layer[-1]] - offsets[-1])
    return dict(zip(layer, (free + offsets).tolist(), strict=True))


def _smooth(points: list[tuple[float, float]], margin: float) -> Bezier:
    """From the lower edge of the first box to the upper edge of the last, upright where it passes a level."""
    (x0, y0), *_ = points
    vertices, codes = [(x0, y0 - margin)], [Bezier.MOVETO]
    for x, y in points[1:]:
        (xa, ya), yb = vertices[-1], y + margin
        bend = (ya - yb) / 2
        vertices += [(xa, ya - bend), (x, yb + bend), (x, yb), (x, y - margin)]
        codes += [Bezier.CURVE4] * 3 + [Bezier.LINETO]
    return Bezier(vertices[:-1], codes[:-1])


def _weight(value: float) -> str:
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    mantissa = mantissa.removesuffix(".0")
    power = rf"10^{{{int(exponent)}}}"
    return rf"${power}$" if mantissa == "1" else rf"${mantissa}{{\times}}{power}$"


def _canvas(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height))


def _place(figure: Figure, left: float, bottom: float, width: float, height: float):
    """Bare axes at a place given in inches."""
    across, up = figure.get_size_inches()
    axes = figure.add_axes((left / across, bottom / up, width / across, height / up), xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return axes


def _colorbar(figure: Figure, image, axes, label: str, *, ticks: int) -> None:
    bar = figure.colorbar(image, cax=axes)
    bar.ax.yaxis.set_major_locator(MaxNLocator(ticks))
    bar.set_label(label, labelpad=2)
    bar.outline.set_visible(False)


def _style():
    with as_file(files("reals.report") / "style.mplstyle") as path:
        return style.context(path)


def _prop_cycle():
    with _style():
        return list(matplotlib.rcParams["axes.prop_cycle"])


def _write(figure: Figure, stem: Path) -> list[Path]:
    """``stem``.pdf and ``stem``.png, without dates inside: equal input gives equal bytes."""
    paths = []
    for suffix, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):
        path = stem.with_name(f"{stem.name}.{suffix}")
        write_atomically(path, partial(figure.savefig, format=suffix, metadata=metadata))
        paths.append(path)
    return paths
