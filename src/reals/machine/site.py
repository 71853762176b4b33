"""The site file: what differs between SLURM clusters, and how a job asks for its resources there."""

import json
import re
import shlex
from pathlib import Path

from pydantic import Field

from reals.experiment.engine import Resources
from reals.experiment.reading import Strict, read
from reals.machine import dispatch

PLAIN = re.compile(r"[A-Za-z0-9_.]+")  # GPU types that Snakemake's executor (2.8.0) takes in a gres
MIG_KIND = re.compile(r"\d+g\.\d+gb")  # in the type of a slice of a GPU, such as 1g.10gb or a100_3g.20gb


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
    """As in the third column of `sinfo -o "%P %l %G"`: gpu:a100:8 -> a100; of MIG slices their kind, e.g. 1g.10gb."""
    constraint: str | None
    """A node feature to ask for."""
    max_runtime: int = Field(gt=0)
    """Minutes a job may ask for: the shortest limit of the partitions above. Training goes on in the next job."""
    training_retries: int = Field(ge=0)
    """How often a training job is sent again after a lost node or another failure. Stops before the time limit do not count."""
    options: str | None
    """More sbatch options, e.g. --exclusive --mail-type=FAIL."""
    scratch: str | None
    """Node-local folder for temporary files, e.g. /scratch/$USER; made where it does not exist."""
    setup: str | None
    """Shell lines before each job (bash, no login shell), e.g. module load cuda/13.0."""
    container: str | None
    """Put before each job's command, e.g. apptainer exec --nv /project/reals.sif."""
    python: str | None
    """The interpreter, where it is not the one snakemake runs in (in a container: python3)."""

    def partition_of(self, resources: Resources) -> str | None:
        return self.gpu_partition if resources.gpu else self.partition

    def gpus(self, resources: Resources) -> dict[str, str]:
        """sbatch's option for the GPUs of each node, its name and value; none where none are asked for.

        Not `--gpus`: a total is split unevenly between nodes, and some sites know `--gres` alone. The executor refuses unusual
        types in a gres and has no word for the other option, which it passes on.
        """
        if not resources.gpu:
            return {}
        counted = ":".join(filter(None, [self.gpu_type, str(resources.gpu)]))
        return {"gres": f"gpu:{counted}"} if PLAIN.fullmatch(self.gpu_type or "any") else {"gpus-per-node": counted}

    def sbatch_options(self, resources: Resources) -> list[str]:
        """What one job asks for, in sbatch's words."""
        named = {
            "partition": self.partition_of(resources), "account": self.account, "qos": self.qos, "constraint": self.constraint,
            "time": self.runtime(resources, 1), "mem": resources.mem_mb, "nodes": resources.nodes, "ntasks": resources.nodes,
            "cpus-per-task": resources.threads, **self.gpus(resources),
        }  # fmt: skip
        return [f"--{name}={value}" for name, value in named.items() if value is not None] + shlex.split(self.options or "")

    def request(self, resources: Resources) -> dict[str, object]:
        """What one job asks for, in the words of Snakemake's SLURM executor; local runs heed ``gpus_per_node`` alone.

        On one node the executor's own step is the only task. On several the job is declared an MPI one, which leaves
        the steps to `reals.machine.dispatch`.
        """
        gpus = self.gpus(resources)
        further = [f"--{name}={value}" for name, value in gpus.items() if name != "gres"]
        asked: dict[str, object] = {
            "nodes": resources.nodes,
            "gpus_per_node": resources.gpu,
            "mem_mb": resources.mem_mb,
            "runtime": lambda wildcards, attempt: self.runtime(resources, attempt),
            "slurm_partition": self.partition_of(resources),
            "slurm_account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "gres": gpus.get("gres"),
        }
        if resources.nodes > 1:
            asked |= {"mpi": "srun", "tasks": resources.nodes, "tasks_per_gpu": 0}
            further.append("--ntasks-per-node=1")
        asked["slurm_extra"] = " ".join(filter(None, [*further, self.options])) or None
        return {key: value for key, value in asked.items() if value is not None}

    def runtime(self, resources: Resources, attempt: int) -> int:
        """Minutes: more with each attempt, never beyond what the site allows."""
        return min(resources.runtime * max(1, attempt), self.max_runtime)


def load(path: Path) -> Site:
    """Raises ConfigError (one line) on a missing, unknown or wrong key."""
    return read(Site, path)


def environment(site: Site, python: str, book: Path) -> dict[str, str]:
    """Environment variables that `reals.machine.dispatch` reads on the nodes; ``book`` records which SLURM job started what."""
    launch = {"setup": site.setup, "scratch": site.scratch, "container": site.container, "python": site.python or python}
    return {
        dispatch.SITE: json.dumps({key: value for key, value in launch.items() if value}),
        dispatch.STARTS: str(book.absolute()),
    }
