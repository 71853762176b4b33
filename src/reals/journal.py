"""Where the time went: each job appends one line (stage, wall, CPU, CPU spent on the work itself)."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_work_seconds = 0.0
_work_depth = 0


def cpu_seconds() -> float:
    """CPU time of this process and its finished children."""
    return sum(os.times()[:4])


@contextmanager
def work() -> Iterator[None]:
    """Marks training, sampling or evaluating, as opposed to starting up, importing and loading. Nests."""
    global _work_seconds, _work_depth
    began, _work_depth = cpu_seconds(), _work_depth + 1
    try:
        yield
    finally:
        _work_depth -= 1
        if _work_depth == 0:
            _work_seconds += cpu_seconds() - began


@contextmanager
def job(path: Path, stage: str, artefact: str) -> Iterator[None]:
    """Records one finished job in ``path``; a line is one write, so parallel jobs do not mix."""
    global _work_seconds
    began, cpu, _work_seconds = time.time(), cpu_seconds(), 0.0
    yield
    record = {
        "stage": stage,
        "artefact": artefact,
        "began": round(began, 3),
        "wall": round(time.time() - began, 3),
        "cpu": round(cpu_seconds() - cpu, 3),
        "work": round(_work_seconds, 3),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def read(path: Path, since: float = 0.0) -> list[dict]:
    """Records of jobs that began at or after ``since`` (seconds since 1970)."""
    if not path.exists():
        return []
    records = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return [r for r in records if r["began"] >= since]


def by_stage(records: list[dict]) -> list[dict]:
    """Sums per stage, in order of first appearance: stage, jobs, wall, cpu, work (seconds)."""
    rows: dict[str, dict] = {}
    for record in records:
        row = rows.setdefault(record["stage"], {"stage": record["stage"], "jobs": 0, "wall": 0.0, "cpu": 0.0, "work": 0.0})
        row["jobs"] += 1
        for key in ("wall", "cpu", "work"):
            row[key] += record[key]
    return list(rows.values())


def summary(rows: list[dict], wall: float, overhead_cpu: float) -> str:
    """A printable table; ``overhead_cpu`` is what no job is charged with (the workflow engine, shared imports)."""
    total = sum(r["cpu"] for r in rows) + overhead_cpu
    work = sum(r["work"] for r in rows)
    lines = [f"{'stage':<14}{'jobs':>5}{'wall s':>9}{'CPU s':>9}{'of it work':>12}"]
    for r in rows:
        share = r["work"] / r["cpu"] if r["cpu"] else 0.0
        lines.append(f"{r['stage']:<14}{r['jobs']:>5}{r['wall']:>9.1f}{r['cpu']:>9.1f}{share:>12.0%}")
    lines.append(f"{'engine':<14}{'':>5}{'':>9}{overhead_cpu:>9.1f}{0:>12.0%}")
    lines.append(f"{'all':<14}{sum(r['jobs'] for r in rows):>5}{wall:>9.1f}{total:>9.1f}{work / total if total else 0:>12.0%}")
    return "\n".join(lines)
