import subprocess
import sys
from itertools import combinations

import networkx
import numpy as np
import pytest

from reals.report.figures import rule_graph

DOT = """digraph snakemake_dag {
    graph[bgcolor=white, margin=0];
    node[shape=box, style=rounded, fontname=sans, fontsize=10, penwidth=2];
    edge[penwidth=2, color=grey];
    0[label = "all", color = "0.13 0.6 0.85", style="rounded"];
    1[label = "tables", color = "0.33 0.6 0.85", style="rounded"];
    2[label = "evaluate", color = "0.53 0.6 0.85", style="rounded"];
    3[label = "dataset", color = "0.03 0.6 0.85", style="rounded"];
    4[label = "train_teacher", color = "0.23 0.6 0.85", style="rounded"];
    1 -> 0
    2 -> 0
    2 -> 1
    3 -> 2
    4 -> 2
    3 -> 4
}
"""


def random_graph(seed, nodes=16, share=0.16):
    rng = np.random.default_rng(seed)
    graph = networkx.DiGraph()
    graph.add_nodes_from(map(str, range(nodes)))
    graph.add_edges_from((str(i), str(j)) for i, j in combinations(range(nodes), 2) if rng.random() < share)
    return graph


def test_rulegraph_is_read():
    graph = rule_graph.read(DOT)
    names = {node: graph.nodes[node]["label"] for node in graph}
    assert {(names[a], names[b]) for a, b in graph.edges} == {
        ("tables", "all"), ("evaluate", "all"), ("evaluate", "tables"), ("dataset", "evaluate"),
        ("train_teacher", "evaluate"), ("dataset", "train_teacher"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [("nothing", "no rules found"), ('0[label = "a"]\n0 -> 7\n', "0 -> 7 names no rule"),
     ('0[label = "a"]\n1[label = "b"]\n0 -> 1\n1 -> 0\n', "circle")],
)  # fmt: skip
def test_a_bad_rulegraph_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        rule_graph.read(text)


@pytest.mark.parametrize("seed", range(12))
def test_layout_keeps_boxes_apart_and_arrows_off_them(seed):
    graph, box, width = random_graph(seed), 0.5, 12.0
    places, routes = rule_graph.layout(graph, width=width, box=box)
    assert set(places) == set(graph)
    assert len(routes) == graph.number_of_edges()
    for x, _ in places.values():
        assert box / 2 <= x <= width - box / 2
    for (xa, level_a), (xb, level_b) in combinations(places.values(), 2):
        assert level_a != level_b or abs(xa - xb) > box
    for (start, end), route in zip(graph.edges, routes, strict=True):
        assert (route[0], route[-1]) == (places[start], places[end])
        assert [level for _, level in route] == list(range(places[start][1], places[end][1] - 1, -1))
        for x, level in route[1:-1]:
            assert all(abs(x - at) > box / 2 for at, other in places.values() if other == level)


def test_layout_refuses_what_does_not_fit():
    graph = networkx.DiGraph()
    graph.add_nodes_from("abcdef")
    with pytest.raises(ValueError, match=r"boxes and arrows need .* in, the page has 3.0"):
        rule_graph.layout(graph, width=3.0, box=1.0)


@pytest.mark.process
def test_figure2_does_not_depend_on_the_hash_seed(tmp_path):
    code = (
        "import sys; from pathlib import Path; from reals.report.figures import rule_graph;"
        "rule_graph.draw(Path(sys.argv[1]).read_text(), Path(sys.argv[2]))"
    )
    names = [f"rule_{i}" for i in range(16)]
    graph = random_graph(3)
    dot = "".join(f'{i}[label = "{name}"]\n' for i, name in enumerate(names))
    dot += "".join(f"{a} -> {b}\n" for a, b in graph.edges)
    (tmp_path / "dot").write_text(dot)
    for seed in ("1", "2"):
        command = [sys.executable, "-c", code, str(tmp_path / "dot"), str(tmp_path / seed)]
        subprocess.run(command, check=True, env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed})
    for suffix in ("png", "pdf"):
        assert (tmp_path / f"1.{suffix}").read_bytes() == (tmp_path / f"2.{suffix}").read_bytes()
