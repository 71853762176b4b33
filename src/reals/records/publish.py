"""Artefacts by the names DVC knows them: config/registry.json, what is finished, and its way into DVC."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from reals import files
from reals.experiment.artefact import Artefact
from reals.experiment.load import load
from reals.experiment.reading import ConfigError
from reals.experiment.registry import Registry
from reals.experiment.stage_table import STAGES, STEP
from reals.records import provenance

REGISTRY = "registry.json"
DVC_STAGES = tuple(name for stage in STAGES for name in stage.published)
PARTIAL = tuple(
    name for stage in STAGES if stage.numbering == STEP for name in stage.published
)  # worth storing after any milestone
# What training writes, removes and writes again in a folder that is published already; states have checksums of their own.
GROWING = re.compile(r"log\.jsonl$|step_\d+\.(pt|sha256)$|(made|profile|samples|tensorboard|wandb)/")
NOTE = "Written by `reals registry`: what each artefact is made of and where it is. dvc.yaml reads it; do not edit."


@dataclass(frozen=True)
class Stored:
    """What DVC keeps under one name; ``outputs`` are the files it is complete with."""

    stage: str
    key: str
    artefact: Artefact
    folder: Path
    outputs: tuple[Path, ...]

    @property
    def name(self) -> str:
        return f"{self.stage}@{self.key}"

    @property
    def missing(self) -> list[Path]:
        return [path for path in self.outputs if not path.exists()]

    @property
    def begun(self) -> bool:
        return len(self.missing) < len(self.outputs)


def stored(registry: Registry) -> list[Stored]:
    """Everything that is worth storing, in the order of the DAG. ConfigError where two things have one name."""
    found: dict[str, Stored] = {}
    for artefact in registry.all():
        # A dot would split DVC's own paths of keys.
        key = f"{registry.experiment.scale.name}_{artefact.name}".replace(".", "p")
        items = [Stored(artefact.kind, key, artefact, registry.folder(artefact), tuple(registry.outputs(artefact)))]
        if artefact.kind == "run":
            folder = registry.states(artefact)
            whole = tuple(folder / f"step_{step:08d}.sha256" for step in registry.milestones(artefact))
            items.append(Stored("state", key, artefact, folder, whole))
        for item in items:
            if item.stage in DVC_STAGES and found.setdefault(item.name, item).artefact.id != artefact.id:
                raise ConfigError(f"{artefact.id} and {found[item.name].artefact.id} have one name for DVC; rename a row")
    return sorted(found.values(), key=lambda item: DVC_STAGES.index(item.stage))


def document(scales: list[str], folder: Path) -> str:
    """registry.json of the given scales."""
    content: dict = {"note": NOTE, "scales": scales, **{stage: {} for stage in DVC_STAGES}}
    for scale in scales:
        registry = Registry(load(scale, folder=folder))
        for item in stored(registry):
            content[item.stage][item.key] = {
                "id": item.artefact.id,
                "scale": scale,
                "folder": str(item.folder),
                "targets": " ".join(map(str, registry.outputs(item.artefact))),
                "spec": item.artefact.identity,
            }
    return json.dumps(content, indent=1) + "\n"  # not YAML: DVC parses it once for each stage


def known_scales(folder: Path) -> list[str]:
    """The scales that registry.json holds."""
    path = folder / REGISTRY
    try:
        return json.loads(path.read_text())["scales"]
    except (OSError, KeyError, TypeError, ValueError):
        raise ConfigError(f"{path}: missing or damaged; write it with `reals registry SCALE...`") from None


def select(registry: Registry, names: list[str]) -> list[Stored]:
    """What the names mean: ``run@name``, a bare row's name (every kind that has it), or ``all``."""
    everything, found = stored(registry), []
    for name in names:
        stage, _, rest = name.rpartition("@")
        chosen = [
            item
            for item in everything
            if name == "all" or (stage in ("", item.stage) and rest in (item.artefact.name, item.artefact.id, item.key))
        ]
        if not chosen:
            raise ConfigError(
                f"'{name}' names nothing that scale {registry.experiment.scale.name} publishes; `reals ids` lists the names; "
                f"kinds: {', '.join(DVC_STAGES)}"
            )
        found += [item for item in chosen if item not in found]
    return found


