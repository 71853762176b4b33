"""Rates of devices: which stands in for which, and a table with a hole."""

from dataclasses import replace

import pytest

from reals.cli.main import main
from reals.experiment.reading import ConfigError
from reals.planning import rates

RATES = rates.Rates("a device", "fp32", "a test", 1e15, {kind: 1e15 for kind in rates.KINDS})


def test_a_size_that_was_not_measured_is_not_taken_for_a_teacher():
    measured = {"transformer B": 3e12, "sampling B": 2e12, "sampling teacher": 1e12}
    found = replace(RATES, by_kind=measured)
    assert found.rate("sampling XL") == 2e12 and found.rate("transformer XL") == 3e12 and found.rate("sampling teacher") == 1e12
    assert replace(RATES, by_kind={"sampling B": 2e12}).rate("sampling teacher") == 2e12
    with pytest.raises(ConfigError, match="none for 'sampling XL'; run `reals measure` again"):
        replace(RATES, by_kind={"sampling teacher": 1e12}).rate("sampling XL")


def test_a_table_of_rates_with_a_hole(project, capsys):
    path = project / "config/rates.yaml"
    path.write_text(path.read_text().replace("sampling: 120, ", ""))
    assert main(["plan", "--gpu", "a100", "--precision", "bf16"]) == 2
    assert "a100: bf16: needs a number of TFLOP/s for sampling" in capsys.readouterr().err
