"""Questions to the SLURM at hand: can its partitions run our jobs, would it take them, which of ours are still there."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from reals.experiment.engine import Resources
from reals.experiment.reading import ConfigError
from reals.machine.site import MIG_KIND, Site

SECONDS = 30.0  # patience with a SLURM command
GPU = re.compile(r"gpu(?::(?P<type>[^:(]+))?:(?P<count>\d+)")
# Of what sbatch says: that the request itself is wrong. "Requested node configuration is not available" is not among them: it
# says so too where all nodes are drained or down today, and such a job would be taken and wait.
WRONG = re.compile(r"invalid|permi|unrecognized option", re.IGNORECASE)


@dataclass(frozen=True)
class Nodes:
    """Nodes of one partition that are alike: a line of sinfo."""

    partition: str
    default: bool  # whether jobs that name no partition go here
    state: str  # of the partition: "up", "down", ...
    minutes: float  # that a job may run
    cpus: int  # of each node, as are memory and GPUs
    mem_mb: int
    gpus: dict[str | None, int]  # by type; None: whole ones in all
    count: int

    @classmethod
    def parse(cls, line: str) -> "Nodes":
        """Of a line in `SINFO`."""
        name, state, limit, cpus, memory, gres, count = line.strip().split("|")
        return cls(
            name.rstrip("*"), name.endswith("*"), state, minutes_of(limit), at_least(cpus), at_least(memory), gpus_of(gres),
            int(count),
        )  # fmt: skip


SINFO = ("sinfo", "--noheader", "--format", "%P|%a|%l|%c|%m|%G|%D")


def check(site: Site, where: str, jobs: dict[str, Resources]) -> str:
    """The partitions that ``jobs`` (rule -> asked) go to, in words; ``where`` is the site's file.

    ConfigError (one line) where this machine has no SLURM, its partitions cannot run one of the jobs, or sbatch would refuse it.

    The partitions are compared here, although `sbatch --test-only` exists. That (tried with SLURM 22.05) takes jobs for a
    partition that is down and, unless EnforcePartLimits is set, over its time limit or number of nodes, which then wait for
    ever; it refuses good ones while their nodes are drained; and its words name neither the key nor what there is instead.
    It has the last word on what only SLURM knows: account, QOS, features, permissions, further options.
    """
    nodes = [Nodes.parse(line) for line in ask(*SINFO).splitlines()]
    _check_names(site, where, nodes)
    _check_options(site, where)
    used = {}
    for rule, asked in jobs.items():
        shown, words = _check_partition(site, where, nodes, rule, asked)
        used[shown] = words
    if site.account:
        _check_account(site.account, where)
    tried = set()
    for rule, asked in jobs.items():
        options = site.sbatch_options(asked)
        if tuple(options) not in tried:
            _check_submission(where, rule, options)
        tried.add(tuple(options))
    return "; ".join(used.values())


def left_running(folder: Path) -> list[str]:
    """SLURM ids of jobs that an earlier snakemake sent from ``folder`` and that have not ended."""
    if shutil.which("squeue") is None:
        return []
    rows = [line.split("|", 2) for line in ask("squeue", "--me", "--noheader", "--format", "%i|%Z|%k").splitlines()]
    return [number for number, place, comment in rows if Path(place) == folder and comment.startswith("rule_")]


def ask(*command: str) -> str:
    """What a SLURM command prints; ConfigError (one line) where it does not answer."""
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


def _names(nodes: Iterable[Nodes]) -> str:
    return ", ".join(sorted({row.partition for row in nodes}))


def _check_names(site: Site, where: str, nodes: list[Nodes]) -> None:
    there = {row.partition for row in nodes}
    for key, name in (("partition", site.partition), ("gpu_partition", site.gpu_partition)):
        for part in name.split(",") if name else ():
            if part not in there:
                raise ConfigError(f"{where}: {key}: no partition '{part}' here; known: {_names(nodes)}")


def _check_options(site: Site, where: str) -> None:
    """ConfigError where Snakemake's executor would refuse each job for an option that it sets itself."""
    if not site.options:
        return
    try:
        from snakemake_executor_plugin_slurm.validation import get_forbidden_slurm_options  # type: ignore[import-untyped]
    except ImportError:
        return  # an extra; snakemake itself says what is missing
    for pattern, what in get_forbidden_slurm_options().items():
        if re.search(pattern, site.options):
            raise ConfigError(
                f"{where}: options {site.options}: the {what} follows from the other keys of this file and from `resources` in the scale file; "
                "leave it out"
            )


