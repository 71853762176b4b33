"""What stands above a table is what was done."""

from table_parts import COMMON, PAIR, result, row, sheet

from reals.report.tables.build import build
from reals.report.tables.comma_separated import comma_separated
from reals.report.tables.latex import latex
from reals.report.tables.markdown import markdown
from reals.report.tables.stated import stated


def measured(name: str, **protocol: str | int) -> dict:
    return result(name, fid=20.0) | {"protocol": {"scale": "demo", "feature extractor": "digits-cnn"} | protocol}


def test_a_table_says_what_was_done_and_not_what_the_scale_asks_for():
    """The scale asks for 1000 samples; there were 980, and in one row 500."""
    run = "precision and recall"
    few, fewer = (measured(name, samples=n, **{run: f"{n // 10} images"}) for name, n in (("run-a", 980), ("run-b", 500)))
    one, both = (
        build(PAIR, {("evaluation", found["name"]): found for found in results}, COMMON) for results in ([few], [few, fewer])
    )
    for text in map(lambda write: write(one), (markdown, comma_separated, latex)):
        assert "samples: 980" in text and "precision and recall: 98 images" in text
        assert "1000" not in text and "planned" not in text
    assert "- samples: 980 (1 of 2); 500 (1 of 2)\n" in markdown(both)


def test_what_is_not_measured_is_planned():
    table = build(PAIR, {}, COMMON)
    assert "- samples: 1000 (planned)\n- sampler: SDE, 40 steps (planned)\n" in markdown(table)


def test_rows_that_are_not_shown_say_nothing():
    shown = sheet(row("a", "run-a"))
    results = {("evaluation", name): measured(name, samples=n) for name, n in (("run-a", 980), ("run-b", 500))}
    assert build(shown, results, COMMON).protocol["samples"] == "980"


def test_results_of_before_a_value_was_recorded_and_of_many_values():
    old, new = measured("old"), measured("new", samples=12_000)
    assert stated([old, new], {})["samples"] == "12,000 (1 of 2); not recorded (1 of 2)"
    assert "samples" not in stated([old], {})
    many = [measured(f"run-{k}", guidance=f"{k} on 3 channels") for k in range(5)]
    assert stated(many, {})["guidance"] == "5 values, by row"
