import csv
import math
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from conftest import REPOSITORY
from hypothesis import given
from hypothesis import strategies as st

from reals.experiment.report_sheets import TableRow, TableSheet, read_tables
from reals.report import tables

CONFIG = REPOSITORY / "config"
SHEETS, _ = read_tables(CONFIG / "tables.yaml", CONFIG / "tables")
NETWORK = "digits-cnn"
COMMON = {
    "scale": "demo",
    "protocol": {"samples": "1000", "sampler": "SDE, 40 steps"},
    "network": NETWORK,
    "settings": {},
}


def result(name, kind="evaluation", **values):
    return {
        "kind": kind,
        "name": name,
        "id": f"{name}-0123456789abcdef",
        "values": values,
        "protocol": {"feature extractor": NETWORK},
        "provenance": {"checkpoint": {"step": 400}},
    }


def row(key, source, *, baseline=None, fid=None, note=None, section=None):
    return TableRow(key, section, {"model": f"model {key}"}, source, baseline, {"fid": fid, "is": None}, note)


def sheet(*rows, compare=True, metrics=("fid", "is")):
    return TableSheet("table03", "A title.", {"model": "Model"}, metrics, "evaluation", compare, rows)


PAIR = sheet(
    row("a", "run-a", fid="40.0", note="a note"),
    row("b", "run-b", baseline="a", fid="30.0", note="another"),
    row("c", "run-c", baseline="a", note="a note"),
    row("paper", "literature", fid="1.5"),
)


def test_published_change_of_table_3_is_the_papers():
    table = tables.build(SHEETS["table03"], {}, **COMMON)
    changes = [row.change.published for row in table.rows if row.change and row.change.published is not None]
    assert changes == pytest.approx([-18.92, -16.58, -12.82, -17.21], abs=0.005)
    assert (table.mean.pairs, table.mean.measured, table.mean.measured_pairs) == (4, None, 0)
    assert table.mean.published == pytest.approx(-16.4, abs=0.05)


def test_table_4_compares_the_two_pairs_with_guidance_1_5():
    mean = tables.build(SHEETS["table04"], {}, **COMMON).mean
    assert mean.pairs == 2
    assert mean.published == pytest.approx(100 * ((19.44 / 22.21 - 1) + (8.39 / 9.3 - 1)) / 2)


def test_all_fourteen_tables_build_and_their_drafts_repeat_them():
    assert list(SHEETS) == [f"table{n:02d}" for n in range(1, 15)]
    for name in SHEETS:
        tables.build(SHEETS[name], {}, **COMMON)
    assert SHEETS["table12"].rows == SHEETS["table05"].rows
    assert SHEETS["table13"].rows == SHEETS["table06"].rows


def test_the_paper_contradicts_itself_only_where_the_notes_say_so():
    values = {}
    for table in SHEETS.values():
        for line in table.rows:
            for metric, value in line.published.items():
                if line.source != "literature" and value is not None:
                    values.setdefault((table.source, line.source, metric), set()).add(value)
    assert {key: found for key, found in values.items() if len(found) > 1} == {
        ("evaluation", "sit-l2-reals_400K", "fid"): {"16.39", "16.48"}
    }
    for name in ("table03", "table10"):
        assert "16." in next(line.note for line in SHEETS[name].rows if line.key == "sit-l2-reals_400K")


def test_our_additions_publish_nothing_and_say_so():
    added = [r for s in SHEETS.values() for r in s.rows if r.note is not None and r.note.startswith("our addition")]
    assert len(added) == 3
    assert all(value is None for r in added for value in r.published.values())


