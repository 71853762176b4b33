"""A process has the cores that its job was given, shared among the processes of the job."""

import os

import pytest
from forks import numbered

from reals.machine.cores import cores


@pytest.mark.parametrize(
    ("allowed", "given", "processes", "expected"),
    [(32, None, None, 32), (32, None, 8, 4), (32, "4", 8, 4), (32, "1", None, 1), (2, "16", None, 2), (2, None, 8, 1)],
)
def test_cores_are_those_given_and_no_more_than_there_are(allowed, given, processes, expected, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(allowed)))
    monkeypatch.delenv("REALS_THREADS", raising=False)
    for name, value in (({"REALS_THREADS": given} if given else {}) | numbered(0, processes or 1)).items():
        monkeypatch.setenv(name, value)
    assert cores() == expected
