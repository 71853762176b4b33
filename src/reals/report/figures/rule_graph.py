"""Figure 2: the rules of the workflow as a layered graph, from what ``snakemake --rulegraph`` prints."""

import re
from pathlib import Path

import networkx
from grandalf.graphs import Edge, Graph, Vertex
from grandalf.layouts import SugiyamaLayout, VertexViewer
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Bezier

from reals.report.figures import style
from reals.report.figures.style import PAGE

Place = tuple[float, int]
"""x in inches, and the level: 0 at the top, falling."""

STEP, HEIGHT = 0.5, 0.24  # inches, between levels and of a box
GAP, LANE = 0.12, 0.16  # inches, between boxes and for an arrow that passes a level
ROUNDS = 24  # of putting the nodes of each level in an order with fewer crossings


def draw(rulegraph: str, stem: Path) -> list[Path]:
    """The pipeline from the text of ``snakemake --rulegraph``: a box per rule, results flow downwards.

    Left out: the target rule (the last one, usually "all"), which everything leads to, and arrows that longer
    ways imply. Raises ValueError if the text holds no graph.
    """
    graph = read(rulegraph)
    targets = [node for node in graph if graph.out_degree(node) == 0]
    if len(targets) == 1 and len(graph) > 1:
        graph.remove_node(targets[0])
    graph.remove_edges_from(set(graph.edges) - set(networkx.transitive_reduction(graph).edges))
    labels = {node: graph.nodes[node]["label"].replace("_", " ") for node in graph}
    box = 0.2 + 0.052 * max(map(len, labels.values()))
    places, routes = layout(graph, width=PAGE, box=box)
    bottom = min(level for _, level in places.values()) * STEP
    with style.paper():
        figure = style.canvas(PAGE, HEIGHT + 0.1 - bottom)
        axes = style.place(figure, 0, 0, PAGE, HEIGHT + 0.1 - bottom)
        axes.set(xlim=(0, PAGE), ylim=(bottom - HEIGHT / 2 - 0.05, HEIGHT / 2 + 0.05))
        for route in routes:
            axes.add_patch(
                FancyArrowPatch(
                    path=_smooth([(x, level * STEP) for x, level in route], HEIGHT / 2),
                    arrowstyle="-|>,head_length=2.6,head_width=1.3",
                    color="#666666", linewidth=0.7, shrinkA=0, shrinkB=0, zorder=1,
                )
            )  # fmt: skip
        for node, (x, level) in places.items():
            y = level * STEP
            axes.add_patch(
                FancyBboxPatch(
                    (x - box / 2, y - HEIGHT / 2), box, HEIGHT, boxstyle="round,pad=0,rounding_size=0.05",
                    facecolor="#EAF2F8", edgecolor="#0072B2", linewidth=0.7, zorder=3,
                )
            )  # fmt: skip
            axes.text(x, y, labels[node], ha="center", va="center_baseline", zorder=4)
        return style.write(figure, stem)


def read(text: str) -> networkx.DiGraph:
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


class _Way:
    """Where grandalf leaves the points that an edge passes: (x, y) on each level from its start to its end."""

    def __init__(self) -> None:
        self.points: list[Place] = []

    def setpath(self, points: list[Place]) -> None:
        self.points = points


def layout(graph: networkx.DiGraph, *, width: float, box: float) -> tuple[dict[str, Place], list[list[Place]]]:
    """A layered drawing (Sugiyama's method): (x, level) of each node and the way of each edge.

    Levels fall from 0; every edge runs downwards and passes each level between its ends in a lane of its own,
    so no arrow crosses a box. Boxes keep ``box`` between centres plus a gap, all in 0..``width``; equal
    graphs give equal layouts. Raises ValueError if the boxes do not fit beside each other.
    """
    vertices = {node: Vertex(node) for node in graph}
    for vertex in vertices.values():
        vertex.view = VertexViewer(w=box, h=1)
    edges = {(start, end): Edge(vertices[start], vertices[end]) for start, end in graph.edges}
    for edge in edges.values():
        edge.view = _Way()
    places: dict[str, Place] = {}
    ways: dict[tuple[str, str], list[Place]] = {}
    right = 0.0  # of the connected parts so far, which stand beside each other
    for part in Graph(list(vertices.values()), list(edges.values())).C:
        sugiyama = SugiyamaLayout(part)
        sugiyama.xspace, sugiyama.dw = GAP, LANE - GAP
        sugiyama.yspace, sugiyama.dh = 0, 1  # y - 1/2 is the level
        sugiyama.init_all()
        sugiyama.draw(ROUNDS)
        across = [(v.view.xy[0], (v.view.w + GAP) / 2) for layer in sugiyama.layers for v in layer]
        shift = right - min(x - half for x, half in across)
        right = shift + max(x + half for x, half in across)
        places |= {v.data: (v.view.xy[0] + shift, -int(v.view.xy[1])) for v in part.V()}
        ways |= {(e.v[0].data, e.v[1].data): [(x + shift, -int(y)) for x, y in e.view.points] for e in part.E()}
    if right > width:
        raise ValueError(f"rule graph: boxes and arrows need {right:.1f} in, the page has {width:.1f}; shorten rule names")
    margin = (width - right) / 2
    centred = {node: (x + margin, level) for node, (x, level) in places.items()}
    return centred, [[(x + margin, level) for x, level in ways[edge]] for edge in edges]


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