def test_cells_changes_and_mean():
    results = {
        ("evaluation", "run-a"): result("run-a", fid=20.0, **{"is": 2.0}),
        ("evaluation", "run-b"): result("run-b", fid=25.0),
        ("evaluation", "run-c"): result("run-c", fid=10.0),
    }
    table = tables.build(PAIR, results, **COMMON)
    a, b, c, paper = table.rows
    assert [cell.status for cell in a.cells] == ["measured", "measured"]
    assert [cell.status for cell in b.cells] == ["measured", "missing"]
    assert [cell.status for cell in paper.cells] == ["literature", "literature"]
    assert paper.literature
    assert a.cells[0].provenance["id"] == "run-a-0123456789abcdef"
    assert b.change == tables.Change(-25.0, 25.0)
    assert c.change == tables.Change(None, -50.0)
    assert a.change is None
    assert table.mean == tables.Mean(published=-25.0, pairs=1, measured=25.0, measured_pairs=1)
    assert table.notes == ("a note", "another")
    assert [r.note for r in table.rows] == [1, 2, 1, None]
    assert table.missing == ("evaluation run-b", "evaluation run-c")


def test_there_is_no_relative_change_against_a_baseline_of_zero():
    results = {("evaluation", "run-a"): result("run-a", fid=0.0), ("evaluation", "run-b"): result("run-b", fid=25.0)}
    _, b, *_ = tables.build(PAIR, results, **COMMON).rows
    assert b.change.measured is None


def seeded(name, *fids, kind="evaluation", planned=3, first=0):
    """A result that is repeated with a seed for each FID."""
    repeats = [{"seed": k, "id": f"{name}-{k}", "values": {"fid": fid}} for k, fid in enumerate(fids, first)]
    return result(name, kind, fid=fids[0]) | {"planned": planned, "repeats": repeats}


def test_seeds_give_mean_deviation_and_a_change_seed_by_seed():
    results = {
        ("evaluation", "run-a"): seeded("run-a", 40.0, 50.0, 60.0),
        ("evaluation", "run-b"): seeded("run-b", 20.0, 20.0, 27.0),
    }
    table = tables.build(PAIR, results, **COMMON)
    a, b, *_ = table.rows
    assert (a.cells[0].measured, a.cells[0].deviation) == (50.0, 10.0)
    assert tables.shown("fid", a.cells[0]) == "50.00 ± 10.00"
    each = [-50.0, -60.0, -55.0]
    assert b.change.measured == pytest.approx(sum(each) / 3)
    assert b.change.deviation == pytest.approx(5.0)
    assert "−55.0 ± 5.0" in tables.markdown(table)
    assert any("3 seeds" in line for line in table.legend)
    line = next(line for line in csv.DictReader(tables.comma_separated(table).splitlines()[8:]) if line["key"] == "a")
    assert (line["fid_measured"], line["fid_std"], line["fid_seeds"]) == ("50.0", "10.0", "3")


def test_a_table_of_one_seed_sets_the_first_beside_rows_that_have_no_other():
    results = {("evaluation", "run-a"): seeded("run-a", 40.0, 50.0, 60.0), ("evaluation", "run-b"): result("run-b", fid=30.0)}
    over, one = (tables.build(replace(PAIR, over_seeds=over), results, **COMMON) for over in (True, False))
    assert (over.rows[0].cells[0].measured, over.rows[1].change.measured) == (50.0, pytest.approx(-40.0))
    assert (one.rows[0].cells[0].measured, one.rows[1].change.measured) == (40.0, pytest.approx(-25.0))
    assert not any("±" in line for line in one.legend) and "fid_std" not in tables.comma_separated(one)


