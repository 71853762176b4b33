import math
from dataclasses import replace

import pytest
from table_parts import COMMON, EXTRACTOR, PAIR, SHEETS, result, row, seeded, sheet

from reals.report.tables.build import build
from reals.report.tables.model import Change, Mean


def test_published_change_of_table_3_is_the_papers():
    table = build(SHEETS["table03"], {}, COMMON)
    changes = [row.change.published for row in table.rows if row.change and row.change.published is not None]
    assert changes == pytest.approx([-18.92, -16.58, -12.82, -17.21], abs=0.005)
    assert (table.mean.pairs, table.mean.measured, table.mean.measured_pairs) == (4, None, 0)
    assert table.mean.published == pytest.approx(-16.4, abs=0.05)


def test_table_4_compares_the_two_pairs_with_guidance_1_5():
    mean = build(SHEETS["table04"], {}, COMMON).mean
    assert mean.pairs == 2
    assert mean.published == pytest.approx(100 * ((19.44 / 22.21 - 1) + (8.39 / 9.3 - 1)) / 2)


def test_all_fourteen_tables_build_and_their_drafts_repeat_them():
    assert list(SHEETS) == [*(f"table{n:02d}" for n in range(1, 15)), "rivals"]
    for name in SHEETS:
        build(SHEETS[name], {}, COMMON)
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
    table = build(PAIR, results, COMMON)
    a, b, c, paper = table.rows
    assert [cell.status for cell in a.cells] == ["measured", "measured"]
    assert [cell.status for cell in b.cells] == ["measured", "missing"]
    assert [cell.status for cell in paper.cells] == ["literature", "literature"]
    assert paper.literature
    assert a.cells[0].provenance["id"] == "run-a-0123456789abcdef"
    assert b.change == Change(-25.0, 25.0)
    assert c.change == Change(None, -50.0)
    assert a.change is None
    assert table.mean == Mean(published=-25.0, pairs=1, measured=25.0, measured_pairs=1)
    assert table.notes == ("a note", "another")
    assert [r.note for r in table.rows] == [1, 2, 1, None]
    assert table.missing == ("evaluation run-b", "evaluation run-c")


def test_there_is_no_relative_change_against_a_baseline_of_zero():
    results = {("evaluation", "run-a"): result("run-a", fid=0.0), ("evaluation", "run-b"): result("run-b", fid=25.0)}
    _, b, *_ = build(PAIR, results, COMMON).rows
    assert b.change.measured is None


def test_a_seed_with_a_baseline_of_zero_is_left_out_of_the_change():
    results = {("evaluation", "run-a"): seeded("run-a", 0.0, 50.0), ("evaluation", "run-b"): seeded("run-b", 20.0, 25.0)}
    _, b, *_ = build(PAIR, results, COMMON).rows
    assert (b.change.measured, b.change.deviation) == (-50.0, None)


def test_the_change_is_of_the_seeds_that_both_have_if_it_is_one():
    results = {
        ("evaluation", "run-a"): seeded("run-a", 40.0, 60.0, 80.0),
        ("evaluation", "run-b"): seeded("run-b", 30.0),
        ("evaluation", "run-c"): seeded("run-c", 30.0, 45.0, first=2),
    }
    _, b, c, _ = build(PAIR, results, COMMON).rows
    assert (b.change.measured, b.change.deviation) == (-25.0, None)
    assert (c.change.measured, c.change.deviation) == (pytest.approx(100 * (30 / 80 - 1)), None)
    results["evaluation", "run-c"] = seeded("run-c", 30.0, 45.0, first=7)  # none in common: of the means
    assert build(PAIR, results, COMMON).rows[2].change.measured == pytest.approx(100 * (37.5 / 60 - 1))


def test_a_seed_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="fid is nan"):
        build(PAIR, {("evaluation", "run-a"): seeded("run-a", 40.0, math.nan)}, COMMON)


def test_each_metric_knows_whose_features_it_is_of():
    sheet = replace(SHEETS["table08"], metrics=("rfid", "psnr"))
    assert [group.extractor for group in build(sheet, {}, COMMON).groups] == [EXTRACTOR, None]


def test_the_change_stands_beside_the_fid_that_it_is_of():
    titles = [heading.title for heading in build(PAIR, {}, COMMON).headings]
    assert titles == ["FID ↓", "ΔFID (%)", "IS ↑"]
    assert [heading.title for heading in build(replace(PAIR, compare=False), {}, COMMON).headings] == ["FID ↓", "IS ↑"]


