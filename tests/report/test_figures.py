import re
import subprocess
import sys
import zlib
from itertools import combinations
from pathlib import Path

import networkx
import numpy as np
import pytest
from conftest import edit
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from reals.experiment import figure_list
from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.report import drawing, figures
from reals.report.figures import Curve, Guided, Latents, Milestone, WeightPoint

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
DPI = 250


def random_graph(seed, nodes=16, share=0.16):
    rng = np.random.default_rng(seed)
    graph = networkx.DiGraph()
    graph.add_nodes_from(map(str, range(nodes)))
    graph.add_edges_from((str(i), str(j)) for i, j in combinations(range(nodes), 2) if rng.random() < share)
    return graph


def width_in_inches(path):
    return imread(path).shape[1] / DPI


def test_rulegraph_is_read():
    graph = figures.read_rulegraph(DOT)
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
        figures.read_rulegraph(text)


@pytest.mark.parametrize("seed", range(12))
def test_layout_keeps_boxes_apart_and_arrows_off_them(seed):
    graph, box, width = random_graph(seed), 0.5, 12.0
    places, routes = figures.layout(graph, width=width, box=box)
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
    with pytest.raises(ValueError, match=r"level 0 needs .* in, the page has 3.0"):
        figures.layout(graph, width=3.0, box=1.0)


