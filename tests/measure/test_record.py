"""The record of a measurement says what was done."""

from reals.measure.record import how

MEASURED = {"fid": 1.0, "is": 1.0, "precision": 1.0, "kid": 1.0}


def test_splits_neighbours_and_subsets_are_those_that_there_were():
    said = how(MEASURED, 12_000, 800, 3, 5000, 400)
    assert said == {
        "IS": "3 splits of 5000, the last of 2000, in file order",
        "precision and recall": "k = 3, 800 reference images against 12000 samples",
        "KID": "100 subsets of 400, cubic kernel",
    }
    assert how(MEASURED, 10_000, 800, 3, 5000, 400)["IS"] == "2 splits of 5000, in file order"
    assert how(MEASURED, 100, 800, 3, 5000, 50)["IS"] == "one split of 100, in file order"
    assert how({"fid": 1.0}, 100, 0, 3, 5000, 50) == {}  # what was not measured has no protocol
