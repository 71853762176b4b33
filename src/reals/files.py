"""Files that appear whole or not at all, checksums, manifests and locks."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from reals import __version__

MANIFEST = "index.json"
PUBLISHED = Path("results/published")  # numbers that travel with the repository, which no job makes
REPOSITORY = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
)  # fmt: skip
GIT_SECONDS = 10.0  # for git to look at every file of the checkout
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)  # None: numpy's "N requested and M written"


class MissingArtefact(ValueError):
    """A file another stage should have made is missing or damaged; the message names it and says how to remake it."""

    passing = True  # on a shared file system, whose other nodes' files may come late


class Busy(ValueError):
    """Another process writes there; the message names it."""

    passing = True


def refuse_unreadable(path: Path) -> None:
    """ValueError (one line) for a file that is there and not the reader's to read: safetensors would say that there is no such file."""
    if path.exists() and not os.access(path, os.R_OK):
        try:
            owner = path.owner()
        except KeyError:  # a user without a name, as in many containers
            owner = f"user {path.stat().st_uid}"
        raise ValueError(f"{path}: you may not read it ({owner}'s, {stat.filemode(path.stat().st_mode)}); ask its owner")


def refuse_special(path: Path) -> None:
    """ValueError (one line) for a device, a pipe or an open file by its number: a file renamed to its name would take its place."""
    folder = os.path.realpath(path.parent)
    if folder == "/dev" or f"{folder}/".startswith("/proc/") or (path.exists() and not path.is_file() and not path.is_dir()):
        raise ValueError(f"{path}: is a device or a pipe, and files appear here whole, under their own name; give a file")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a file to write beside ``path``; at the end flushes it to disk and renames it: readers see old or new, never half.

    The file has the mode that the umask gives, whoever writes it: the safetensors library makes files that their owner alone may
    read, and a group shares its results. Raises OSError (one line that names the folder) where the disk is full.
    """
    refuse_special(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.partial")
    try:
        partial.touch()
        mode = stat.S_IMODE(partial.stat().st_mode)
        yield partial
        if stat.S_IMODE(partial.stat().st_mode) != mode:
            partial.chmod(mode)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        free = shutil.disk_usage(path.parent).free
        raise OSError(
            error.errno or errno.ENOSPC,
            f"{path.parent}: no room for {path.name} ({free:,} bytes free, or a quota or file size limit is reached); "
            "nothing that was finished is lost; make room and run the same command again",
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """`replacing` by a function of the file to write."""
    with replacing(path) as partial:
        write(partial)


def sweep(path: Path) -> None:
    """Removes what killed writers of ``path`` left beside it. Only for who alone may write it now."""
    for partial in path.parent.glob(f".{path.name}.*.partial"):
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda partial: partial.write_text(text))


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=1, sort_keys=False) + "\n")


def remedy_for(path: Path) -> str:
    """What to do about a damaged record."""
    if PUBLISHED in path.parents:
        return f"`git checkout -- {path.parent}` brings it back"
    if path.parent.name == "made":
        return "delete it: it is the record of a making, and what was made stays as it is"
    if path.name == "spec.json":
        return "delete it: the next job of this folder writes it again"
    return f"delete it and run `snakemake {path}`"


def read_json(path: Path, remedy: str | None = None, kind: type = dict) -> Any:
    """The JSON of a file: an object, or a list where that is the ``kind``. Raises MissingArtefact where the file is missing or anything
    else; ``remedy`` says what to do where Snakemake does not make it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))  # the mark is of whoever looked at it with Windows' editors
        if not isinstance(content, kind):
            raise ValueError(f"not a JSON {'object' if kind is dict else kind.__name__}")
        return content
    except FileNotFoundError:
        raise MissingArtefact(f"{path}: no such file; run `snakemake {path}`") from None
    except (ValueError, RecursionError) as error:
        raise MissingArtefact(f"{path}: damaged ({error}); {remedy or remedy_for(path)}") from None


def read_lines(path: Path) -> list[dict]:
    """The JSON objects of a file of lines, none where there is no file; a line that a kill or a full disk cut short or filled with
    other bytes is passed over."""
    found = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        with suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return [row for row in found if isinstance(row, dict)]


def append_line(path: Path, record: dict) -> None:
    """Adds a JSON object as a line of its own, also behind one that a kill or a full disk cut short; one write, so that the lines of
    parallel jobs do not mix."""
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
        whole = file.read(1) in (b"", b"\n")
        file.write(b"\n" * (not whole) + json.dumps(record).encode() + b"\n")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def code_version() -> str:
    """The package version and, in a git checkout, the commit (with ``+dirty`` where tracked files differ), or that git cannot tell it.

    Neither a repository that only surrounds an installed or unpacked copy counts, nor one that others left in the environment.
    """
    here = Path(__file__).resolve()
    root = next((folder for folder in here.parents if (folder / ".git").exists()), None)
    if root is None:
        return __version__
    environment = {name: value for name, value in os.environ.items() if name not in REPOSITORY}

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        # Named, a repository is taken whoever owns it; one that git finds by itself must be trusted in the user's own settings.
        command = ["git", f"--git-dir={root / '.git'}", f"--work-tree={root}", *arguments]
        return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=GIT_SECONDS)

    try:
        if git("ls-files", "--error-unmatch", str(here)).returncode == 1:
            return __version__
        described = git("describe", "--always", "--dirty=+dirty", "--abbrev=10", "--exclude=*").stdout.strip()
    except (OSError, subprocess.SubprocessError):
        described = ""
    return f"{__version__} ({described or 'commit unknown'})"


