"""Where the time went: each finished job appends one line (stage, wall, CPU, CPU spent on the work itself), and so does
snakemake at the end of a run, under the stage `ENGINE`.

The attempts in `made/` (`provenance`) hold some of the same facts but cannot stand in for it: rendering makes no artefact, and what
is deleted to be made again takes its record along. One file is also read sooner than thousands at the end of a run.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from reals import files
from reals.machine import usage

SUMMED = ("wall", "cpu", "work", "queued")
ENGINE = "engine"  # of a run, what no job is charged with: Snakemake itself, shared imports, starting jobs


@contextmanager
def job(path: Path, stage: str, artefact: str, number: int | None = None, device: str | None = None) -> Iterator[None]:
    """Records one finished job in ``path``; a line is one write, so parallel jobs do not mix.

    ``number`` is the milestone's step or the shard, ``device`` what it ran on.
    """
    began = time.time()
    with usage.measured() as times:
        yield
    record = {"stage": stage, "artefact": artefact, "number": number, "began": round(began, 3), **times,
              "device": device, "gpus": usage.gpus_used(), "queued": _queued()}  # fmt: skip
    _append(path, {k: v for k, v in record.items() if v is not None})


def note_engine(path: Path, began: float, cpu: float) -> None:
    """Records the CPU-seconds that a run, begun at ``began`` (seconds since 1970) and over now, used beside its jobs."""
    _append(path, {"stage": ENGINE, "began": round(began, 3), "wall": round(time.time() - began, 3), "cpu": round(cpu, 3)})


def _append(path: Path, record: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.append_line(path, record)


def _queued() -> float | None:
    """Seconds this job waited in SLURM's queue, where it is a SLURM job and SLURM says so."""
    number = os.environ.get("SLURM_JOB_ID")
    if number is None or shutil.which("squeue") is None:
        return None
    command = ["squeue", "--noheader", "--jobs", number, "--format=%V|%S"]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        submitted, started = (datetime.fromisoformat(t) for t in printed.splitlines()[0].split("|"))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    return (started - submitted).total_seconds()


def read(path: Path, since: float = 0.0) -> list[dict]:
    """Records of jobs that began at or after ``since`` (seconds since 1970)."""
    return [r for r in lines(path) if r["began"] >= since and r["stage"] != ENGINE]


def engines(path: Path) -> list[dict]:
    """Records of the runs: what each used beside its jobs."""
    return [r for r in lines(path) if r["stage"] == ENGINE]


def lines(path: Path) -> list[dict]:
    """All records; what lacks a stage and times, as half a line that still is JSON does, is passed over."""

    def whole(record: dict) -> bool:
        times = [record.get(key, 0.0) for key in (*SUMMED, "gpus")] + [record.get(key) for key in ("began", "wall", "cpu")]
        return isinstance(record.get("stage"), str) and all(isinstance(value, int | float) for value in times)

    return [record for record in files.read_lines(path) if whole(record)]


def by_stage(records: list[dict]) -> list[dict]:
    """Sums per stage, in order of first appearance: stage, jobs, wall, cpu, work, queued and on_gpus (seconds)."""
    rows: dict[str, dict] = {}
    for record in records:
        row = rows.setdefault(
            record["stage"], {"stage": record["stage"], "jobs": 0, **dict.fromkeys(SUMMED, 0.0), "on_gpus": 0.0}
        )
        row["jobs"] += 1
        for key in SUMMED:
            row[key] += record.get(key, 0.0)
        row["on_gpus"] += record.get("gpus", 0) * record["wall"]
    return list(rows.values())


def summary(rows: list[dict], wall: float, overhead_cpu: float, planned: dict[str, float] | None = None) -> str:
    """A printable table; ``overhead_cpu`` is what no job is charged with (`ENGINE`).

    ``planned`` is device-seconds by stage as `reals plan` expects them: GPU seconds where GPUs were used, else CPU seconds.
    """
    planned = planned or {}
    total = sum(r["cpu"] for r in rows) + overhead_cpu
    worked = sum(r["work"] for r in rows)
    shown = [r | {"share": r["work"] / r["cpu"] if r["cpu"] else 0.0, "plan": planned.get(r["stage"])} for r in rows]
    shown.append({"stage": ENGINE, "cpu": overhead_cpu, "share": 0.0})
    whole = {
        "stage": "all",
        "wall": wall,
        "cpu": total,
        "share": worked / total if total else 0.0,
        "plan": sum(planned.values()) or None,
    }
    shown.append(whole | {key: sum(r[key] for r in rows) for key in ("jobs", "queued", "on_gpus")})
    columns = {
        "jobs": "jobs",
        "queued": "queued s",
        "wall": "wall s",
        "on_gpus": "GPU s",
        "cpu": "CPU s",
        "plan": "plan s",
        "share": "of CPU work",
    }
    used = [key for key in columns if any(row.get(key) for row in shown)]
    lines = [f"{'stage':<14}" + "".join(f"{columns[key]:>12}" for key in used)]
    for row in shown:
        lines.append(f"{row['stage']:<14}" + "".join(f"{_shown(key, row.get(key)):>12}" for key in used))
    return "\n".join(lines)


def _shown(key: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0%}" if key == "share" else f"{value:d}" if key == "jobs" else f"{value:.1f}"
