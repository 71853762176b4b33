"""The site file: what differs between SLURM clusters, and how a job asks for its resources there."""

import json
import shlex
from pathlib import Path

from pydantic import Field

from reals.experiment.engine import Resources
from reals.experiment.reading import Strict, read
from reals.machine import dispatch


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
    """How often a training job is sent again after a lost node or another failure. Stops before the time limit do not count."""
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

    def gres(self, gpus: int) -> str:
        """GPUs of each node, as SLURM's options write them."""
        return ":".join(filter(None, ["gpu", self.gpu_type, str(gpus)]))

    def sbatch_options(self, resources: Resources) -> list[str]:
        """What one job asks for, in sbatch's words."""
        named = {
            "partition": self.partition_of(resources), "account": self.account, "qos": self.qos, "constraint": self.constraint,
            "time": self.runtime(resources, 1), "mem": resources.mem_mb, "nodes": resources.nodes, "ntasks": resources.nodes,
            "cpus-per-task": resources.threads, "gres": self.gres(resources.gpu) if resources.gpu else None,
        }  # fmt: skip
        return [f"--{name}={value}" for name, value in named.items() if value is not None] + shlex.split(self.options or "")

    def request(self, resources: Resources) -> dict[str, object]:
        """What one job asks for, in the words of Snakemake's SLURM executor; local runs heed ``gpu`` alone.

        On one node the executor's own step is the only task. On several the job is declared an MPI one, which leaves
        the steps to `reals.machine.dispatch`, and GPUs are asked for per node: a total would be split unevenly.
        """
        asked: dict[str, object] = {
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
            asked |= {
                "mpi": "srun",
                "tasks": resources.nodes,
                "tasks_per_gpu": 0,
                "gpu": 0,
                "gres": self.gres(resources.gpu) if resources.gpu else None,
                "slurm_extra": " ".join(filter(None, ["--ntasks-per-node=1", self.options])),
            }
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