def test_a_single_seed_prints_no_deviation():
    alone = tables.build(PAIR, {("evaluation", "run-a"): seeded("run-a", 40.0)}, **COMMON)
    assert tables.shown("fid", alone.rows[0].cells[0]) == "40.00"
    assert not any("±" in line for line in alone.legend)
    assert "fid_std" not in tables.comma_separated(alone)


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        (([40.0, 50.0, 60.0], 3), ([20.0, 20.0], 3), "over 2 to 3 seeds (more are planned) of"),
        (([40.0, 50.0, 60.0], 3), ([20.0, 20.0], 2), "over 2 to 3 seeds of"),
        (([40.0, 50.0], 3), ([20.0, 20.0], 3), "over 2 seeds (more are planned) of"),
        (([40.0, 50.0, 60.0], 3), ([20.0], 3), "over 3 seeds (more are planned) of"),
        (([40.0, 50.0, 60.0], 3), ([20.0, 20.0, 21.0], 3), "over 3 seeds of"),
    ],
)
def test_the_footnote_counts_the_seeds_and_says_where_more_are_planned(a, b, says):
    found = {name: seeded(name, *fids, planned=planned) for name, (fids, planned) in (("run-a", a), ("run-b", b))}
    [line] = [s for s in tables.build(PAIR, {("evaluation", k): v for k, v in found.items()}, **COMMON).legend if "±" in s]
    assert says in line and line.endswith("ΔFID that of the changes seed by seed.")


def test_the_footnote_of_autoencoders_speaks_of_no_transformer():
    autoencoders = replace(sheet(row("a", "reals"), compare=False), source="autoencoder")
    table = tables.build(autoencoders, {("autoencoder", "reals"): seeded("reals", 1.0, 2.0, 3.0, kind="autoencoder")}, **COMMON)
    [line] = [line for line in table.legend if "±" in line]
    assert line == "±: standard deviation over 3 seeds of the autoencoder; the value is their mean."


def test_the_change_is_of_the_seeds_that_both_have_if_it_is_one():
    results = {
        ("evaluation", "run-a"): seeded("run-a", 40.0, 60.0, 80.0),
        ("evaluation", "run-b"): seeded("run-b", 30.0),
        ("evaluation", "run-c"): seeded("run-c", 30.0, 45.0, first=2),
    }
    _, b, c, _ = tables.build(PAIR, results, **COMMON).rows
    assert (b.change.measured, b.change.deviation) == (-25.0, None)
    assert (c.change.measured, c.change.deviation) == (pytest.approx(100 * (30 / 80 - 1)), None)
    results["evaluation", "run-c"] = seeded("run-c", 30.0, 45.0, first=7)  # none in common: of the means
    assert tables.build(PAIR, results, **COMMON).rows[2].change.measured == pytest.approx(100 * (37.5 / 60 - 1))


def test_a_seed_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="fid is nan"):
        tables.build(PAIR, {("evaluation", "run-a"): seeded("run-a", 40.0, math.nan)}, **COMMON)


def test_the_best_of_a_section_is_bold_and_ties_as_printed_are_both():
    rows = (
        row("a", "run-a", section="S"),
        row("b", "run-b", section="S"),
        row("c", "run-c", section="S"),
        row("d", "run-d", section="T"),
    )
    values = {"a": (20.001, 3.0), "b": (20.004, 5.0), "c": (21.0, 4.0), "d": (10.0, 9.0)}
    results = {("evaluation", f"run-{k}"): result(f"run-{k}", fid=fid, **{"is": score}) for k, (fid, score) in values.items()}
    table = tables.build(sheet(*rows, compare=False), results, **COMMON)
    assert {r.key: [cell.best for cell in r.cells] for r in table.rows} == {
        "a": [True, False], "b": [True, True], "c": [False, False], "d": [False, False],
    }  # fmt: skip
    assert "**20.00**" in tables.markdown(table)
    assert r"\textbf{5.00}" in tables.latex(table)
    assert "**" not in tables.comma_separated(table)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed (texlive-latex-extra)")
