import contextlib
import logging
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reals.planning import cost
from reals.planning.preflight import checks
from reals.machine import dispatch, failures, prefork, site, usage
from reals.cli.experiment import experiment_from
from reals.experiment import figure_list
from reals import files
from reals.records import journal
from reals.experiment.reading import ConfigError
from reals.experiment.registry import Registry
from reals.experiment.stage_table import STAGES


def stop(message):
    """One line, no traceback, before anything runs."""
    print(f"reals: {message}", file=sys.stderr, flush=True)
    os._exit(2)


try:
    EXPERIMENT = experiment_from(config)
    REGISTRY = Registry(EXPERIMENT)
    SITE_FILE = Path(config.get("site") or "config/site.yaml")
    SITE = site.load(SITE_FILE)
except ConfigError as error:
    stop(error)

SCALE = EXPERIMENT.scale
ROOT = str(REGISTRY.root)
# The interpreter snakemake runs in, so that `.venv/bin/snakemake` works without activating anything.
REALS = f"{shlex.quote(sys.executable)} -m reals"
ARGS = shlex.join(["--config", *EXPERIMENT.overrides])
# What a job was granted goes to the launcher, which knows how to start it there.
LAUNCH = (
    f"{shlex.quote(sys.executable)} -m reals.machine.dispatch"
    " --nodes {resources.nodes} --gpus {resources.gpus_per_node} --threads {threads}"
    " --minutes {resources.runtime}"
)


def launch(stage):
    """A job's command: the launcher, the stage, which artefact (and number), and the experiment."""
    together = " --together" if stage.together else ""
    number = f" {{wildcards.{stage.numbering.name}}}" if stage.numbering else ""
    return f"{LAUNCH}{together} stage {stage.command} {{wildcards.{stage.wildcard}}}{number} {{ARGS}} > {{log}} 2>&1"


STARTS = REGISTRY.root / "slurm.jsonl"
if workflow.remote_exec:  # this is the snakemake that runs one job on its node
    os.environ |= site.environment(SITE, sys.executable, STARTS)
# --jobs, as in the SLURM profile, means a cluster; on one machine Snakemake counts cores, and here the GPUs too.
ON_CLUSTER = workflow.resource_settings.nodes is not None
if workflow.is_main_process and not ON_CLUSTER:
    if "gpu" not in workflow.global_resources and dispatch.visible_gpus():
        workflow.register_resource("gpu", len(dispatch.visible_gpus()))
    if "gpu" in workflow.global_resources:  # what a job leases is no more than what it is counted as
        workflow.register_resource("gpus_per_node", workflow.global_resources["gpu"].value)
# For the first process alone: the ones that run a single job on its node would each retry it as often again.
TRAINING_RETRIES = SITE.training_retries if workflow.is_main_process and ON_CLUSTER else None
if workflow.is_main_process:
    logging.getLogger("snakemake.logging").addHandler(failures.Lines())
FIGURE_NAMES = list(figure_list.figures(REGISTRY))
TABLES = expand(f"{ROOT}/tables/{{table}}.{{kind}}", table=EXPERIMENT.tables, kind=["md", "csv", "tex"])
FIGURES = expand(f"{ROOT}/figures/{{figure}}.{{kind}}", figure=FIGURE_NAMES, kind=["pdf", "png"])


wildcard_constraints:
    id="[^/]+",
    step=r"\d+",
    shard=r"\d+",
    # Stages that write to one folder: the ids tell them apart.
    **{
        stage.wildcard: "|".join({re.escape(a.id) for a in REGISTRY.all() if a.kind == stage.kind})
        for stage in STAGES
        if stage.wildcard != "id"
    },


def stated(rule):
    """What the scale says a job of this rule needs."""
    return SCALE.resources_of(rule)


def asked(rule):
    return SITE.request(stated(rule))


def made_from(artefact):
    """The files that show that everything an artefact is made from exists."""
    files = []
    for needed in artefact.needs:
        if needed.kind == "run":
            files.append(f"{REGISTRY.folder(needed)}/step_{artefact.spec['step']}.safetensors")
        elif needed.kind == "samples" and artefact.kind == "downstream":
            # The gallery is in shard 0.
            files += REGISTRY.outputs(needed)[:1] + REGISTRY.outputs(needed.needed("autoencoder"))
        else:
            files += REGISTRY.outputs(needed)
            if needed.kind == "features" and artefact.kind == "downstream":
                files += REGISTRY.outputs(needed.needed("teacher"))
    return [str(file) for file in files]


def unless_made(outputs, files):
    """Inputs of a job that makes ``outputs``: none where they exist already.

    ancient() alone does not do: where an input is missing too and made again for another job (as in a clone that pulled
    a part), Snakemake would run this one again as well.
    """
    made = all(os.path.exists(output) for output in outputs) and not workflow.dag_settings.forceall
    return [] if made else ancient(files)


def inputs(stage):
    """Input function of the rule of a stage."""

    def of(wildcards):
        artefact = REGISTRY.find(stage.kind, wildcards[stage.wildcard])
        if stage.kind == "run":
            return segment_inputs(artefact, int(wildcards.step))
        number = int(wildcards[stage.numbering.name]) if stage.numbering else None
        return unless_made(REGISTRY.files(artefact, number), made_from(artefact))

    return of


