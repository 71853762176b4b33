"""Files are whole or absent; folders say what they hold; locks exclude and let go."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from reals import __version__, files, tensors
from reals.measure.extractors import small_cnn
from reals.method.models import teacher
from reals.planning.preflight import weights


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"x": 1})

    def half(partial):
        partial.write_text("{")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=rf"{tmp_path}: no room for a.json .*run the same command again"):
        files.write_atomically(path, half)
    assert files.read_json(path) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_with_another_spec_is_refused(tmp_path):
    files.begin(tmp_path / "run", "run-1", {"lr": 1e-4, "betas": (0.9, 0.95)})
    files.begin(tmp_path / "run", "run-1", {"lr": 1e-4, "betas": [0.9, 0.95]})
    with pytest.raises(ValueError, match="describes another run-2"):
        files.begin(tmp_path / "run", "run-2", {"lr": 2e-4, "betas": (0.9, 0.95)})


def test_a_sealed_folder_notices_missing_and_cut_files(tmp_path):
    (tmp_path / "w.bin").write_bytes(b"12345678")
    files.seal(tmp_path, ["w.bin"], step=3)
    assert files.opened(tmp_path)["step"] == 3
    (tmp_path / "w.bin").write_bytes(b"1234")
    with pytest.raises(files.MissingArtefact, match=r"w\.bin: 4 bytes, 8 expected"):
        files.opened(tmp_path)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(files.MissingArtefact, match=r"w\.bin: missing"):
        files.opened(tmp_path)


def test_a_changed_byte_is_found_where_files_are_read_before_they_are_used(tmp_path):
    (tmp_path / "w.bin").write_bytes(b"12345678")
    files.seal(tmp_path, ["w.bin"])
    files.verified(tmp_path)
    (tmp_path / "w.bin").write_bytes(b"12345679")
    files.opened(tmp_path)
    with pytest.raises(files.MissingArtefact, match=r"w\.bin: damaged \(sha256 .*reals verify --remove"):
        files.verified(tmp_path)


@pytest.mark.process
def test_a_lock_excludes_names_its_holder_and_dies_with_it(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from reals import files\n"
        "with files.lock(Path(sys.argv[1]), 'run'): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=f"run is being written by .* pid {holder.pid}"), files.lock(tmp_path / "lock", "run"):
        pass
    threading.Timer(1.0, holder.kill).start()
    with files.lock(tmp_path / "lock", "run", wait_seconds=20):
        pass
    holder.wait()
    holder.stdout.close()


def test_files_have_the_mode_that_the_umask_gives_whoever_writes_them(tmp_path):
    from safetensors.torch import save_file

    before = os.umask(0o027)
    try:
        files.write_atomically(tmp_path / "a.safetensors", lambda partial: save_file({"a": torch.zeros(1)}, partial))
        files.write_text(tmp_path / "a.txt", "a")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}


def test_weights_that_may_not_be_read_are_not_called_missing(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # tests may run as root, who reads everything
    with pytest.raises(ValueError, match=r"model\.safetensors: you may not read it \(.*'s, -rw"):
        tensors.read(path)
    (tmp_path / "config.json").write_text("{}")
    into, folder = torch.nn.Identity(), path.parent
    for load in (
        lambda: teacher.load_weights(into, path),
        lambda: weights._opens(path),
        lambda: small_cnn.load_small_cnn(folder),
    ):
        with pytest.raises(ValueError, match="you may not read it"):
            load()
    monkeypatch.setattr(type(path), "owner", lambda path: {}["no such user"])  # as in many containers
    with pytest.raises(ValueError, match=r"model\.safetensors: you may not read it \(user \d+'s, -rw"):
        tensors.read(path)


@pytest.mark.process
def test_the_commit_is_known_in_a_clone_of_another_user(monkeypatch):
    """git trusts no other owner's repository unless told to; GIT_TEST_ASSUME_DIFFERENT_OWNER is git's own stand-in for one."""
    expected = files.code_version.__wrapped__()
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert files.code_version.__wrapped__() == expected


@pytest.mark.process
def test_the_commit_is_the_codes_own_whatever_lies_around_it_or_in_the_environment(tmp_path, monkeypatch):
    def git(folder, *arguments):
        said = ("-c", "user.name=x", "-c", "user.email=x@x", "-c", "init.defaultBranch=main")
        return subprocess.run(
            ["git", "-C", str(folder), *said, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    def version(folder):
        monkeypatch.setattr(files, "__file__", str(folder / "src/reals/files.py"))
        return files.code_version.__wrapped__()

    own, around, copy = tmp_path / "own", tmp_path / "around", tmp_path / "around/.venv"
    for folder in (own, copy):
        (folder / "src/reals").mkdir(parents=True)
        (folder / "src/reals/files.py").write_text("")
    (around / "notes").write_text("")
    assert version(own) == __version__  # unpacked from an archive
    for folder, tracked in ((own, "src"), (around, "notes")):
        git(folder, "init", "-q")
        git(folder, "add", tracked)
        git(folder, "commit", "-qm", "x")
    commit = git(own, "rev-parse", "--short=10", "HEAD")
    git(own, "worktree", "add", "-q", str(tmp_path / "tree"))
    monkeypatch.setenv("GIT_DIR", str(around / ".git"))  # as in a hook of another repository
    assert version(own) == version(tmp_path / "tree") == f"{__version__} ({commit})"
    assert version(copy) == __version__
    (own / "src/reals/files.py").write_text("changed")
    assert version(own) == f"{__version__} ({commit}+dirty)"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert version(own) == f"{__version__} (commit unknown)"


def test_damaged_json_says_what_makes_it_again(tmp_path):
    for name, remedy in (("index.json", "delete it and run `snakemake"), ("made/a.npy.json", "it is the record of a making")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        for content in (b'{"a', b'{"a": "\xff"}'):
            path.write_bytes(content)
            with pytest.raises(files.MissingArtefact, match=rf"damaged \(.*\); .*{remedy}"):
                files.read_json(path)
    with pytest.raises(files.MissingArtefact, match=r"damaged \(.*\); fetch it again$"):
        files.read_json(tmp_path / "index.json", "fetch it again")


@pytest.mark.parametrize("text", ["[]", "null", "3", '"made"', '{"files": {', "\xff\xfe", "[" * 100_000, ""])
def test_a_record_that_is_no_json_object_is_damaged(tmp_path, text):
    path = tmp_path / files.MANIFEST
    path.write_text(text, encoding="latin-1")
    with pytest.raises(files.MissingArtefact, match=f"{path}: damaged .*; delete it and run `snakemake"):
        files.read_json(path)


@pytest.mark.parametrize("content", [{}, {"files": []}, {"files": {"a": "b"}}, {"files": {"a": {"sha256": "b"}}}])
def test_a_manifest_that_does_not_say_its_files_is_damaged(tmp_path, content):
    files.write_json(tmp_path / files.MANIFEST, content)
    with pytest.raises(files.MissingArtefact, match=r"damaged .it does not list files"):
        files.opened(tmp_path)


def test_a_line_is_one_of_its_own_behind_half_a_line(tmp_path):
    book = tmp_path / "book.jsonl"
    files.append_line(book, {"n": 0})
    with book.open("a") as file:
        file.write('{"n": ')  # what a kill or a full disk leaves
    files.append_line(book, {"n": 1})
    files.append_line(book, {"n": 2})
    assert files.read_lines(book) == [{"n": 0}, {"n": 1}, {"n": 2}] and book.read_text().count("\n") == 4


def test_no_file_takes_the_place_of_a_device_or_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "link"):
        with pytest.raises(ValueError, match=f"{path}: is a device or a pipe.*give a file"):
            files.write_text(path, "x")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode) and (tmp_path / "link").is_symlink()
    for name in ("/dev/null", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):  # also where standard output is a file
        with pytest.raises(ValueError, match="is a device or a pipe"):
            files.refuse_special(Path(name))
