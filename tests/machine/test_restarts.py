"""What a job on a node notes of its end, for the process that decides whether it is tried again."""

import pytest

from reals import files
from reals.cli import main, stage
from reals.experiment.reading import ConfigError
from reals.machine import dispatch, restarts
from reals.stages.transformer import NoState
from reals.training.finite import NotFinite
from reals.training.loop import Stopped


@pytest.mark.parametrize(
    ("error", "noted"),
    [
        (Stopped(), "stopped"),
        (NotFinite("loss is nan"), "hopeless"),
        (ConfigError("no such id"), "hopeless"),
        (files.Busy("another process writes there"), None),  # it may end
        (files.MissingArtefact("not yet visible on this node"), None),
        (NoState("a milestone is here, its training state is not"), "hopeless"),
        (OSError("a disk of this node"), None),
        (KeyboardInterrupt(), None),
    ],
)
def test_ends_that_decide_on_further_tries_are_noted(tmp_path, monkeypatch, error, noted):
    def run(options):
        raise error

    monkeypatch.setattr(stage, "run", run)
    monkeypatch.setattr(main, "_ours", lambda error: True)
    monkeypatch.setenv(dispatch.STARTS, str(tmp_path / "book"))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    main.main(["stage", "transformer", "x", "2"])
    assert restarts.how_it_ended(tmp_path / "book", "7") == noted
    assert restarts.started_again(tmp_path / "book", since=0) == []


def test_outside_of_our_jobs_and_on_a_full_disk_nothing_is_noted(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv(dispatch.STARTS, raising=False)
    restarts.note_end("hopeless")
    monkeypatch.setenv(dispatch.STARTS, str(tmp_path / "none" / "book"))
    restarts.note_end("hopeless")
    assert restarts.how_it_ended(tmp_path / "none" / "book", "7") is None


@pytest.mark.parametrize(
    "odd", [b"5", b"null", b"[7]", b'{"x": 1}', b'{"began": 9e9, "job": "7"}', b'{"job": "7", "beg', b"\0\xff\xfe"]
)
def test_odd_lines_of_the_book_are_passed_over(tmp_path, odd):
    """A full disk, a lost node or another version leave such lines, and snakemake goes on."""
    book = tmp_path / "book"
    start = b'{"began": 1.0, "job": "8", "node": "a", "command": ["stage", "data"]}'
    book.write_bytes(b"\n".join([odd, start, b'{"ended": 2.0, "job": "8", "how": "stopped"}', odd, b""]))
    assert restarts.how_it_ended(book, "8") == "stopped"
    assert restarts.how_it_ended(book, "7") is None
    assert restarts.started_again(book, since=0) == []
