"""A local copy is whole or not taken: what is read is always what the manifest says."""

import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from reals import files
from reals.data.local_copy import local_copy


@pytest.fixture
def sealed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    made = tmp_path / "results" / "latents-0123456789"
    made.mkdir(parents=True)
    for k in range(3):
        np.save(made / f"moments_{k}.npy", np.full(50, k))
    files.seal(made, [f"moments_{k}.npy" for k in range(3)], id=made.name)
    return made


def test_a_copy_is_made_once_and_has_every_byte(sealed, monkeypatch):
    with ThreadPoolExecutor(4) as ranks:
        found = set(ranks.map(lambda rank: local_copy(sealed), range(4)))
    (copy,) = found
    assert copy != sealed and copy.name == sealed.name and files.verified(copy) == files.verified(sealed)
    monkeypatch.setattr(shutil, "copyfile", None)  # it is found, and not made again
    assert local_copy(sealed) == copy


def test_a_copy_that_a_kill_left_half_made_is_made_again(sealed):
    copy = local_copy(sealed)
    (copy / files.MANIFEST).unlink()
    (copy / "moments_1.npy").write_bytes(b"half")
    assert local_copy(sealed) == copy and files.verified(copy)


def test_another_making_of_the_same_id_is_another_copy(sealed):
    first = local_copy(sealed)
    np.save(sealed / "moments_0.npy", np.full(50, 7))
    files.seal(sealed, [f"moments_{k}.npy" for k in range(3)], id=sealed.name)
    assert local_copy(sealed) != first


def test_without_room_the_folder_itself_is_read(sealed, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 500, 500))
    assert local_copy(sealed) == sealed
    assert "read from where it is" in (said := capsys.readouterr().err) and "do not fit: 500 bytes free" in said


def test_what_the_disk_returns_wrongly_is_not_taken(sealed, monkeypatch, capsys):
    def damaged(source, target):
        target.write_bytes(source.read_bytes()[:-1] + b"x")

    monkeypatch.setattr(shutil, "copyfile", damaged)
    assert local_copy(sealed) == sealed
    assert "damaged on its way" in capsys.readouterr().err


def test_a_damaged_folder_is_refused_and_not_read_in_place_of_its_copy(sealed):
    damaged = sealed / "moments_1.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.raises(files.MissingArtefact, match=r"results/latents-0123456789/moments_1\.npy: damaged"):
        local_copy(sealed)


def test_a_scratch_that_cannot_be_written_is_no_error(sealed, tmp_path, capsys):
    (tmp_path / "scratch").write_text("a file")
    assert local_copy(sealed) == sealed
    assert "no copy" in capsys.readouterr().err


def test_a_folder_that_is_not_whole_is_refused(sealed):
    (sealed / "moments_2.npy").unlink()
    with pytest.raises(files.MissingArtefact, match="missing"):
        local_copy(sealed)
