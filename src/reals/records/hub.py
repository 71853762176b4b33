"""Networks as folders that the hub takes: written whole, sealed, pushed where that is asked for, checked and taken back."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reals import files
from reals.records import metrics

CARD, TRANSFORMER, NAMES, VAE = "README.md", "model.safetensors", "class_names.txt", "vae"  # what a shared folder holds
PARTS = ("*.json", "*.safetensors", "*.txt", CARD)  # what is asked of a repository
NAME = re.compile(r"[\w.-]+/[\w.-]+")


def check_name(name: str, option: str) -> None:
    """ValueError unless ``name`` is that of a repository on the hub."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{option} {name}: expected user/repository")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill beside ``out``, which becomes it at the end. ValueError where ``out`` is there and not empty, or cannot be."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: is there already; remove it or give another folder")
    place = out.resolve()  # '.' has no name of its own
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".partial", dir=place.parent))
    except OSError as error:
        raise ValueError(f"{out}: cannot be made ({error.strerror}); give another folder") from None
    made = partial / place.name
    try:
        made.mkdir()  # not mkdtemp's own, which its owner alone may enter
        yield made
        if place.exists():  # empty, and who stands in it shall see what came
            for path in sorted(made.iterdir(), key=lambda path: path.name == files.MANIFEST):
                path.replace(place / path.name)
        else:
            made.replace(place)
    finally:
        shutil.rmtree(partial)


def copy(source: Path, to: Path) -> None:
    """A file, with the mode that the umask gives."""
    to.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(to, lambda partial: shutil.copyfile(source, partial))


def measured_on(results: Path, weights: Path) -> list[Path]:
    """The metrics files that say they are of these very weights, by checksum: of a scale's results, else of those published with
    the repository, in order of their names."""
    digest = files.sha256(weights)
    folders = (results, results.parent / "published" / results.name)
    found = next((there for folder in folders if (there := sorted(folder.glob("metrics/*/metrics.json")))), [])
    return [path for path in found if metrics.read(path)["provenance"].get("checkpoint_sha256") == digest]


def push(folder: Path, repository: str, private: bool) -> str:
    """Uploads a folder, making the repository where there is none; returns its address. ValueError, one line, where that fails."""
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="reals export --to hub")
    except Exception as error:  # of many kinds: no network, no token, no right to write there
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"--push {repository}: {reason}; {folder} is complete: try again with `hf upload {repository} {folder}`"
        ) from None
    return str(address)


def found(where: str, revision: str | None) -> tuple[Path, str]:
    """(folder, a word on where it is from) of a local folder or a repository's name; ValueError where it cannot be had."""
    folder = Path(where)
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"--revision {revision}: {where} is a folder here; a revision is of a repository on the hub")
        return folder, str(folder)
    if folder.exists():
        raise ValueError(f"{where}: is a file; give the folder that it is in")
    if not NAME.fullmatch(where):
        raise ValueError(f"{where}: no such folder, and no user/repository on the hub either")
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(where, revision=revision, allow_patterns=list(PARTS)))
    except Exception as error:  # of many kinds: no network, no such repository or revision, no right to read it
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{where}: no such folder, and not to be had from the hub ({reason})") from None
    return folder, f"{where} at {folder.name[:10]}"


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a shared folder; ValueError where it is damaged."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); get the folder again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: damaged (not a JSON object); get the folder again")
    return content


def sealed(folder: Path) -> dict[str, Any]:
    """The manifest of a folder that `reals export --to hub` made, every file of it read and compared. ValueError otherwise."""
    if not (folder / files.MANIFEST).is_file():
        raise ValueError(
            f"{folder}: no {files.MANIFEST}, so nothing to check it by; `reals import` takes what `reals export --to hub` made. "
            "Another autoencoder goes straight into a scale file (bases.<row>.path)"
        )
    manifest = read_object(folder / files.MANIFEST)
    listed = manifest.get("files")
    if manifest.get("kind") not in ("autoencoder", "transformer") or "name" not in manifest or not isinstance(listed, dict):
        raise ValueError(f"{folder / files.MANIFEST}: not of `reals export --to hub`")
    for name, facts in listed.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{folder / files.MANIFEST}: names {name}, which is no file of this folder")
        if not path.is_file():
            raise ValueError(f"{path}: missing; get the folder again")
        said = facts.get("sha256") if isinstance(facts, dict) else None
        if (digest := files.sha256(path)) != said:
            raise ValueError(f"{path}: damaged (sha256 {digest[:16]}, {files.MANIFEST} says {str(said)[:16]})")
    if not (folder / CARD).is_file():
        raise ValueError(f"{folder / CARD}: missing; without its card nobody knows what this is or may use it for")
    return manifest