@pytest.mark.parametrize("name", SHEETS)
def test_latex_of_every_table_compiles(name, tmp_path):
    rows = {(SHEETS[name].source, r.source) for r in SHEETS[name].rows}
    results = {key: seeded(key[1], 20.0, 21.0, kind=key[0]) for key in rows if key[0] != "settings"}
    settings = {key: dict.fromkeys(SHEETS[name].metrics, "1e-4") for key in ("autoencoder", "transformer")}
    table = tables.latex(tables.build(SHEETS[name], results, **COMMON | {"settings": settings}))
    packages = r"\usepackage[T1]{fontenc}\usepackage{booktabs,adjustbox,xcolor}"
    document = tmp_path / "table.tex"
    document.write_text(rf"\documentclass[twocolumn]{{article}}{packages}\begin{{document}}" + "\n" + table + r"\end{document}")
    made = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", document.name], cwd=tmp_path, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stdout[-2000:]
    assert "Overfull" not in made.stdout


def test_columns_name_the_network_unless_it_is_adms():
    fid = tables.build(PAIR, {}, **COMMON).groups[0]
    assert (fid.name, fid.measured_name, fid.measured_as) == (
        "FID",
        "FID (digits-cnn)",
        "measured (digits-cnn)",
    )
    fid = tables.build(PAIR, {}, **COMMON | {"network": "inception-v3-compat"}).groups[0]
    assert (fid.measured_name, fid.measured_as) == ("FID", "measured")


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [("fid", 27.534, "27.53"), ("fid", 0.03124, "0.0312"), ("rfid", 0.0, "0.00"),
     ("precision", 0.5678, "0.57"), ("ssim", 0.7684, "0.768"), ("lr", "1e-3", "1e-3")],
)  # fmt: skip
def test_shown(metric, value, text):
    assert tables.shown(metric, tables.Cell(None, value, "measured")) == text


def test_mixing_extractors_or_printing_nan_is_refused():
    for key in ("feature extractor", "feature network"):  # the second in results made before that was the term
        other = result("run-a", fid=1.0)
        other["protocol"] = {key: "another"}
        with pytest.raises(ValueError, match="measured with 'another', the table is of 'digits-cnn'"):
            tables.build(PAIR, {("evaluation", "run-a"): other}, **COMMON)
    with pytest.raises(ValueError, match="fid is nan"):
        tables.build(PAIR, {("evaluation", "run-a"): result("run-a", fid=float("nan"))}, **COMMON)
    with pytest.raises(ValueError, match="network is None"):
        tables.build(PAIR, {}, **COMMON | {"network": None})
    odd = replace(PAIR, metrics=("fjd",), rows=(replace(PAIR.rows[0], published={"fjd": None}),), compare=False)
    with pytest.raises(ValueError, match="unknown metric 'fjd'"):
        tables.build(odd, {}, **COMMON)


def test_settings_are_printed_as_used():
    settings = {"autoencoder": {"lr": "1e-3", "batch": "64"}}
    table = tables.build(SHEETS["table01"], {}, **COMMON | {"settings": settings, "network": None})
    lr = [g.metric for g in table.groups].index("lr")
    assert (table.rows[0].cells[lr].published, table.rows[0].cells[lr].measured) == ("5e-5", "1e-3")
    assert table.rows[1].cells[lr].status == "missing"
    assert {group.ours for group in table.groups} == {"used"}


@pytest.mark.parametrize("name", list(SHEETS))
def test_every_format_of_every_table(name, tmp_path):
    values = {m: 1 / 3 for m in SHEETS[name].metrics}
    results = {(SHEETS[name].source, r.source): result(r.source, SHEETS[name].source, **values) for r in SHEETS[name].rows[::2]}
    paths = tables.render(SHEETS[name], results, folder=tmp_path / "tables", **COMMON)
    assert [p.name for p in paths] == [f"{name}.md", f"{name}.csv", f"{name}.tex"]
    markdown, comma, latex = (p.read_text() for p in paths)
    table = tables.build(SHEETS[name], results, **COMMON)
    assert all("not comparable" in text for text in (markdown, comma, latex))

    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert len(lines) == 2 + len(table.rows) + len({r.section for r in table.rows} - {None})

    data = list(csv.DictReader(line for line in comma.splitlines() if not line.startswith("#")))
    assert [line["key"] for line in data] == [r.key for r in table.rows]
    for line, r in zip(data, table.rows, strict=True):
        for group, cell in zip(table.groups, r.cells, strict=True):
            assert line[f"{group.metric}_measured"] == ("" if cell.measured is None else str(cell.measured))
            if group.published:
                assert line[f"{group.metric}_published"] == (cell.published or "")

    assert_sound_latex(latex)


