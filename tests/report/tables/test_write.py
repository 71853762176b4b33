import csv
import re
from dataclasses import replace

import pytest
from table_parts import COMMON, PAIR, SHEETS, result, row, seeded, sheet

from reals.report.tables.build import build
from reals.report.tables.comma_separated import comma_separated
from reals.report.tables.latex import latex
from reals.report.tables.markdown import markdown
from reals.report.tables.wording import caveat, legend, shown
from reals.report.tables.write import write


def test_seeds_give_mean_deviation_and_a_change_seed_by_seed():
    results = {
        ("evaluation", "run-a"): seeded("run-a", 40.0, 50.0, 60.0),
        ("evaluation", "run-b"): seeded("run-b", 20.0, 20.0, 27.0),
    }
    table = build(PAIR, results, COMMON)
    a, b, *_ = table.rows
    assert (a.cells[0].measured, a.cells[0].deviation) == (50.0, 10.0)
    assert shown("fid", a.cells[0]) == "50.00 ± 10.00"
    each = [-50.0, -60.0, -55.0]
    assert b.change.measured == pytest.approx(sum(each) / 3)
    assert b.change.deviation == pytest.approx(5.0)
    assert "−55.0 ± 5.0" in markdown(table)
    assert any("3 seeds" in line for line in legend(table))
    line = next(
        line
        for line in csv.DictReader(line for line in comma_separated(table).splitlines() if line[0] != "#")
        if line["key"] == "a"
    )
    assert (line["fid_measured"], line["fid_std"], line["fid_seeds"]) == ("50.0", "10.0", "3")


def test_a_table_of_one_seed_sets_the_first_beside_rows_that_have_no_other():
    results = {("evaluation", "run-a"): seeded("run-a", 40.0, 50.0, 60.0), ("evaluation", "run-b"): result("run-b", fid=30.0)}
    over, one = (build(replace(PAIR, over_seeds=over), results, COMMON) for over in (True, False))
    assert (over.rows[0].cells[0].measured, over.rows[1].change.measured) == (50.0, pytest.approx(-40.0))
    assert (one.rows[0].cells[0].measured, one.rows[1].change.measured) == (40.0, pytest.approx(-25.0))
    assert not any("±" in line for line in legend(one)) and "fid_std" not in comma_separated(one)


def test_the_best_of_a_section_is_bold_and_ties_as_printed_are_both():
    rows = (
        row("a", "run-a", section="S"),
        row("b", "run-b", section="S"),
        row("c", "run-c", section="S"),
        row("d", "run-d", section="T"),
    )
    values = {"a": (20.001, 3.0), "b": (20.004, 5.0), "c": (21.0, 4.0), "d": (10.0, 9.0)}
    results = {("evaluation", f"run-{k}"): result(f"run-{k}", fid=fid, **{"is": score}) for k, (fid, score) in values.items()}
    table = build(sheet(*rows, compare=False), results, COMMON)
    assert {r.key: [cell.best for cell in r.cells] for r in table.rows} == {
        "a": [True, False], "b": [True, True], "c": [False, False], "d": [False, False],
    }  # fmt: skip
    assert "**20.00**" in markdown(table)
    assert r"\textbf{5.00}" in latex(table)
    assert "**" not in comma_separated(table)


@pytest.mark.parametrize("name", list(SHEETS))
def test_every_format_of_every_table(name, tmp_path):
    values = {m: 1 / 3 for m in SHEETS[name].metrics}
    results = {(SHEETS[name].source, r.source): result(r.source, SHEETS[name].source, **values) for r in SHEETS[name].rows[::2]}
    table = build(SHEETS[name], results, COMMON)
    paths = write(table, tmp_path / "tables")
    assert [p.name for p in paths] == [f"{name}.md", f"{name}.csv", f"{name}.tex"]
    in_markdown, comma, in_latex = (p.read_text() for p in paths)
    assert all("not comparable" in text for text in (in_markdown, comma, in_latex))

    lines = [line for line in in_markdown.splitlines() if line.startswith("|")]
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

    assert_sound_latex(in_latex)


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


def test_paper_scale_carries_no_caveat():
    table = build(PAIR, {}, replace(COMMON, scale="paper", paper=True))
    assert caveat(table.conditions) is None
    assert "comparable" not in markdown(table)
