"""Artefacts by the names DVC knows them: config/registry.json, what is finished, and its way into DVC."""

import hashlib
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

from reals import files
from reals.config import ConfigError, load
from reals.registry import Artefact, Registry

REGISTRY = "registry.json"
STAGES = ("data", "teacher", "extractor", "autoencoder", "latents", "run", "reference", "samples")
NOTE = "Written by `reals registry`: what each artefact is made of and where it is. dvc.yaml reads it; do not edit."


def key(registry: Registry, artefact: Artefact) -> str:
    """The artefact's name in dvc.yaml: ``<scale>_<name>``; dots would split DVC's own paths of keys."""
    return f"{registry.experiment.scale.name}_{artefact.name}".replace(".", "p")


def published(registry: Registry) -> dict[str, dict[str, Artefact]]:
    """DVC stage -> key -> artefact, for the kinds that are worth storing."""
    stages: dict[str, dict[str, Artefact]] = {stage: {} for stage in STAGES}
    for artefact in registry.all():
        if artefact.kind in stages:
            other = stages[artefact.kind].setdefault(key(registry, artefact), artefact)
            if other.id != artefact.id:
                raise ConfigError(f"{artefact.id} and {other.id} have one name for DVC; rename a row")
    return stages


def document(scales: list[str], folder: Path) -> str:
    """registry.json of the given scales."""
    content: dict = {"note": NOTE, "scales": scales, **{stage: {} for stage in STAGES}}
    for scale in scales:
        registry = Registry(load(scale, folder=folder))
        for stage, artefacts in published(registry).items():
            for name, artefact in artefacts.items():
                content[stage][name] = {
                    "id": artefact.id,
                    "scale": scale,
                    "folder": str(registry.folder(artefact)),
                    "targets": " ".join(str(path) for path in registry.outputs(artefact)),
                    "spec": artefact.identity,
                }
    return json.dumps(content, indent=1) + "\n"  # not YAML: DVC parses it once for each stage


def known_scales(folder: Path) -> list[str]:
    """The scales that registry.json holds."""
    path = folder / REGISTRY
    try:
        return json.loads(path.read_text())["scales"]
    except (OSError, KeyError, TypeError, json.JSONDecodeError):
        raise ConfigError(f"{path}: missing or damaged; write it with `reals registry SCALE...`") from None


def select(registry: Registry, names: list[str]) -> list[tuple[str, Artefact]]:
    """(stage@key, artefact) of each name: ``run@name``, a bare row's name (every kind that has it), or ``all``."""
    found: list[tuple[str, Artefact]] = []
    for name in names:
        stage, _, rest = name.rpartition("@")
        chosen = [
            (f"{kind}@{at}", artefact)
            for kind, artefacts in published(registry).items()
            for at, artefact in artefacts.items()
            if name == "all" or (stage in ("", kind) and rest in (artefact.name, artefact.id, at))
        ]
        if not chosen:
            raise ConfigError(
                f"'{name}' names nothing that scale {registry.experiment.scale.name} publishes; `reals ids` lists the names; "
                f"kinds: {', '.join(STAGES)}"
            )
        found += [item for item in chosen if item not in found]
    return found


def missing(registry: Registry, artefact: Artefact) -> list[Path]:
    return [path for path in registry.outputs(artefact) if not path.exists()]


def recorded(folder: Path) -> dict[str, str]:
    """File name -> md5 of an artefact's files as dvc.lock records them; empty where it does not, or DVC's listing is not here."""
    listing = Path(".dvc/cache/files/md5", *_listings().get(str(folder), ["no", "listing"]))
    return {entry["relpath"]: entry["md5"] for entry in json.loads(listing.read_text())} if listing.exists() else {}


@cache
def _listings() -> dict[str, tuple[str, str]]:
    """Folder -> where in DVC's cache its list of files is."""
    import yaml

    lock = Path("dvc.lock")
    stages = yaml.load(lock.read_text(), yaml.CSafeLoader)["stages"] if lock.exists() else {}
    return {out["path"]: (out["md5"][:2], out["md5"][2:]) for stage in stages.values() for out in stage["outs"]}


def damaged(registry: Registry, artefact: Artefact) -> list[Path]:
    """The files of an artefact that are gone or differ from its manifest or from what DVC recorded; all are read."""
    folder = registry.folder(artefact)
    manifest = folder / files.MANIFEST
    expected = (
        {name: ("sha256", facts["sha256"]) for name, facts in files.read_json(manifest)["files"].items()}
        if manifest.exists()
        else {}
    )
    expected |= {name: ("md5", digest) for name, digest in recorded(folder).items() if name not in expected}

    def differs(name: str, algorithm: str, digest: str) -> bool:
        path = folder / name
        if not path.exists():
            return True
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest() != digest

    return [folder / name for name, (algorithm, digest) in expected.items() if differs(name, algorithm, digest)]


def dvc(*arguments: str) -> str:
    """Runs DVC; ValueError with DVC's own reason in one line where it fails."""
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:]
        raise ValueError(f"`dvc {' '.join(arguments)}`: {' '.join(said) or f'exit code {done.returncode}'}")
    return done.stdout