def test_mixing_extractors_or_printing_nan_is_refused():
    other = result("run-a", fid=1.0)
    other["protocol"] = {"feature extractor": "another"}
    with pytest.raises(ValueError, match="measured with 'another', the table is of 'digits-cnn'"):
        build(PAIR, {("evaluation", "run-a"): other}, COMMON)
    with pytest.raises(ValueError, match="fid is nan"):
        build(PAIR, {("evaluation", "run-a"): result("run-a", fid=float("nan"))}, COMMON)
    with pytest.raises(ValueError, match="extractor is None"):
        build(PAIR, {}, replace(COMMON, extractor=None))
    odd = replace(PAIR, metrics=("fjd",), rows=(replace(PAIR.rows[0], published={"fjd": None}),), compare=False)
    with pytest.raises(ValueError, match="unknown metric 'fjd'"):
        build(odd, {}, COMMON)


def test_settings_are_printed_as_used():
    settings = {"autoencoder": {"lr": "1e-3", "batch": "64"}}
    table = build(SHEETS["table01"], {}, replace(COMMON, settings=settings, extractor=None))
    lr = [g.metric for g in table.groups].index("lr")
    assert (table.rows[0].cells[lr].published, table.rows[0].cells[lr].measured) == ("5e-5", "1e-3")
    assert table.rows[1].cells[lr].status == "missing"
    assert {group.ours for group in table.groups} == {"used"}


def test_a_table_of_samples_shows_metrics_of_the_autoencoder_behind_them():
    both = replace(
        sheet(replace(row("a", "run-a"), autoencoder="vae", published={"psnr": "20.1", "fid": None})), metrics=("psnr", "fid")
    )
    results = {("evaluation", "run-a"): result("run-a", fid=20.0, psnr=1.0)}
    half = build(both, results, COMMON)
    assert half.missing == ("autoencoder vae",) and [cell.status for cell in half.rows[0].cells] == ["missing", "measured"]
    whole = build(
        replace(both, printed={"psnr": "dB"}), results | {("autoencoder", "vae"): result("vae", "autoencoder", psnr=25.0)}, COMMON
    )
    assert [cell.measured for cell in whole.rows[0].cells] == [25.0, 20.0] and whole.missing == ()
    assert [group.heading for group in whole.groups] == ["dB ↑", "FID ↓"]
    assert whole.rows[0].cells[0].provenance["kind"] == "autoencoder"


def test_above_a_table_of_both_each_kind_says_its_own_where_they_differ():
    both = replace(
        sheet(replace(row("a", "run-a"), autoencoder="vae", published={"psnr": None, "fid": None})), metrics=("psnr", "fid")
    )
    drawn, reconstructed = result("run-a", fid=20.0), result("vae", "autoencoder", psnr=25.0)
    drawn["protocol"] |= {"training steps": 400, "sampler": "SDE"}
    reconstructed["protocol"] |= {"training steps": 200}
    table = build(both, {("evaluation", "run-a"): drawn, ("autoencoder", "vae"): reconstructed}, COMMON)
    assert table.protocol == {
        "feature extractor": EXTRACTOR,
        "training steps": "200 (autoencoder); 400 (evaluation)",
        "sampler": "SDE",
    }


def test_another_judge_is_refused_and_copies_of_one_are_named():
    of = sheet(
        *(replace(row(k, f"run-{k}"), published={"fid": None, "fid_second": None}) for k in "ab"), metrics=("fid", "fid_second")
    )
    two = replace(COMMON, judges={"fid_second": "deep"})
    found = {("evaluation", f"run-{k}"): result(f"run-{k}", fid=3.0, fid_second=4.0) for k in "ab"}
    for key, one in found.items():
        one["protocol"] |= {"second extractor": "deep"}
        one["provenance"] |= {"extractor_sha256": "same", "second_extractor_sha256": key[1]}
    assert any("2 copies of one feature extractor" in line for line in build(of, found, two).remarks)
    found["evaluation", "run-b"]["provenance"]["second_extractor_sha256"] = "run-a"
    assert build(of, found, two).remarks == of.remarks
    found["evaluation", "run-b"]["protocol"]["second extractor"] = "wide"
    with pytest.raises(ValueError, match="fid_second was measured with 'wide', the table is of 'deep'"):
        build(of, found, two)
