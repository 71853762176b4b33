"""The site file: what differs between SLURM clusters, checked at the door and against the cluster at hand."""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from pydantic import Field

from reals import files
from reals.experiment.engine import Resources
from reals.experiment.reading import ConfigError, Strict, read
from reals.machine import dispatch

SECONDS = 30.0  # patience with a SLURM command
GPU = re.compile(r"gpu(?::(?P<type>[^:(]+))?:(?P<count>\d+)")


class Site(Strict):
    """What differs between clusters. All keys must be stated: a forgotten one is a mistake, null the cluster's own default."""

    account: str | None
    """Whom the hours are charged to (sacctmgr show assoc user=$USER)."""
    qos: str | None
    """Quality of service."""
    partition: str | None
    """For jobs without a GPU (sinfo)."""
    gpu_partition: str | None
    """For jobs with GPUs."""
    gpu_type: str | None
    """As in the third column of `sinfo -o "%P %l %G"`: gpu:a100:8 -> a100."""
    constraint: str | None
    """A node feature to ask for."""
    max_runtime: int = Field(gt=0)
    """Minutes a job may ask for: the shortest limit of the partitions above. Training goes on in the next job."""
    training_retries: int = Field(ge=0)
    """How often a training job is sent again after a time limit, a lost node or another failure."""
    options: str | None
    """More sbatch options, e.g. --exclusive --mail-type=FAIL."""
    scratch: str | None
    """Node-local folder for temporary files, e.g. /scratch/$USER; made where it does not exist."""
    setup: str | None
    """Shell lines before each job, e.g. module load cuda/12.8."""
    container: str | None
    """Put before each job's command, e.g. apptainer exec --nv /project/reals.sif."""
    python: str | None
    """The interpreter, where it is not the one snakemake runs in (in a container: python3)."""

    def partition_of(self, resources: Resources) -> str | None:
        return self.gpu_partition if resources.gpu else self.partition

    def request(self, resources: Resources) -> dict:
        """What one job asks for, in the words of Snakemake's SLURM executor; local runs heed ``gpu`` alone.

        On one node the executor's own step is the only task. On several the job is declared an MPI one, which leaves
        the steps to `reals.machine.dispatch`, and GPUs are asked for per node: a total would be split unevenly.
        """
        asked: dict = {
            "nodes": resources.nodes,
            "gpus_per_node": resources.gpu,
            "mem_mb": resources.mem_mb,
            "runtime": lambda wildcards, attempt: self.runtime(resources, attempt),
            "slurm_partition": self.partition_of(resources),
            "slurm_account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "slurm_extra": self.options,
        }
        if resources.nodes == 1:
            asked |= {"gpu": resources.gpu, "gpu_model": self.gpu_type if resources.gpu else None}
        else:
            kind = f"gpu:{self.gpu_type}" if self.gpu_type else "gpu"
            asked |= {
                "mpi": "srun",
                "tasks": resources.nodes,
                "tasks_per_gpu": 0,
                "gpu": 0,
                "gres": f"{kind}:{resources.gpu}" if resources.gpu else None,
                "slurm_extra": " ".join(filter(None, ["--ntasks-per-node=1", self.options])),
            }
        return {key: value for key, value in asked.items() if value is not None}

    def runtime(self, resources: Resources, attempt: int) -> int:
        """Minutes: more with each attempt, never beyond what the site allows."""
        return min(resources.runtime * attempt, self.max_runtime)


def load(path: Path) -> Site:
    """Raises ConfigError (one line) on a missing, unknown or wrong key."""
    return read(Site, path)


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    except FileNotFoundError:
        raise ConfigError(f"no SLURM on this machine ({command[0]} not found); leave out --profile profiles/slurm") from None
    except subprocess.TimeoutExpired:
        raise ConfigError(f"SLURM does not answer ({command[0]} waited {SECONDS:.0f} s); try again later") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or ["no message"]
        raise ConfigError(f"SLURM does not answer ({command[0]}: {said[-1]})") from None
    return done.stdout


