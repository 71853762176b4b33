"""Temporary files, sockets and caches have a place, whatever TMPDIR and the home folder are like."""

import os
import socket
import tempfile
from pathlib import Path

import pytest

from reals.machine import scratch


@pytest.fixture
def temporary(monkeypatch):
    """Sets TMPDIR, as at the start of a process."""

    def set_to(folder: Path) -> None:
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.setattr(tempfile, "tempdir", None)

    yield set_to
    tempfile.tempdir = None


@pytest.fixture
def sealed(monkeypatch):
    """A folder that may not be written, also by root, who runs some tests."""

    def seal(folder: Path) -> Path:
        able = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: not Path(path).is_relative_to(folder) and able(path, mode))
        return folder

    return seal


def test_a_socket_has_a_short_path(temporary, tmp_path, monkeypatch):
    long = tmp_path / ("long" * 30)
    long.mkdir()
    temporary(long)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert scratch.for_socket() == Path("/tmp")
    with tempfile.TemporaryDirectory(prefix="reals-", dir=scratch.for_socket()) as folder, socket.socket(socket.AF_UNIX) as one:
        one.bind(f"{folder}/socket")
        assert len(f"{folder}/socket") - len(str(scratch.for_socket())) == len("/" + scratch.SOCKET)
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) == str(long))
    assert scratch.for_socket() is None


def test_a_temporary_folder_that_is_not_used_is_named(temporary, tmp_path):
    temporary(tmp_path)
    assert scratch.temporary_fault() is None
    temporary(tmp_path / "none")
    assert scratch.temporary_fault() == f"TMPDIR={tmp_path}/none is no folder; temporary files go to {tempfile.gettempdir()}"


def test_a_home_that_can_be_written_keeps_its_caches(tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path / "not" / "yet")}
    assert scratch.move_caches(environment) is None and list(environment) == ["XDG_CACHE_HOME"]


@pytest.mark.parametrize("home", ["read-only", "a file", "none"])
def test_caches_leave_a_home_that_cannot_be_written(temporary, tmp_path, sealed, monkeypatch, home):
    temporary(tmp_path / "tmp")
    (tmp_path / "tmp").mkdir()
    cache = {"read-only": sealed(tmp_path / "home"), "a file": Path("/dev/null"), "none": Path("~nobody-here")}[home] / ".cache"
    if home == "read-only":
        (cache / "torch").mkdir(parents=True)
    environment = {"XDG_CACHE_HOME": str(cache), "MPLCONFIGDIR": "mine"}
    said = scratch.move_caches(environment)
    instead = tmp_path / "tmp" / f"reals-{os.getuid()}" / "cache"
    assert said == f"{cache} cannot be written; caches go to {instead}, unless XDG_CACHE_HOME names another folder"
    assert environment["XDG_CACHE_HOME"] == str(instead) and instead.stat().st_mode & 0o077 == 0
    assert environment["MPLCONFIGDIR"] == "mine" and environment["TRITON_CACHE_DIR"] == str(instead / "triton")
    # Weights that are there are still found.
    assert environment.get("TORCH_HOME") == (str(cache / "torch") if home == "read-only" else None)
    assert scratch.move_caches(environment) is None  # who is started next finds all in place


def test_what_other_programs_left_in_the_environment_changes_no_number_and_stops_nothing(monkeypatch):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # a notebook's, which matplotlib refuses here
    said = scratch.settle()
    assert "ignored NVIDIA_TF32_OVERRIDE=0: the precision is the one that the scale or command states" in said
    assert "NVIDIA_TF32_OVERRIDE" not in os.environ and os.environ["MPLBACKEND"] == "agg"
    assert scratch.keep_precision({}) is None


def test_other_text_than_utf8_is_refused_in_one_line(monkeypatch):
    for name in ("UTF-8", "utf8"):
        scratch.refuse_other_text(name)
    monkeypatch.setattr(scratch.locale, "getpreferredencoding", lambda do_setlocale: "ISO-8859-1")
    with pytest.raises(ValueError, match="the locale's text is ISO-8859-1, that of the files here UTF-8; export PYTHONUTF8=1"):
        scratch.settle()


def test_nowhere_for_temporary_files_is_one_line(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", lambda *args: (_ for _ in ()).throw(FileNotFoundError("none")))
    with pytest.raises(ValueError, match="no folder for temporary files can be written; set TMPDIR to one"):
        scratch.move_caches({"XDG_CACHE_HOME": "/dev/null"})


def test_a_user_without_a_name_gets_one(monkeypatch):
    monkeypatch.setenv("USER", "me")
    scratch.name_user()
    assert os.environ["USER"] == "me"
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    scratch.name_user()
    assert os.environ["USER"] == "4000000000"


def test_a_cache_folder_of_another_user_is_not_used(temporary, tmp_path, monkeypatch):
    temporary(tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    environment = {"XDG_CACHE_HOME": "/dev/null"}
    scratch.move_caches(environment)
    assert Path(environment["XDG_CACHE_HOME"]).name.startswith("reals-cache-")


@pytest.mark.parametrize("there", ["nothing", "a folder for all", "a link", "a file"])
def test_the_folder_of_caches_is_its_user_s_alone(temporary, tmp_path, there):
    temporary(tmp_path)
    own = tmp_path / f"reals-{os.getuid()}"
    if there == "a folder for all":
        own.mkdir()
        own.chmod(0o777)
    elif there == "a link":
        (tmp_path / "others").mkdir()
        own.symlink_to(tmp_path / "others")
    elif there == "a file":
        own.touch()
    before = os.umask(0)
    try:
        found = scratch._own_folder()
    finally:
        os.umask(before)
    taken = there in ("a link", "a file")
    assert found.parent == (tmp_path if taken else own) and found.stat().st_mode & 0o077 == 0
    assert taken or own.stat().st_mode & 0o777 == 0o700
