"""A copy of what training reads at random, on the node's own disk."""

import fcntl
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from reals import files
from reals.data.cache import amount
from reals.machine.cores import cores

SPARE = 0.1  # of the free space is left to others


def local_copy(folder: Path) -> Path:
    """A copy of the sealed ``folder`` below the job's temporary folder (TMPDIR), or ``folder`` itself where there can be none.

    The copy has the files of the manifest, each of the size and sha256 that it states, and bears the folder's name. It is
    made once a node: other processes wait for it, later jobs find it. Where it does not fit or cannot be written, one line
    says so. MissingArtefact where ``folder`` is not whole, or a file of it that was to be copied is damaged.
    """
    manifest = files.opened(folder)
    where = Path(tempfile.gettempdir(), f"reals-{os.getuid()}", files.fingerprint(manifest)[:16])
    copy = where / folder.name
    try:
        where.mkdir(parents=True, exist_ok=True)
        with (where / f".{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel frees it, whatever becomes of its holder
            if not _whole(copy, manifest):
                _copy(folder, copy, manifest)
    except OSError as error:
        print(f"{folder} is read from where it is: no copy in {where} ({error})", file=sys.stderr, flush=True)
        return folder
    return copy


def _whole(copy: Path, manifest: dict) -> bool:
    try:
        return files.opened(copy) == manifest
    except files.MissingArtefact:
        return False


def _copy(folder: Path, copy: Path, manifest: dict) -> None:
    """Raises OSError where there is no room or the copy is not what was read, MissingArtefact where that is damaged itself."""
    shutil.rmtree(copy, ignore_errors=True)
    size, free = sum(facts["bytes"] for facts in manifest["files"].values()), shutil.disk_usage(copy.parent).free
    if size > (1 - SPARE) * free:
        raise OSError(f"{amount(size)} do not fit: {amount(free)} free")
    copy.mkdir()
    print(f"copying {folder} ({amount(size)}) to {copy}", file=sys.stderr, flush=True)

    def one(name: str) -> None:
        shutil.copyfile(folder / name, copy / name)
        digest = manifest["files"][name]["sha256"]
        if files.sha256(copy / name) != digest:
            files.refuse_damaged(folder / name, digest, folder / files.MANIFEST)
            raise OSError(f"{copy / name} was damaged on its way")

    try:
        with ThreadPoolExecutor(cores()) as pool:
            list(pool.map(one, manifest["files"]))
        files.write_json(copy / files.MANIFEST, manifest)  # last: with it the copy counts
    except BaseException:
        shutil.rmtree(copy, ignore_errors=True)
        raise
