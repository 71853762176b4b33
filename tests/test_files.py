"""Files are whole or absent; folders say what they hold; locks exclude and let go."""

import subprocess
import sys
import threading

import pytest

from reals import files


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
