"""What snakemake does around its jobs: reads --config, locks results, starts the import server, says at the end where the time went.

workflow/rules/common.smk makes one `Driver` and calls it from Snakemake's hooks.
"""

import logging
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from snakemake.io import IOFile

from reals import files
from reals.cli import following, live
from reals.cli.experiment import KEYS, entry, experiment_from
from reals.cli.forcing import Forced
from reals.experiment import naming
from reals.experiment.engine import Resources
from reals.experiment.graph import Graph
from reals.experiment.reading import ConfigError, read_yaml
from reals.experiment.registry import Registry
from reals.experiment.stage_table import OF_COMMAND, Stage
from reals.machine import dispatch, failures, handover, prefork, restarts, scratch, site, slurm, usage
from reals.machine.cores import THREADS
from reals.machine.signals import EXIT_MISTAKE, STOP_AT
from reals.planning import cost
from reals.planning.preflight import checks
from reals.records import journal
from reals.report import early

if TYPE_CHECKING:
    from snakemake.jobs import Job
    from snakemake.workflow import Workflow

SITE_FILE = "config/site.yaml"
# What a job is told, so that a shell that was started inside one has it too; a stop that has passed would end every training.
FOR_JOBS = (handover.VARIABLE, dispatch.SITE, dispatch.STARTS, dispatch.GRANTED, STOP_AT, THREADS)
DEFAULT_LIMIT = (100, 1)  # Snakemake's --max-jobs-per-timespan: jobs, seconds
# Rules that run where snakemake runs, in seconds; beside them, one rule for each table (`only`).
RENDERING = frozenset({"all", "render", "tables", "figure", "report"})


def literal(text: str) -> str:
    """``text`` in a shell command of Snakemake's, where braces are wildcards."""
    return text.replace("{", "{{").replace("}", "}}")


# The interpreter snakemake runs in, so that `.venv/bin/snakemake` works without activating anything.
PYTHON = literal(shlex.quote(sys.executable))


def only(table: str) -> str:
    """Name of the rule that makes what one table needs and no more."""
    return f"only_{table}"


def as_typed(workflow: "Workflow") -> dict[str, str]:
    """What --config says, as text: in Snakemake's own reading 0042 is 42, 2024_01 is 202401, and `#` begins a comment.

    The jobs on a cluster's nodes are given the same text.
    """
    return dict(entry(text) for text in workflow.config_settings.config_args if text.split("=")[0] in KEYS)