def test_figure2_does_not_depend_on_the_hash_seed(tmp_path):
    code = (
        "import sys; from pathlib import Path; from reals.report import figures;"
        "figures.figure2(Path(sys.argv[1]).read_text(), Path(sys.argv[2]))"
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


def test_figure1_marks_the_anchor_and_spans_the_page(tmp_path):
    latents = some_latents()
    paths = figures.figure1({"SD-VAE": latents, "ReaLS": latents}, tmp_path / "figure1", rows=2)
    assert [p.name for p in paths] == ["figure1.pdf", "figure1.png"]
    assert width_in_inches(paths[1]) == pytest.approx(6.75, abs=0.01)
    picture = imread(paths[1])[..., :3]
    anchor = np.abs(picture - to_rgb("#D55E00")).max(-1) < 0.02
    rows = np.flatnonzero(anchor.any(1))
    assert rows.size
    assert rows[0] < picture.shape[0] / 4


def test_figure1_refuses_different_images(tmp_path):
    one, other = some_latents(), some_latents()
    other.images[0, 0, 0] = 9
    with pytest.raises(ValueError, match="'ReaLS' and 'SD-VAE' differ in images or anchors"):
        figures.figure1({"SD-VAE": one, "ReaLS": other}, tmp_path / "figure1")


def some_latents():
    rng = np.random.default_rng(0)
    return Latents(
        tsne=rng.normal(size=(40, 2)).astype(np.float32),
        labels=rng.integers(0, 4, 40),
        images=np.zeros((3, 8, 8, 3), np.uint8),
        reconstructions=np.zeros((3, 8, 8, 3), np.uint8),
        maps=rng.uniform(-1, 1, (3, 4, 4)).astype(np.float32),
        anchors=np.array([[0, 0], [1, 2], [3, 3]]),
    )


def test_figure3_keeps_order_and_colour(tmp_path):
    tints = np.random.default_rng(0).integers(0, 200, (7, 3), dtype=np.uint8)
    samples = np.broadcast_to(tints[:, None, None], (7, 4, 4, 3))
    picture = np.round(255 * imread(figures.figure3(samples, tmp_path / "grid", columns=4)[1])).astype(int)
    height, width = picture.shape[:2]
    for k, tint in enumerate(tints):
        row, column = divmod(k, 4)
        centre = picture[int((row + 0.5) * height / 2), int((column + 0.5) * width / 4), :3]
        assert np.array_equal(centre, tint)
    assert (picture[int(0.75 * height), int(0.875 * width), :3] == 255).all()


def test_figure4_shows_masks_below_images(tmp_path):
    rng = np.random.default_rng(0)
    images = np.full((3, 8, 8, 3), 128, np.uint8)
    mask = np.stack([np.zeros((8, 8)), np.ones((8, 8)), np.zeros((8, 8))])
    picture = imread(figures.figure4(images, tmp_path / "figure4", mask=mask, depth=rng.random((3, 8, 8)))[1])
    left, cell = 0.2, (6.75 - 0.2 - 0.5) / 3
    centres = [int(DPI * (left + (k + 0.5) * cell)) for k in range(3)]
    middle = picture[picture.shape[0] // 2, centres, 0]
    assert middle == pytest.approx([0, 1, 0], abs=0.01)
    assert picture[picture.shape[0] // 6, centres, 0] == pytest.approx([128 / 255] * 3, abs=0.01)


def test_figure5_leaves_gaps_and_orders_weights(tmp_path):
    points = [WeightPoint(0, [30.0, 34.0], 4.0), WeightPoint(2e-5, [], None), WeightPoint(1e-4, [33.0], 0.8)]
    paths = figures.figure5(points, tmp_path / "figure5", fid="FID (digits-cnn)")
    assert width_in_inches(paths[1]) == pytest.approx(3.25, abs=0.01)
    figures.figure5([WeightPoint(0, [], None)], tmp_path / "empty", fid="FID")
    with pytest.raises(ValueError, match="must ascend"):
        figures.figure5(points[::-1], tmp_path / "figure5", fid="FID")


def test_scores_stand_below_the_tsne_they_belong_to(tmp_path):
    latents = {"SD-VAE": some_latents(), "ReaLS": some_latents()}
    plain = imread(figures.figure1(latents, tmp_path / "plain")[1])
    paths = figures.figure1(latents, tmp_path / "scored", scores={"ReaLS": {"k-NN": 0.25}})
    scored = imread(paths[1])
    assert scored.shape[0] - plain.shape[0] == pytest.approx(0.14 * DPI, abs=2)
    assert "k-NN 0.25" in text_of(paths[0])


def test_a_line_over_steps_has_a_band_where_there_are_seeds(tmp_path):
    one = {"SiT-B/2, sd-vae": [Milestone(1000, [50.0]), Milestone(4000, [30.0])]}
    three = {"SiT-B/2, sd-vae": [Milestone(1000, [40.0, 50.0, 60.0]), Milestone(4000, [29.0, 30.0, 31.0])]}
    tint = [0.2 * c + 0.8 for c in to_rgb("#0072B2")]

    def banded(lines, name) -> int:
        picture = imread(figures.fid_over_steps(lines, tmp_path / name, fid="FID")[1])[..., :3]
        return int((np.abs(picture - tint).max(-1) < 0.01).sum())

    assert banded(one, "one") < 200  # where the line fades into the page
    assert banded(three, "three") > 2000


def test_guidance_shows_scales_intervals_and_recall(tmp_path):
    points = [Guided(1, False, [30.0], [0.6]), Guided(1.5, False, [20.0, 22.0], [0.5, 0.52]), Guided(2, True, [18.0], [0.55])]
    paths = figures.guidance({"SiT-B/2, reals, 1M": points}, tmp_path / "g", fid="FID (x)", recall="Recall (x)")
    assert width_in_inches(paths[1]) == pytest.approx(6.75, abs=0.01)
    words = text_of(paths[0])
    assert "guidance scale" in words
    assert "Recall (x)" in words


def test_rows_of_images_keep_names_and_order(tmp_path):
    rows = {name: np.full((4, 8, 8, 3), shade, np.uint8) for name, shade in (("image", 40), ("sd-vae", 120), ("reals", 200))}
    picture = imread(figures.rows_of_images(rows, tmp_path / "rows", columns=3)[1])
    for k, shade in enumerate((40, 120, 200)):
        centre = picture[int((k + 0.5) * picture.shape[0] / 3), -60, 0]
        assert centre == pytest.approx(shade / 255, abs=0.01)


def test_cost_has_a_bar_for_each_stage_in_a_fitting_unit(tmp_path):
    assert "minutes" in text_of(figures.cost({"sample": (60, 90), "train": (600, 580)}, tmp_path / "small")[0])
    assert "hours" in text_of(figures.cost({"sample": (60, 90), "train": (36000, 36000)}, tmp_path / "large")[0])


def text_of(pdf) -> str:
    """The words of a figure, a line each: its fonts have two bytes a character and kerning between them."""
    lines = []
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", pdf.read_bytes(), re.DOTALL):
        try:
            commands = zlib.decompress(stream)
        except zlib.error:
            continue
        for array in re.findall(rb"\[([^\]]*)\]\s*TJ|(\([^)]*\))\s*Tj", commands):
            pieces = re.findall(rb"\(((?:\\.|[^\\()])*)\)", b"".join(array))
            lines.append(re.sub(rb"\\(.)", rb"\1", b"".join(pieces)).replace(b"\0", b"").decode("latin-1"))
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("value", "label"),
    [(0.0, "0"), (1e-4, "$10^{-4}$"), (2e-5, r"$2{\times}10^{-5}$"), (2.5e-6, r"$2.5{\times}10^{-6}$")],
)
def test_weight_labels(value, label):
    assert figures._weight(value) == label


def test_curves_and_equal_input_gives_equal_bytes(tmp_path):
    panels = {
        "DiT-B/2 loss": {"sd-vae": Curve([0, 10, 20], [1.0, 0.5, 0.4]), "reals": Curve([0, 10], [1.0, 0.6])},
        "SiT-B/2 loss": {f"run {i}": Curve([0, 10], [1.0, 0.1 * i]) for i in range(1, 12)},
    }
    first = [p.read_bytes() for p in figures.curves(panels, tmp_path / "a", y_scale="log")]
    again = [p.read_bytes() for p in figures.curves(panels, tmp_path / "b", y_scale="log")]
    assert first == again
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pdf", "a.png", "b.pdf", "b.png"]


def test_rows_that_differ_in_what_no_label_says_keep_a_line_each(project, monkeypatch, tmp_path):
    sheets = Path("config/sheets/cifar10")
    edit(
        sheets / "runs.tsv", "sit-b2-reals-fixed\tSiT-B/2\treals\tno\tlate", "sit-b2-reals-fixed\tSiT-B/2\treals\tno\tearly,late"
    )
    with (sheets / "evaluations.tsv").open("a") as sheet:
        sheet.write("fixed_early\tsit-b2-reals-fixed\tearly\tsde\t1\t-\t-\t-\tall\t-\n")
        sheet.write("fixed_guided\tsit-b2-reals-fixed\tlate\tsde\t1.5\t-\t-\tall\tall\t-\n")
    shown = ["fixed_early", "fixed_guided", "sit-b2-reals_late_sde-double", "sit-b2-reals-fixed_late"]
    edit(
        sheets / "figures.yaml",
        "    - sit-b2-sd-vae_early\n",
        "".join(f"    - {name}\n" for name in [*shown, "sit-b2-sd-vae_early"]),
    )
    registry = Registry(load("cifar10"))
    results = {("evaluation", name): {"values": {"fid": 9.0, "recall": 0.5}} for name in registry.evaluations}
    images = {"images": np.zeros((2, 4, 4, 3), np.uint8)}
    monkeypatch.setattr(drawing, "_of", lambda registry, artefact: images)
    found = {}
    for name in ("fid_over_steps", "guidance", "rows_of_images"):
        monkeypatch.setattr(drawing.figures, name, lambda lines, stem, name=name, **kwargs: found.update({name: lines}))
    for draw in ("fid_over_steps", "guidance", "checkpoints"):
        drawing.FIGURES[draw](registry, tmp_path / draw, results)
    assert {label for label in found["fid_over_steps"] if "reals" in label} == {
        "SiT-B/2, reals, sit-b2-reals", "SiT-B/2, reals, sit-b2-reals-fixed",
    }  # fmt: skip
    assert "SiT-B/2, sd-vae" in found["fid_over_steps"]  # alone with its label, which stays as it was
    assert {"SiT-B/2, reals, sit-b2-reals, late", "SiT-B/2, reals, sit-b2-reals-fixed, late"} <= set(found["guidance"])
    assert len(found["rows_of_images"]) == len(registry.experiment.figures.checkpoints["evaluations"])
    assert "SiT-B/2\nreals, late\nsit-b2-reals_late_sde-double" in found["rows_of_images"]


@pytest.mark.parametrize(("seeds", "shown"), [(["0,1", "-", "0,1", "0,1"], [9.0] * 4), (["0,1"] * 4, [10.0] * 4)])
def test_the_kl_sweep_is_over_seeds_only_where_all_its_points_are(seeds, shown, project, monkeypatch, tmp_path):
    sheet, names = (
        Path("config/sheets/cifar10/runs.tsv"),
        ("sit-b2-reals-kl0", "sit-b2-reals-kl5e-6", "sit-b2-reals", "sit-b2-reals-kl1e-4"),
    )
    lines = [line.split("\t") for line in sheet.read_text().splitlines()]
    for cells in lines:
        if cells[0] in names:
            cells[5] = seeds[names.index(cells[0])]
    sheet.write_text("".join("\t".join(cells) + "\n" for cells in lines))
    registry = Registry(load("cifar10"))
    both = [{"seed": seed, "id": str(seed), "values": {"fid": 9.0 + 2 * seed}} for seed in (0, 1)]
    results = {("evaluation", f"{name}_late"): {"values": {"fid": 9.0}} | ({"repeats": both} if of != "-" else {})
               for name, of in zip(names, seeds, strict=True)}  # fmt: skip
    results |= {("autoencoder", name): None for name in registry.autoencoders}
    points = []
    monkeypatch.setattr(drawing.figures, "figure5", lambda found, stem, fid: points.extend(found))
    drawing.FIGURES["figure5"](registry, tmp_path / "figure5", results)
    assert [sum(point.fids) / len(point.fids) for point in points] == shown
    repeats = [path for path in figure_list.inputs(registry, "figure5") if "_late-seed1-" in path.parent.name]
    assert len(repeats) == (4 if shown[0] == 10 else 0)
