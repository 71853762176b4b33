"""Arrays on disk together with the facts they were made from, whole or in parts that several processes make."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from reals import files
from reals.arrays import save_npz
from reals.measure.sources.archive import open_zip, whole

Facts = dict[str, Any]
"""What a file was made from and with, as JSON holds it."""


def save_arrays(path: Path, facts: Facts, arrays: dict[str, np.ndarray]) -> None:
    """An .npz of arrays with ``facts`` (JSON) inside, written whole or not at all."""
    files.write_atomically(path, lambda partial: save_npz(partial, facts=np.array(json.dumps(facts)), **arrays))


def load_arrays(path: Path) -> tuple[Facts | None, dict[str, np.ndarray]]:
    """(facts, arrays) of an .npz; facts are None where it has none. ValueError where it is damaged."""
    open_zip(path).close()
    with whole(path), np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    facts = arrays.pop("facts", None)
    return None if facts is None else _read_facts(path, facts), arrays


def _read_facts(path: Path, text: object) -> Facts:
    try:
        facts = json.loads(str(text))
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise ValueError(f"{path}: what it says of itself is damaged; delete it and make it again")
    return facts


def checked_facts(path: Path, found: Facts | None, expected: Facts) -> None:
    """ValueError where a cached file was made from, or with, something else than ``expected``."""
    if found is None:
        raise ValueError(f"{path}: was not written by this program; give another file name")
    for name, value in expected.items():
        if found.get(name) != value:
            raise ValueError(
                f"{path}: {name} is {_short(found.get(name))}, {_short(value)} expected; "
                "it belongs to other samples or settings, so delete it or name another file"
            )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:16] + "..."


def own_rows(n: int, batch: int, shard: int, shards: int) -> tuple[int, int]:
    """(start, stop) of one shard: whole batches of the undivided run, so that every network call is the same call."""
    count = -(-n // batch)
    return min(n, batch * (count * shard // shards)), min(n, batch * (count * (shard + 1) // shards))


def part_path(path: Path, shard: int, shards: int) -> Path:
    """Where one shard of ``path`` lies: name.00k-of-00n.npz."""
    return path.with_name(f"{path.stem}.{shard:03d}-of-{shards:03d}{path.suffix}")


def parts_of(path: Path) -> list[Path]:
    """The parts of ``path`` beside it, in order, [] if there is none; ValueError where one is missing."""
    found = sorted(path.parent.glob(f"{path.stem}.[0-9][0-9][0-9]-of-[0-9][0-9][0-9]{path.suffix}"))
    if not found:
        return []
    totals = {int(p.name[: -len(path.suffix)].rsplit("-of-", 1)[1]) for p in found}
    if len(totals) > 1:
        raise ValueError(f"{path}: parts of {' and of '.join(map(str, sorted(totals)))} shards lie beside it; delete one kind")
    shards = totals.pop()
    missing = [part_path(path, k, shards) for k in range(shards) if not part_path(path, k, shards).exists()]
    if missing:
        raise ValueError(f"{missing[0]}: missing ({len(missing)} of {shards} parts); run that shard first")
    return found


def own_rows_of(part: Path) -> tuple[int, int]:
    """(start, stop) that a part's facts state."""
    open_zip(part).close()
    with whole(part), np.load(part, allow_pickle=False) as stored:
        facts = _read_facts(part, stored["facts"]) if "facts" in stored.files else {}
    if not {"start", "stop"} <= facts.keys():
        raise ValueError(f"{part}: is not a part written by --shard; delete it")
    return facts["start"], facts["stop"]