def check(site: Site, where: str, jobs: dict[str, Resources]) -> str:
    """The partitions that ``jobs`` (rule -> asked) go to, in words.

    ConfigError (one line) where this machine has no SLURM, or its partitions cannot run one of the jobs.
    """
    partitions: dict[str, list[dict]] = {}
    used: dict[str, str] = {}
    for line in _ask("sinfo", "--noheader", "--format", "%P|%a|%l|%c|%m|%G|%D").splitlines():
        name, available, limit, cpus, memory, gres, nodes = line.strip().split("|")
        row = {
            "available": available,
            "minutes": _minutes(limit),
            "cpus": _number(cpus),
            "mem_mb": _number(memory),
            "gpus": _gpus(gres),
            "nodes": int(nodes),
        }
        partitions.setdefault(name.rstrip("*"), []).append(row)
        if name.endswith("*"):
            partitions[""] = partitions[name.rstrip("*")]
    known = ", ".join(sorted(p for p in partitions if p))
    for key in ("partition", "gpu_partition"):
        name = getattr(site, key)
        for part in name.split(",") if name else ():
            if part not in partitions:
                raise ConfigError(f"{where}: {key}: no partition '{part}' here; known: {known}")
    for rule, asked in jobs.items():
        name = site.partition_of(asked) or ""
        rows = [row for part in name.split(",") for row in partitions.get(part, [])]
        if not rows:
            raise ConfigError(f"{where}: SLURM has no default partition; name one (known: {known})")
        shown = f"partition {name}" if name else "the default partition"
        if all(row["available"] != "up" for row in rows):
            key = "gpu_partition" if asked.gpu else "partition"
            raise ConfigError(f"{where}: {key}: {shown} is {rows[0]['available']}; name another ({known})")
        minutes = site.runtime(asked, 1)
        allowed = min(row["minutes"] for row in rows)
        if minutes > allowed:
            raise ConfigError(
                f"{where}: max_runtime {site.max_runtime}: {rule} asks for {minutes} minutes, {shown} allows {allowed:.0f}"
            )
        fitting = [row for row in rows if row["gpus"].get(site.gpu_type, 0) >= asked.gpu]
        if asked.gpu and not fitting:
            there = max((n for row in rows for n in row["gpus"].values()), default=0)
            kind = f" of type {site.gpu_type}" if site.gpu_type else ""
            raise ConfigError(
                f"resources.{rule}.gpu {asked.gpu}: no node of {shown} has so many GPUs{kind} (most: {there}); "
                f"lower it in the scale file, or see gpu_type and gpu_partition in {where}"
            )
        rows = fitting or rows
        if sum(row["nodes"] for row in rows) < asked.nodes:
            raise ConfigError(f"resources.{rule}.nodes {asked.nodes}: {shown} has {sum(row['nodes'] for row in rows)} such nodes")
        most = max(row["gpus"][None] for row in rows)
        used[shown] = f"{shown}: {sum(row['nodes'] for row in rows)} nodes with up to {most} GPUs, limit {allowed:.0f} minutes"
        for key, wanted in (("mem_mb", asked.mem_mb), ("cpus", asked.threads)):
            if all(row[key] < wanted for row in rows):
                most = max(row[key] for row in rows)
                raise ConfigError(f"resources.{rule}: {wanted} {key} asked for, the nodes of {shown} have {most}")
    if site.account:
        _check_account(site.account, where)
    return "; ".join(used.values())


def _check_account(account: str, where: str) -> None:
    try:
        listed = _ask("sacctmgr", "--noheader", "--parsable2", "show", "assoc", f"user={os.environ.get('USER') or os.getuid()}",
                      "format=account")  # fmt: skip
    except ConfigError:
        return  # no accounting here: nothing checks accounts, sbatch neither
    known = sorted(set(listed.split()))
    if known and account not in known:
        raise ConfigError(f"{where}: account '{account}' is not yours; yours: {', '.join(known)}")


def left_running(folder: Path) -> list[str]:
    """SLURM ids of jobs that an earlier snakemake sent from ``folder`` and that have not ended."""
    if shutil.which("squeue") is None:
        return []
    rows = [line.split("|", 2) for line in _ask("squeue", "--me", "--noheader", "--format", "%i|%Z|%k").splitlines()]
    return [number for number, place, comment in rows if Path(place) == folder and comment.startswith("rule_")]


def started_again(book: Path, since: float) -> list[str]:
    """A line for each command that SLURM had to start more than once since then (seconds since 1970), from the book of starts."""
    starts: dict[str, list[dict]] = {}
    for row in files.read_lines(book):
        if row["began"] >= since:
            starts.setdefault(" ".join(row["command"]), []).append(row)
    return [
        f"{command}: went on {len(rows) - 1} time{'s' * (len(rows) > 2)} after a preemption, time limit, lost node or failure ("
        + ", ".join(
            f"job {row['job']} on {row['node']} {time.strftime('%H:%M:%S', time.localtime(row['began']))}" for row in rows
        )
        + "); the logs of each start say why"
        for command, rows in starts.items()
        if len(rows) > 1
    ]


def environment(site: Site, python: str, book: Path) -> dict[str, str]:
    """What `reals.machine.dispatch` reads on the nodes; ``book`` is the book of starts."""
    launch = {"setup": site.setup, "scratch": site.scratch, "container": site.container, "python": site.python or python}
    return {
        "REALS_SITE": json.dumps({key: value for key, value in launch.items() if value}),
        dispatch.STARTS: str(book.absolute()),
    }


def _number(text: str) -> int:
    """sinfo writes 16+ where nodes differ: at least 16."""
    return int(text.rstrip("+"))


def _minutes(text: str) -> float:
    """A SLURM time limit ([days-]hours:minutes:seconds, minutes:seconds or infinite) in minutes."""
    if text == "infinite" or text == "n/a":
        return float("inf")
    days, _, clock = text.rpartition("-")
    hours, minutes, seconds = ([0, 0, *map(int, clock.split(":"))])[-3:]
    return int(days or 0) * 1440 + hours * 60 + minutes + seconds / 60


def _gpus(gres: str) -> dict[str | None, int]:
    """GPUs of a node by type, and in all (None)."""
    counts: dict[str | None, int] = {None: 0}
    for found in GPU.finditer(gres):
        counts[None] += int(found["count"])
        if found["type"]:
            counts[found["type"]] = counts.get(found["type"], 0) + int(found["count"])
    return counts