def recorded(folder: Path) -> dict[str, str]:
    """File name -> md5 of a folder's files as dvc.lock records them; empty where it does not, or DVC's listing is not here."""
    if (place := _listings().get(str(folder))) is None:
        return {}
    listing = _cache() / "files/md5" / Path(*place)
    return {entry["relpath"]: entry["md5"] for entry in json.loads(listing.read_text())} if listing.exists() else {}


def recorded_objects(objects: Path) -> set[str]:
    """The md5 of every object that dvc.lock names: of folders' listings, and of the files in those that lie in ``objects``."""
    _listings.cache_clear()  # a commit may have written it anew
    found = set()
    for parts in _listings().values():
        found.add("".join(parts))
        if (listing := objects / Path(*parts)).exists():
            found |= {entry["md5"] for entry in json.loads(listing.read_text())}
    return found


@cache
def _cache() -> Path:
    """Where DVC keeps objects on this machine."""
    try:
        return Path(dvc("cache", "dir").strip())
    except ValueError:
        return Path(".dvc/cache")


@cache
def _listings() -> dict[str, tuple[str, str]]:
    """Folder -> where in DVC's cache its list of files is."""
    import yaml

    lock = Path("dvc.lock")
    try:
        stages = yaml.load(lock.read_text(), yaml.CSafeLoader)["stages"] if lock.exists() else {}
        return {out["path"]: (out["md5"][:2], out["md5"][2:]) for stage in stages.values() for out in stage["outs"]}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError):
        raise ValueError(f"{lock}: damaged; `git checkout -- {lock}` brings it back") from None


def damaged(folder: Path) -> list[Path]:
    """The files of a folder that are not what its manifest, their records or checksums, or DVC say, or are no such record; all are read.

    Training that goes on, or what was made again, is no damage: see `_lasting`.
    """
    broken: list[Path] = []

    def told(path: Path, read: Callable[[Path], dict]) -> dict:
        try:
            return read(path) if path.exists() else {}
        except files.MissingArtefact:
            broken.append(path)
            return {}

    told(folder / "spec.json", files.read_json)
    sealed = told(folder / files.MANIFEST, lambda path: files.read_manifest(path.parent)).get("files", {})
    expected = {name: ("md5", digest) for name, digest in _lasting(folder).items()}
    records = ((path.stem, told(path, provenance.read)) for path in folder.glob("made/*.json"))
    expected |= {name: ("sha256", record["sha256"]) for name, record in records if "sha256" in record}
    expected |= {name: ("sha256", facts["sha256"]) for name, facts in sealed.items()}
    expected |= {f"{path.stem}.pt": ("sha256", path.read_text().strip()) for path in folder.glob("step_*.sha256")}

    def differs(name: str, algorithm: str, digest: str) -> bool:
        path = folder / name
        if not path.exists():
            return algorithm == "sha256"
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest() != digest

    changed = [folder / name for name, (algorithm, digest) in expected.items() if differs(name, algorithm, digest)]
    return list(dict.fromkeys([*broken, *changed]))


def _lasting(folder: Path) -> dict[str, str]:
    """File name -> md5 that DVC recorded, of the files that no later work of ours can have changed."""
    listed = recorded(folder)

    def remade(name: str) -> bool:
        record = f"made/{name}.json"
        path = folder / record
        return path.exists() and hashlib.md5(path.read_bytes()).hexdigest() != listed.get(record)

    return {name: digest for name, digest in listed.items() if not GROWING.match(name) and not remade(name)}


def dvc(*arguments: str) -> str:
    """Runs DVC; ValueError with DVC's own reason in one line where it fails."""
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.splitlines()
        said = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or lines[-1:]
        # Of many objects each has its line; the last line counts them, the first says why.
        raise ValueError(
            f"`dvc {arguments[0]}`: {'; '.join(dict.fromkeys(said[-1:] + said[:1])) or f'exit code {done.returncode}'}"
        )
    return done.stdout