class Driver:
    """One run of snakemake, from reading the config to the last line it prints.

    Snakemake reads the rules in every process it starts: in the first, which plans and waits (``workflow.is_main_process``),
    and, on a cluster, in one more for each job, on its node (``workflow.remote_exec``).
    """

    def __init__(self, workflow: "Workflow", config: Mapping[str, object]):
        """Raises ConfigError (one line) on a mistake in config, sheets, scale or site file."""
        self.workflow = workflow
        for file in workflow.configfiles:
            read_yaml(Path(file))  # refuses what YAML reads as something else, which Snakemake has taken by now
        config = dict(config) | as_typed(workflow)
        self.experiment = experiment_from(config)
        self.registry = Registry(self.experiment)
        self.graph = Graph(self.registry)
        self.site_file = Path(str(config.get("site") or SITE_FILE))
        self.site = site.load(self.site_file)
        # --jobs, as in the SLURM profile, means a cluster; on one machine Snakemake counts cores.
        self.on_cluster = workflow.resource_settings.nodes is not None
        self.starts = self.registry.root / "slurm.jsonl"  # the book of starts
        self.jobs: dict[int, following.Item] = {}  # that this run does, by Snakemake's number
        self.held = ExitStack()  # until this process ends, unless `finish` comes first
        self.began = time.time()
        self.energy = usage.energy()

    @cached_property
    def forced(self) -> Forced:
        """What snakemake was told to make again; a process that runs a single job on its node is told that job alone."""
        return Forced(self.graph, self.workflow.dag_settings)

    @property
    def light(self) -> frozenset[str]:
        """Names of the rules that run where snakemake runs."""
        return RENDERING | {only(table) for table in self.experiment.tables}

    @property
    def training_retries(self) -> int | None:
        """How often a failed training job is sent again; None: as often as any other.

        For the first process alone: the ones that run a single job on its node would each retry it as often again.
        """
        return self.site.training_retries if self.workflow.is_main_process and self.on_cluster else None

    def stated(self, rule: str) -> Resources:
        """What the scale says a job of this rule needs."""
        return self.experiment.scale.resources_of(rule)

    def asked(self, rule: str) -> dict[str, object]:
        """The same as resources of a Snakemake rule."""
        return self.site.request(self.stated(rule))

    def launch(self, stage: Stage) -> str:
        """A stage's shell command, with Snakemake's wildcards for artefact, number and what the job was granted.

        That goes to the launcher, which knows how to start a stage on it.
        """
        granted = "--nodes {resources.nodes} --gpus {resources.gpus_per_node} --threads {threads} --minutes {resources.runtime}"
        together = " --together" if stage.together else ""
        number = f" {{wildcards.{stage.numbering.name}}}" if stage.numbering else ""
        which = f"{{wildcards.{stage.wildcard}}}{number}"
        return (
            f"{PYTHON} -m reals.machine.dispatch {granted}{together} stage {stage.command} {which} {self._options} > {{log}} 2>&1"
        )

    def call(self, command: str) -> str:
        """The shell command of a rule that runs where snakemake runs."""
        return f"{PYTHON} -m reals {command} {self._options}"

    @property
    def _options(self) -> str:
        return literal(shlex.join(["--config", *self.experiment.overrides]))

    def prepare(self) -> None:
        """What each process of snakemake needs before rules are read."""
        if self.workflow.remote_exec:
            os.environ |= site.environment(self.site, sys.executable, self.starts)
        if self.workflow.is_main_process:
            if stale := [name for name in FOR_JOBS if os.environ.pop(name, None)]:
                say(f"reals: ignored {', '.join(stale)} of another run: each job gets its own")
            logging.getLogger("snakemake.logging").addHandler(failures.Lines(self._outlook, self._name))
            if not self.on_cluster:
                self._count_gpus()

    def _name(self, failed: failures.FailedJob) -> str | None:
        return self.jobs[failed.jobid].name if failed.jobid in self.jobs else None

    def _outlook(self, failed: failures.FailedJob) -> str:
        """Has a stop with a saved state use up no try, and a failure that would come again all that are left; says so.

        Snakemake asks for tries that are left after it has told of the failure.
        """
        number = failures.slurm_job(failed)
        how = restarts.how_it_ended(self.starts, number) if number else None
        if how is None:
            return ""
        for job in list(self.workflow.dag.jobs):
            if self.workflow.dag.jobid(job) == failed.jobid:
                job.attempt = job.attempt - 1 if how == "stopped" else job.restart_times + 1
        return "; not tried again, since it would fail in the same way" if how == "hopeless" else ""

    def _count_gpus(self) -> None:
        """Lets Snakemake count this machine's GPUs, as it does cores, unless --resources gpu=... said how many.

        Jobs are counted by ``gpus_per_node``, and lease no more than that.
        """
        if "gpu" in self.workflow.global_resources:
            self.workflow.register_resource("gpus_per_node", self.workflow.global_resources["gpu"].value)
        elif dispatch.visible_gpus():
            self.workflow.register_resource("gpus_per_node", len(dispatch.visible_gpus()))

    def start(self) -> None:
        """Before the first job: locks the results, checks what can be checked, starts the import server.

        A mistake is one line and exit code 2.
        """
        rules = {job.rule.name for job in self.workflow.dag.needrun_jobs()} - self.light
        try:
            # Our own lock in place of Snakemake's: the kernel drops it when this process ends, even by kill -9.
            self.held.enter_context(files.lock(self.registry.root / ".snakemake.lock", str(self.registry.root)))
            if not self.workflow.local_exec:
                self._check_cluster(rules)
            if fault := scratch.temporary_fault():
                say(f"reals: {fault}")
            if rules:
                checks.at_start(self.registry)
            if not self.workflow.touch:
                planned = ((job.rule.name, job.wildcards_dict) for job in self.workflow.dag.needrun_jobs())
                for said in self.forced.begin_anew(planned):
                    say(f"reals: {said}")
        except (ValueError, OSError) as error:  # OSError: results/ cannot be written, an image folder cannot be read
            complain(error)
            sys.exit(EXIT_MISTAKE)
        self._look_when_jobs_end()
        if rules:
            self._draw_early()
            if self.workflow.local_exec:
                self._start_server()
        self._show_jobs()

    def _draw_early(self) -> None:
        """Has the page drawn while the jobs run."""
        for job in self.workflow.dag.needrun_jobs():  # else Snakemake warns that the page is there before its own job
            if job.rule.name == "report":
                self.workflow.dag.reason(job).missing_output.clear()
        # Without Snakemake's record of it the page's date alone counts; with one, inputs of the same content count as unchanged.
        self.workflow.persistence.cleanup_metadata(IOFile(str(self.registry.root / "report.html")))
        self.held.enter_context(early.redrawn(self.registry, self._work))

    def _work(self) -> early.Work:
        dag, named = self.workflow.dag, naming.Names(self.registry)

        def names(jobs: "Iterable[Job]") -> list[str]:  # but those of jobs that only draw
            stages = ((OF_COMMAND.get(job.rule.name), job.wildcards_dict) for job in jobs)
            return [named.job(self.graph.of_rule(stage, wildcards)) for stage, wildcards in stages if stage]

        running = set(self.workflow.scheduler.running)
        return early.Work(names(running), names(j for j in dag.needrun_jobs() if j not in running and not dag.finished(j)))

    def _look_when_jobs_end(self) -> None:
        """Lifts Snakemake's own limit of 100 jobs a second; one that the command line or a profile states stays.

        For its sake the scheduler looks again a second after every look while jobs wait for a core, and each job that ends
        begins one more such chain: after a hundred jobs, it looks a hundred times a second.
        """
        scheduler = self.workflow.scheduler
        limit = scheduler.job_rate_limiter
        if limit is not None and (limit.max_jobs, limit.timespan) == DEFAULT_LIMIT:
            scheduler.job_rate_limiter = None

    def _show_jobs(self) -> None:
        """Shows what the jobs do, unless --quiet or --verbose ask for something else; without it the work goes on all the same."""
        gpus = self.workflow.global_resources.get("gpus_per_node")
        try:
            self.jobs = following.items(
                self.workflow.dag, self.registry, self.experiment.folder / "rates.yaml",
                cores=None if self.on_cluster else self.workflow.cores, gpus=gpus.value if gpus and not self.on_cluster else 0,
                printing=self.light - {"all", "tables", "figure", "report"},
            )  # fmt: skip
        except Exception as error:
            say(f"reals: progress is not shown ({type(error).__name__}: {error})")
            return
        settings = self.workflow.output_settings
        said = {quiet.name for quiet in settings.quiet or ()}
        if self.jobs and not settings.verbose and not said & {"ALL", "PROGRESS"}:
            book = self.starts if self.on_cluster else None
            follow = partial(following.Following, self.jobs, book=book)
            self.held.enter_context(live.shown(follow, logging.getLogger("snakemake.logging")))

    def _start_server(self) -> None:
        where = scratch.for_socket()
        if where is None:
            say("reals: no folder for a socket that is short enough; jobs start an interpreter each. A short TMPDIR helps")
            return
        socket = Path(self.held.enter_context(tempfile.TemporaryDirectory(prefix="reals-", dir=where)), "socket")
        self.held.enter_context(prefork.running(socket))
        os.environ[handover.VARIABLE] = str(socket)

    def _check_cluster(self, rules: set[str]) -> None:
        if left := slurm.left_running(Path.cwd()):
            # They may hold the very folders that new jobs would write to.
            raise ConfigError(
                f"SLURM still runs jobs of an earlier snakemake here, {len(left)} of them; wait for them (squeue --me), "
                f"or: scancel {' '.join(left)}"
            )
        slurm.check(self.site, str(self.site_file), {rule: self.stated(rule) for rule in sorted(rules)})

    def succeed(self) -> None:
        """After the last job."""
        self._finish()
        report = self.registry.root / "report.html"
        if report.exists():
            say(f"\nOpen {report} in a browser.")

    def fail(self) -> None:
        """After the last job, where one failed."""
        self._finish()
        command = "The same command without -F, -R and -f" if self.forced.targets else "The same command"
        say(f"\n{command} goes on from here; nothing that was finished is lost.")

    def _finish(self) -> None:
        self.held.close()
        for line in self.account():
            say(line)

    def account(self) -> Iterator[str]:
        """Lines that say where the time of this run went, which the journal keeps; none where no job ended."""
        for line in restarts.started_again(self.starts, self.began):
            yield f"reals: {line}"
        book = self.registry.root / "journal.jsonl"
        records = journal.read(book, since=self.began)
        rows = journal.by_stage(records)
        if not rows:
            return
        # On a cluster the jobs' CPU time is that of other machines, but for what is rendered here.
        charged = sum(row["cpu"] for row in rows if not self.on_cluster or row["stage"] == "render")
        planned = cost.estimated(cost.Costs(self.registry), records, self.experiment.folder / "rates.yaml")
        engine = max(0.0, usage.cpu_seconds() - charged)
        journal.note_engine(book, self.began, engine)
        yield journal.summary(rows, time.time() - self.began, engine, planned)
        if not planned:
            options = shlex.join(self.experiment.overrides)
            yield f"No plan beside it: run `reals measure --config {options}` once on this device."
        spent = usage.energy_between(self.energy, usage.energy())
        said = "not readable on this machine" if spent is None else f"{spent:.2f} Wh (processors of this machine, RAPL)"
        yield f"Energy: {said}."


def opened(workflow: "Workflow", config: Mapping[str, object]) -> Driver:
    """The driver, ready for rules to be read; a mistake is one line and ends this process with exit code 2, without a traceback."""
    try:
        for said in scratch.settle():
            if workflow.is_main_process:
                say(f"reals: {said}")
        driver = Driver(workflow, config)
    except ValueError as error:  # ConfigError is one
        stop(error)
    driver.prepare()
    return driver


def stop(error: Exception) -> NoReturn:
    """Ends snakemake at once: it would catch an exception raised while it reads the rules, and print its own page about it."""
    complain(error)
    os._exit(EXIT_MISTAKE)


def complain(error: Exception) -> None:
    say(f"reals: {error}")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