def _check_partition(site: Site, where: str, nodes: list[Nodes], rule: str, asked: Resources) -> tuple[str, str]:
    """What the job's partition is called, and what it has, in words."""
    name = site.partition_of(asked)
    rows = [row for row in nodes if (row.partition in name.split(",") if name else row.default)]
    if not rows:
        raise ConfigError(f"{where}: SLURM has no default partition; name one (known: {_names(nodes)})")
    shown = f"partition {name}" if name else "the default partition"
    if all(row.state != "up" for row in rows):
        key = "gpu_partition" if asked.gpu else "partition"
        raise ConfigError(f"{where}: {key}: {shown} is {rows[0].state}; name another ({_names(nodes)})")
    minutes, allowed = site.runtime(asked, 1), min(row.minutes for row in rows)
    if minutes > allowed:
        raise ConfigError(
            f"{where}: max_runtime {site.max_runtime}: {rule} asks for {minutes} minutes, {shown} allows {allowed:.0f}"
        )
    rows = _check_gpus(site, where, rows, shown, rule, asked)
    count = sum(row.count for row in rows)
    if count < asked.nodes:
        raise ConfigError(f"resources.{rule}.nodes {asked.nodes}: {shown} has {count} such nodes")
    for key, wanted, most in (
        ("mem_mb", asked.mem_mb, max(row.mem_mb for row in rows)),
        ("cpus", asked.threads, max(row.cpus for row in rows)),
    ):
        if most < wanted:
            raise ConfigError(f"resources.{rule}: {wanted} {key} asked for, the nodes of {shown} have {most}")
    gpus = max(row.gpus[None] for row in rows)
    return shown, f"{shown}: {count} nodes with up to {gpus} GPUs, limit {allowed:.0f} minutes"


def _check_gpus(site: Site, where: str, rows: list[Nodes], shown: str, rule: str, asked: Resources) -> list[Nodes]:
    """Those with the GPUs that the job asks for."""
    if asked.gpu > 1 and MIG_KIND.search(site.gpu_type or ""):
        raise ConfigError(
            f"resources.{rule}.gpu {asked.gpu}: a job can use one MIG slice ({where}: gpu_type {site.gpu_type}), since CUDA shows a process "
            "no more; make it 1 in the scale file, or name whole GPUs"
        )
    fitting = [row for row in rows if row.gpus.get(site.gpu_type, 0) >= asked.gpu]
    if asked.gpu and not fitting:
        there = max((row.gpus[None] for row in rows), default=0)
        kind = f" of type {site.gpu_type}" if site.gpu_type else ""
        raise ConfigError(
            f"resources.{rule}.gpu {asked.gpu}: no node of {shown} has so many GPUs{kind} (most: {there}); "
            f"lower it in the scale file, or see gpu_type and gpu_partition in {where}"
        )
    return fitting or rows


def _check_account(account: str, where: str) -> None:
    try:
        listed = ask("sacctmgr", "--noheader", "--parsable2", "show", "assoc", f"user={os.environ.get('USER') or os.getuid()}",
                     "format=account")  # fmt: skip
    except ConfigError:
        return  # no accounting here: nothing checks accounts, sbatch neither
    known = sorted(set(listed.split()))
    if known and account not in known:
        raise ConfigError(f"{where}: account '{account}' is not yours; yours: {', '.join(known)}")


def _check_submission(where: str, rule: str, options: list[str]) -> None:
    """ConfigError where sbatch would refuse a job with these options for good; no job is made."""
    command = ["sbatch", "--test-only", *options, "--wrap", "true"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return  # sending the job will tell
    said = next((line for line in done.stderr.splitlines() if WRONG.search(line)), None)
    if done.returncode and said:
        words = said.removeprefix("sbatch: ").removeprefix("error: ").removeprefix("allocation failure: ")
        raise ConfigError(f"{where}: SLURM refuses {rule}: {words} (sbatch {shlex.join(options)})")


def at_least(text: str) -> int:
    """sinfo writes 16+ where nodes differ: at least 16."""
    return int(text.rstrip("+"))


def minutes_of(text: str) -> float:
    """A SLURM time limit ([days-]hours:minutes:seconds, minutes:seconds or infinite) in minutes."""
    if text in ("infinite", "n/a"):
        return float("inf")
    days, _, clock = text.rpartition("-")
    hours, minutes, seconds = ([0, 0, *map(int, clock.split(":"))])[-3:]
    return int(days or 0) * 1440 + hours * 60 + minutes + seconds / 60


def gpus_of(gres: str) -> dict[str | None, int]:
    """GPUs of a node by type, and whole ones in all (None), from "gpu:a100:4(S:0-1),gpu:1g.10gb:7": four and seven slices."""
    counts: dict[str | None, int] = {None: 0}
    for found in GPU.finditer(gres):
        kind, count = found["type"], int(found["count"])
        if not MIG_KIND.search(kind or ""):
            counts[None] += count
        if kind:
            counts[kind] = counts.get(kind, 0) + count
    return counts