def segment_inputs(run, step):
    """What a milestone needs: the run's own inputs, and the milestone before it."""
    earlier = [s for s in REGISTRY.milestones(run) if s < step]
    files = [f"{REGISTRY.folder(needed)}/index.json" for needed in (*run.needs, REGISTRY.data)]
    if earlier:
        files.append(f"{REGISTRY.folder(run)}/step_{earlier[-1]}.safetensors")
    return unless_made(REGISTRY.files(run, step), files)


def metrics_of(artefact):
    return f"{REGISTRY.folder(artefact)}/metrics.json"


SHOWN = [metrics_of(REGISTRY.evaluations[name]) for name in EXPERIMENT.table_evaluations]
SHOWN += sorted({metrics_of(REGISTRY.analyses[name]) for name in EXPERIMENT.analysed_autoencoders})
SHOWN += sorted({metrics_of(artefact) for artefact in REGISTRY.downstream.values()})


def drawn_from(figure):
    """The files a figure is drawn from."""
    return SHOWN if figure in figure_list.WHOLE else [str(file) for file in figure_list.inputs(REGISTRY, figure)]


def shown_in(table):
    """The metrics files that a table shows."""
    return list(cost.Costs(REGISTRY).tables()[table])


DRAWN = sorted({file for figure in FIGURE_NAMES for file in drawn_from(figure)} - set(SHOWN))

BEGAN = time.time()
POWER = usage.energy()
ONLY = {f"only_{table}" for table in EXPERIMENT.tables}
LIGHT = {"all", "render", "tables", "figure", "report", *ONLY}  # they run where snakemake runs
HELD = contextlib.ExitStack()
SERVERS = []  # hooks are functions of their own, so they share through a list


def wait_for(path, process, seconds=600.0):
    """Returns when the import server listens; RuntimeError where it ended instead."""
    began = time.monotonic()
    while not os.path.exists(path):
        if process.poll() is not None or time.monotonic() - began > seconds:
            raise RuntimeError("the import server (python -m reals.machine.prefork) did not start; see its message above")
        time.sleep(0.05)


onstart:
    light = {job.rule.name for job in workflow.dag.needrun_jobs()} <= LIGHT
    try:
        # Our own lock in place of Snakemake's: the kernel drops it when this process ends, even by kill -9.
        HELD.enter_context(files.lock(REGISTRY.root / ".snakemake.lock", ROOT))
        if not workflow.local_exec:
            if left := site.left_running(Path.cwd()):
                # They may hold the very folders that new jobs would write to.
                raise ConfigError(
                    f"SLURM still runs jobs of an earlier snakemake here, {len(left)} of them; wait for them (squeue --me), "
                    f"or: scancel {' '.join(left)}"
                )
            used = {job.rule.name for job in workflow.dag.needrun_jobs()} - LIGHT
            site.check(SITE, str(SITE_FILE), {rule: stated(rule) for rule in sorted(used)})
        if not light:
            checks.at_start(REGISTRY)
    except (ValueError, OSError) as error:  # OSError: results/ cannot be written, an image folder cannot be read
        print(f"reals: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    if workflow.local_exec and not light:
        socket_path = os.path.join(HELD.enter_context(tempfile.TemporaryDirectory(prefix="reals-")), "socket")
        SERVERS.append(subprocess.Popen([sys.executable, "-m", "reals.machine.prefork", socket_path]))
        wait_for(socket_path, SERVERS[0])
        os.environ[prefork.VARIABLE] = socket_path


def finish():
    """Stops the import server and prints where the time went."""
    for server in SERVERS:
        server.terminate()
        server.wait()
    for line in site.started_again(STARTS, BEGAN):
        print(f"reals: {line}", file=sys.stderr)
    records = journal.read(REGISTRY.root / "journal.jsonl", since=BEGAN)
    rows = journal.by_stage(records)
    if rows:
        # On a cluster the jobs' CPU time is that of other machines, but for what is rendered here.
        charged = sum(row["cpu"] for row in rows if not ON_CLUSTER or row["stage"] == "render")
        overhead = max(0.0, usage.cpu_seconds() - charged)
        planned = cost.estimated(cost.Costs(REGISTRY), records, EXPERIMENT.folder / "rates.yaml")
        print(journal.summary(rows, time.time() - BEGAN, overhead, planned), file=sys.stderr)
        if not planned:
            print(f"No plan beside it: run `reals measure --config {shlex.join(EXPERIMENT.overrides)}` once on this device.", file=sys.stderr)
        spent = usage.energy_between(POWER, usage.energy())
        said = "not readable on this machine" if spent is None else f"{spent:.2f} Wh (processors of this machine, RAPL)"
        print(f"Energy: {said}.", file=sys.stderr)


onsuccess:
    finish()
    if Path(ROOT, "report.html").exists():
        print(f"\nOpen {ROOT}/report.html in a browser.", file=sys.stderr)


onerror:
    finish()
    print("\nThe same command goes on from here; nothing that was finished is lost.", file=sys.stderr)
