"""Figures of numbers: FID over KL weights (Figure 5), over training steps and over guidance; losses; the cost of stages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, ScalarFormatter

from reals.report.figures import style
from reals.report.figures.style import COLUMN, PAGE


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


def fid_over_kl_weights(points: Sequence[WeightPoint], stem: Path, *, fid: str) -> list[Path]:
    """FID against the KL weight at even spacing; a point's area and label are the latents' std, its bar that of the FID over seeds.

    ``fid`` is the axis name with its feature extractor. Points not measured leave their place on the
    axis empty. Raises ValueError if the weights do not ascend.
    """
    weights = [point.lambda_k for point in points]
    if any(b <= a for a, b in pairwise(weights)):
        raise ValueError(f"figure 5: KL weights {weights} must ascend; order the evaluations in figures.yaml")
    measured = [(x, p) for x, p in enumerate(points) if p.fids]
    stds = [p.latent_std for _, p in measured if p.latent_std is not None]
    with style.paper():
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
        return style.write(figure, stem)


def curves(panels: Mapping[str, Mapping[str, Curve]], stem: Path, *, y_scale: Literal["linear", "log"] = "linear") -> list[Path]:
    """Small multiples of training curves: panel name (the y axis label) -> line name -> curve.

    A line name keeps its colour and dash in every panel; one legend below serves all.
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    looks = dict(zip(names, style.looks(len(names)), strict=True))
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = -(-len(panels) // columns)
    legend_columns = 4 if max(map(len, names), default=0) > 12 else 6
    legend_rows = -(-len(names) // legend_columns)
    with style.paper():
        width = PAGE if columns > 1 else COLUMN
        figure = Figure(figsize=(width, 1.6 * rows + 0.14 * legend_rows + 0.1), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, (panel, lines) in zip(grid.flat, panels.items(), strict=False):
            for name, curve in lines.items():
                look = looks[name]
                axes.plot(curve.steps, curve.values, color=look.color, linestyle=look.dash, linewidth=1.0)
            axes.set_yscale(y_scale)
            axes.set_ylabel(panel)
            axes.set_xlabel("step")
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        handles = [Line2D([], [], color=look.color, linestyle=look.dash, linewidth=1.2) for look in looks.values()]
        figure.legend(handles, names, loc="outside lower center", ncols=min(legend_columns, len(names)))
        return style.write(figure, stem)


def fid_over_steps(lines: Mapping[str, Sequence[Milestone]], stem: Path, *, fid: str) -> list[Path]:
    """FID along each run's training, on logarithmic axes; a band is one standard deviation over seeds to both sides."""
    with style.paper():
        figure = Figure(figsize=(COLUMN, 2.5 + 0.14 * -(-len(lines) // 2)), layout="constrained")
        axes = figure.subplots()
        for (name, points), look in zip(lines.items(), style.looks(len(lines)), strict=True):
            mean, spread = _over_seeds([point.fids for point in points])
            steps = [point.step for point in points]
            axes.plot(steps, mean, marker="o", markersize=3, label=name, color=look.color, linestyle=look.dash)
            if any(spread):
                axes.fill_between(steps, mean - spread, mean + spread, color=look.color, alpha=0.2, linewidth=0)
        axes.set_xscale("log")
        axes.set_yscale("log")
        ticks = sorted({point.step for points in lines.values() for point in points})
        axes.set_xticks(ticks, [_thousands(step) for step in ticks])
        axes.minorticks_off()
        _few_ticks(axes)
        axes.set_xlabel("training step")
        axes.set_ylabel(fid)
        figure.legend(loc="outside lower center", ncols=2)
        return style.write(figure, stem)


def guidance(lines: Mapping[str, Sequence[Guided]], stem: Path, *, fid: str, recall: str) -> list[Path]:
    """FID against the guidance scale, and the FID's price in recall; hollow points are guided in an interval only."""
    with style.paper():
        figure = Figure(figsize=(PAGE, 2.4 + 0.14 * -(-len(lines) // 3)), layout="constrained")
        left, right = figure.subplots(1, 2)
        for (name, points), look in zip(lines.items(), style.looks(len(lines)), strict=True):
            points = sorted(points, key=lambda p: (p.interval, p.scale))
            fids, fid_spread = _over_seeds([p.fids for p in points])
            recalls, _ = _over_seeds([p.recalls for p in points])
            everywhere = [k for k, p in enumerate(points) if not p.interval]
            left.plot([points[k].scale for k in everywhere], fids[everywhere], label=name, color=look.color, linestyle=look.dash)
            right.plot(recalls[everywhere], fids[everywhere], color=look.color, linestyle=look.dash)
            for k, point in enumerate(points):
                face, bar = "white" if point.interval else look.color, fid_spread[k] or None
                left.errorbar(
                    point.scale,
                    fids[k],
                    bar,
                    fmt="o",
                    markersize=4,
                    markerfacecolor=face,
                    color=look.color,
                    elinewidth=0.8,
                    capsize=2,
                )
                right.plot(recalls[k], fids[k], "o", markersize=4, markerfacecolor=face, color=look.color)
                right.annotate(f"{point.scale:g}", (recalls[k], fids[k]), (3, 3), textcoords="offset points", fontsize=6)
        left.set_xlabel("guidance scale")
        left.set_ylabel(fid)
        right.set_xlabel(f"{recall} (labels: guidance scale)")
        right.set_ylabel(fid)
        figure.legend(loc="outside lower center", ncols=3)
        return style.write(figure, stem)


def cost(stages: Mapping[str, tuple[float, float]], stem: Path) -> list[Path]:
    """Wall-clock and CPU seconds of each stage, summed over its jobs, as bars; the longest is on top."""
    order = sorted(stages, key=lambda stage: stages[stage][0])
    unit, seconds = ("hours", 3600) if max(stages[order[-1]]) >= 7200 else ("minutes", 60)
    with style.paper():
        figure = Figure(figsize=(COLUMN, 0.5 + 0.24 * len(order)), layout="constrained")
        axes = figure.subplots()
        for shift, part, label in ((0.18, 0, "wall clock"), (-0.18, 1, "CPU")):
            places = [k + shift for k in range(len(order))]
            axes.barh(places, [stages[stage][part] / seconds for stage in order], height=0.34, label=label)
        axes.set_yticks(range(len(order)), order)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"{unit}, summed over jobs")
        axes.legend(loc="lower right")
        return style.write(figure, stem)


def _over_seeds(values: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (n - 1) of each; 0 where there is one seed."""
    spread = [np.std(v, ddof=1) if len(v) > 1 else 0.0 for v in values]
    return np.array([np.mean(v) for v in values]), np.array(spread)


def _few_ticks(axes: Axes) -> None:
    """Plain numbers on a logarithmic axis of less than a decade or two."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.yaxis.set_major_formatter(ScalarFormatter())


def _thousands(step: int) -> str:
    for unit, size in (("M", 1_000_000), ("K", 1000)):
        if step >= size:
            return f"{step / size:g}{unit}"
    return str(step)


def _weight(value: float) -> str:
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    mantissa = mantissa.removesuffix(".0")
    power = rf"10^{{{int(exponent)}}}"
    return rf"${power}$" if mantissa == "1" else rf"${mantissa}{{\times}}{power}$"
