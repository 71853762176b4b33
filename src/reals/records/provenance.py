"""What each artefact was made from, by what, where and in what time: a small file beside it.

``made/<file>.json`` stands beside a file that a stage makes: inputs with their hashes, the row of the sheet, scale, code
and package versions, device, wall-clock and CPU seconds. It is no part of any identity.
"""

import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from reals import files
from reals.experiment.artefact import Artefact
from reals.experiment.graph import Graph
from reals.experiment.registry import Registry
from reals.machine import usage
from reals.machine.cores import threads
from reals.machine.world import world
from reals.planning import rates

PACKAGES = ("torch", "torchvision", "diffusers", "timm", "lpips", "torch-fidelity", "numpy", "scipy", "pillow")
SET_ASIDE = "set_aside"
"""Where a making that was told to begin anew leaves the one before: beside the artefacts' folders, which DVC keeps."""


def path_of(target: Path) -> Path:
    """Where the record of a stage's file is."""
    return target.parent / "made" / f"{target.name}.json"


def read(path: Path) -> dict[str, Any]:
    """The record of a making. MissingArtefact where it is damaged."""
    made: dict[str, Any] = files.read_json(path)
    attempts = made.get("attempts", [])
    whole = all(isinstance(made.get(key, {}), dict) for key in ("inputs", "packages", "row")) and isinstance(attempts, list)
    if not whole or not all(isinstance(one, dict) and {"began", "device", "code"} <= one.keys() for one in attempts):
        raise files.MissingArtefact(f"{path}: damaged (no record of a making); {files.remedy_for(path)}")
    return made


def row_of(registry: Registry, artefact: Artefact) -> dict[str, Any]:
    """The line of the sheet that an artefact comes from; empty for those the scale alone defines."""
    sheet = artefact.stage.sheet
    row = getattr(registry.experiment, sheet).get(artefact.name) if sheet else None
    stated = row.model_dump(mode="json", exclude_none=True) if row else {}
    return {"sheet": f"{sheet}.tsv", **{k: v for k, v in stated.items() if v not in ([], {})}} if row else {}


@contextmanager
def recorded(registry: Registry, artefact: Artefact, number: int | None = None) -> Iterator[None]:
    """Records the making of an artefact, or of its step or shard ``number``: first what it is made from, then what it took.

    A job killed in between leaves a record without times; one that goes on adds its own.
    """
    job = Graph(registry).job(artefact, number)
    target = job.outputs[0]
    path = path_of(target)
    earlier = read(path).get("attempts", []) if path.exists() else []
    attempt = {
        "began": datetime.now(UTC).isoformat(timespec="seconds"), "host": socket.gethostname(),
        "device": rates.this_device(threads()),
        "processes": world().size, "code": files.code_version(),
    }  # fmt: skip
    made = {
        "artefact": artefact.id, "kind": artefact.kind, "scale": registry.experiment.scale.name,
        "command": remake(registry, target), "row": row_of(registry, artefact),
        "inputs": {needed: _digest(Path(needed)) for needed in job.needs},
        "python": sys.version.split()[0], "packages": {name: _version(name) for name in PACKAGES},
    }  # fmt: skip
    files.write_json(path, made | {"attempts": [*earlier, attempt]})
    with usage.measured() as times:
        yield
    digest = _digest(target)
    files.write_json(path, made | ({"sha256": digest} if digest else {}) | {"attempts": [*earlier, attempt | times]})


def refuse_damaged(target: Path) -> None:
    """MissingArtefact where a file is not the one that was made, as far as there is a record of its making."""
    record = path_of(target)
    digest = read(record).get("sha256") if record.exists() else None
    if digest is not None:
        files.refuse_damaged(target, digest, record)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _digest(path: Path) -> str | None:
    """The sha256 of an input; of sample shards the evaluation records its own, and what is gone has none."""
    return files.sha256(path) if path.exists() and path.suffix != ".npy" else None


def remake(registry: Registry, *targets: Path) -> str:
    """The command that makes files."""
    return shlex.join(["snakemake", *map(str, targets), "--config", *registry.experiment.overrides])