def begin(folder: Path, artefact: str, spec: dict) -> None:
    """Makes an artefact's folder and writes spec.json; refuses a folder that holds another spec."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "spec.json"
    if path.exists() and read_json(path) != json.loads(json.dumps(spec)):
        raise ValueError(f"{path} describes another {artefact}; move {folder} away and run again")
    if not path.exists():
        write_json(path, spec)


def seal(folder: Path, names: list[str], **facts: Any) -> None:
    """Writes the manifest, last of all: size and sha256 of each file, the code version, and the given facts."""
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in names}
    write_manifest(folder, files, **facts)


def write_manifest(folder: Path, files: dict[str, dict], **facts: Any) -> None:
    """`seal` for files whose size (``bytes``) and ``sha256`` are known already."""
    write_json(folder / MANIFEST, {"files": files, "code": code_version(), **facts})


def fingerprint(manifest: dict) -> str:
    """A hash over the hashes of a manifest's files: what they hold, wherever they are."""
    text = "".join(f"{name}:{facts['sha256']}" for name, facts in sorted(manifest["files"].items()))
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(folder: Path) -> dict:
    """The manifest of a sealed folder, its files not looked at; raises MissingArtefact where it is missing or does not say them."""
    manifest: dict = read_json(folder / MANIFEST)
    listed = manifest.get("files")
    if not isinstance(listed, dict) or not all(isinstance(f, dict) and {"bytes", "sha256"} <= f.keys() for f in listed.values()):
        path = folder / MANIFEST
        raise MissingArtefact(f"{path}: damaged (it does not list files with bytes and sha256); {remedy_for(path)}")
    return manifest


def opened(folder: Path) -> dict:
    """The manifest of a sealed folder; raises MissingArtefact where a file it names is gone or has another size."""
    manifest = read_manifest(folder)
    for name, facts in manifest["files"].items():
        path = folder / name
        if not path.exists() or path.stat().st_size != facts["bytes"]:
            state = "missing" if not path.exists() else f"{path.stat().st_size} bytes, {facts['bytes']} expected"
            raise MissingArtefact(
                f"{path}: {state}; delete {folder / MANIFEST} and run `snakemake {folder / MANIFEST}` to remake it"
            )
    return manifest


def verified(folder: Path) -> dict:
    """`opened`, for what is small beside the work done with it: reads every file and refuses one that is not as it was sealed."""
    manifest = opened(folder)
    for name, facts in manifest["files"].items():
        refuse_damaged(folder / name, facts["sha256"], folder / MANIFEST)
    return manifest


def refuse_other_copy(found: str, made_with: str | None, folder: Path, user: Path) -> None:
    """MissingArtefact where ``folder`` (fingerprint ``found``) is not the copy that ``user`` says it was made with.

    One id, other bits: made again on another machine, or pulled from elsewhere than its user. Combined, they would give
    numbers that belong to neither. Users of before this was recorded say nothing (None) and are taken as they are.
    """
    if made_with not in (None, found):
        raise MissingArtefact(
            f"{user} was made with another copy of {folder} (sha256 {str(made_with)[:16]}, here is {found[:16]}): `dvc pull` the one "
            f"that belongs to it, or delete {user} to make it again from what is here"
        )


def refuse_damaged(path: Path, digest: str, record: Path) -> None:
    """MissingArtefact where a file's sha256 is not the one that ``record`` says."""
    if (found := sha256(path)) != digest:
        raise MissingArtefact(
            f"{path}: damaged (sha256 {found[:16]}, {record} says {digest[:16]}); `reals verify --remove` deletes it, "
            "then `dvc pull` brings it again or snakemake remakes it"
        )


@contextmanager
def lock(path: Path, what: str, wait_seconds: float = 0.0) -> Iterator[None]:
    """Holds ``path`` against a second writer of ``what``; raises Busy naming the holder.

    An ``flock``: the kernel releases it when the process ends, however it ends. ``wait_seconds`` lets a predecessor
    that was told to stop save its state first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + wait_seconds
    with path.open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    file.seek(0)
                    holder = file.read().strip() or "another process"
                    raise Busy(f"{what} is being written by {holder}; wait for it or stop it") from None
                time.sleep(0.5)
        file.truncate(0)
        file.write(f"{socket.gethostname()} pid {os.getpid()}\n")
        file.flush()
        yield
