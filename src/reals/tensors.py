"""Tensors by name from weight files, running nothing that the files hold."""

import argparse
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from reals import files

SHOWN = 3  # names in a message
PICKLES = (b"PK", b"\x80")  # how a file of torch.save begins, today's and that of before 1.6
LFS_POINTER = b"version https://git-lfs"
OTHERS = (
    (LFS_POINTER, "what git keeps in the file's place", "run `git lfs pull`, or fetch it again"),
    (b"<", "a web page", "fetch it again, by its direct link"),
)
"""What is found under the name of a weights file: how it begins, what it is, what to do."""


def read(path: Path) -> tuple[object, dict[str, str]]:
    """(what the file holds, its metadata): tensors by name of a safetensors file, whatever was saved of any other. What kind it is
    the file's first bytes say, and its name where they are damaged.

    Pickles may hold tensors, plain Python values and argparse.Namespace. Raises ValueError, one line, for a file that is
    missing, damaged, truncated, not the reader's to read, or holds any other object.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    files.refuse_unreadable(path)
    with path.open("rb") as file:
        head = file.read(len(LFS_POINTER))
    if head[8:9] == b"{":  # behind the length of its header
        return _safetensors(path)
    for begins, what, remedy in OTHERS:
        if head.lstrip().startswith(begins):
            raise ValueError(f"{path}: is {what} ({path.stat().st_size} bytes), not the weights themselves; {remedy}")
    if path.suffix.lower() != ".safetensors":
        return _pickle(path), {}
    if head.startswith(PICKLES):
        raise ValueError(f"{path}: is no safetensors file but one of torch.save; call it {path.with_suffix('.pt').name}")
    return _safetensors(path)


def named(path: Path, content: object) -> dict[str, Tensor]:
    """``content`` if it is tensors by name; ValueError otherwise."""
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path}: expected tensors by name, found {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{path}: {name!r} is a {type(value).__name__}, expected a tensor; is this a network's checkpoint?")
    return dict(content)


def check(path: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """ValueError unless ``state`` has the names and shapes of ``expected`` and finite floating values."""
    missing, unknown = expected.keys() - state.keys(), state.keys() - expected.keys()
    if missing or unknown:
        parts = [f"{word} {some(names)}" for word, names in (("missing", missing), ("unknown", unknown)) if names]
        raise ValueError(f"{path}: not the tensors of this network: {'; '.join(parts)}")
    for name, value in state.items():
        if value.shape != expected[name].shape:
            raise ValueError(f"{path}: {name} has shape {tuple(value.shape)}, expected {tuple(expected[name].shape)}")
        if not value.is_floating_point():
            raise ValueError(f"{path}: {name} is {value.dtype}, expected floating point")
        # The sum is finite unless a value is not (or it overflows, which the exact test then clears): ten times quicker.
        # As float32, which is what networks here take: a double may be beyond it.
        if not torch.isfinite(value.sum(dtype=torch.float32)) and not (finite := torch.isfinite(value.float())).all():
            count = int((~finite).sum())
            raise ValueError(
                f"{path}: {name} has {count} values that are NaN or infinite; the run had diverged, use an earlier file"
            )


def some(names: Iterable[str]) -> str:
    """The first few of the names, and how many more there are."""
    names = sorted(names)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged or truncated ({error}); fetch or make it again") from None


def _pickle(path: Path) -> object:
    zipped = zipfile.is_zipfile(path)
    with path.open("rb") as file:
        if not zipped and file.read(2) == b"PK":
            raise ValueError(f"{path}: truncated ({path.stat().st_size} bytes and no end); fetch or make it again")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error)) or re.search(
            r"[Uu]nsupported (?:global|class|operand)[^\w]*([\w.]+)", str(error)
        )
        what = f"the object {found[1]}" if found else "something that is no tensor"
        raise ValueError(
            f"{path}: holds {what}, which could run code; not loaded. Save the tensors alone (a state dict) and use that"
        ) from None
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to ask for
        first = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise ValueError(f"{path}: damaged or truncated ({first[0]}); fetch or make it again") from None