def assert_sound_latex(text):
    """Balanced groups and environments, one cell per column in every row, no bare special character."""
    body = re.sub(r"(?m)^%.*$", "", text)
    assert body.count("{") - body.count(r"\{") == body.count("}") - body.count(r"\}")
    opened, closed = re.findall(r"\\begin\{(\S+?)\}", body), re.findall(r"\\end\{(\S+?)\}", body)
    assert sorted(opened) == sorted(closed)
    assert body.count("$") - body.count(r"\$") & 1 == 0
    columns = len(re.search(r"\\begin\{tabular\}\{([lr]+)\}", body)[1])
    rows = re.search(r"\\toprule\n(.*)\\bottomrule", body, re.DOTALL)[1]
    for line in rows.splitlines():
        if line.endswith(r"\\"):
            spans = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line))
            assert len(re.findall(r"(?<!\\)&", line)) + 1 + spans == columns
            assert not line.startswith(("[", "*"))
    assert not re.search(r"(?<!\\)[#_%]", body)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_latex_escapes_any_ascii(text):
    escaped = tables._tex(text)
    assert escaped.count("{") - escaped.count(r"\{") == escaped.count("}") - escaped.count(r"\}")
    bare = escaped.replace(r"\textbackslash{}", "").replace(r"\textasciitilde{}", "").replace(r"\textasciicircum{}", "")
    assert not re.search(r"(?<!\\)[#_%&~^]", bare)


def test_latex_refuses_a_character_without_a_spelling():
    assert tables._tex("Łukasz, 7×7, ≤ 3 %") == r"Łukasz, 7$\times$7, $\leq$ 3 \%"
    with pytest.raises(ValueError, match=r"U\+6570"):
        tables._tex("数字")


def test_paper_scale_carries_no_caveat():
    table = tables.build(PAIR, {}, **COMMON | {"scale": "paper"}, paper=True)
    assert table.caveat is None
    assert "comparable" not in tables.markdown(table)


def test_markdown_golden():
    table = tables.build(
        sheet(
            row("a", "run-a", fid="40.0"),
            row("b", "run-b", baseline="a", fid="30.0", note="x_y", section="S"),
        ),
        {("evaluation", "run-a"): result("run-a", fid=20.0, **{"is": 2.0})},
        **COMMON,
    )
    text = re.sub(r"-{3,}", "---", re.sub(r" {2,}", " ", tables.markdown(table)))
    assert text == (
        "# Table 3. A title.\n\n"
        "- scale: demo\n- samples: 1000\n- sampler: SDE, 40 steps\n\n"
        "**Measured at demo scale, not under the paper's protocol: measured figures are not comparable "
        "with published ones; compare measured figures with each other.**\n\n"
        "| Model | FID ↓ published | FID ↓ (digits-cnn) measured | IS ↑ (digits-cnn) measured "
        "| ΔFID published % | ΔFID measured % |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| model a | 40.0 | 20.00 | 2.00 | | |\n"
        "| **S** | | | | | |\n"
        "| model b¹ | 30.0 | … | … | −25.0 | |\n\n"
        "Mean ΔFID over the 1 pair the paper compares: published −25.0 %, measured ….\n\n"
        "- ¹ x\\_y.\n\n"
        "- Arrows point to better.\n"
        "- … not measured yet at this scale.\n"
        "- Labels (models, sizes, steps, epochs) are the paper's.\n"
    )
