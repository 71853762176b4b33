"""What snakemake does around its jobs, without snakemake."""

import json
import logging
import os
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import edit
from snakemake.cli import get_argument_parser, parse_config
from snakemake.persistence import PersistenceBase
from snakemake.scheduling.job_scheduler import JobRateLimiter
from snakemake.settings.types import MaxJobsPerTimespan

from reals import files
from reals.cli import driver
from reals.experiment.engine import Resources
from reals.experiment.naming import Names
from reals.experiment.reading import ConfigError
from reals.experiment.stage_table import OF_COMMAND
from reals.machine import dispatch, failures, handover, prefork, scratch, signals, slurm
from reals.machine.signals import STOP_AT
from reals.planning.preflight import checks
from reals.records import journal
from reals.report import early


class Job:
    """What the driver asks of one of Snakemake's jobs."""

    def __init__(self, rule: SimpleNamespace, wildcards: dict[str, str]):
        self.rule, self.wildcards_dict = rule, wildcards


class Workflow(SimpleNamespace):
    """What the driver asks of Snakemake's, for a run on one machine."""

    def __init__(
        self, *rules: str, main: bool = True, remote: bool = False, local: bool = True, jobs: int | None = None,
        typed: tuple[str, ...] = (), **counted: int,
    ):  # fmt: skip
        super().__init__(
            is_main_process=main,
            touch=False,
            dag_settings=SimpleNamespace(forceall=False, forcerun=set(), forcetargets=False, targets=set()),
            remote_exec=remote,
            local_exec=local,
            resource_settings=SimpleNamespace(nodes=jobs),
            scheduler=SimpleNamespace(job_rate_limiter=None),
            config_settings=SimpleNamespace(config_args=list(typed)),
            configfiles=["config/config.yaml"],
            global_resources={name: SimpleNamespace(value=count) for name, count in counted.items()},
            persistence=SimpleNamespace(
                cleanup_metadata=lambda file: PersistenceBase._get_key(None, file)
            ),  # asks for its own type
            cores=2,
            output_settings=SimpleNamespace(quiet=None, verbose=False),
            dag=SimpleNamespace(
                needrun_jobs=lambda: [SimpleNamespace(rule=SimpleNamespace(name=r, norun=True), wildcards_dict={}) for r in rules]
            ),
        )

    def register_resource(self, name: str, value: int) -> None:
        self.global_resources[name] = SimpleNamespace(value=value)

    def counted(self) -> dict[str, int]:
        return {name: resource.value for name, resource in self.global_resources.items()}


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """Environment and Snakemake's logger as they were; no GPU, whatever the machine has; no thread that draws pages."""
    monkeypatch.setattr(driver.early, "redrawn", lambda registry, work: nullcontext())
    for name in (handover.VARIABLE, dispatch.SITE, dispatch.STARTS):
        monkeypatch.setenv(name, "to be restored")  # and so removed at the end, whatever a driver wrote
        monkeypatch.delenv(name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    logger = logging.getLogger("snakemake.logging")
    handlers = list(logger.handlers)
    yield
    logger.handlers[:] = handlers


def smoke(*rules: str, **named) -> driver.Driver:
    return driver.Driver(Workflow(*rules, **named), {"scale": "smoke"})


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"scale": "smoke", "scle": "demo"}, "--config scle: unknown key; known: data, rehearsal, scale, seed, site"),
        ({"scale": "smoke", "seed": "one"}, "--config seed=one: expected a whole number"),
        ({"scale": "smok"}, "did you mean 'smoke'"),
        ({"scale": "smoke", "site": "none.yaml"}, "none.yaml"),
        ({"scale": "smoke", "data": " "}, "data has no value; write one, or leave data out"),
        ({"scale": "smoke", "data": 34}, 'data was read as 34, which is no text; put what you mean in quotes, e.g. data: "0042"'),
    ],
)
def test_a_mistake_in_the_config_is_one_line(project, config, says):
    with pytest.raises(ConfigError) as caught:
        driver.Driver(Workflow(), config)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_number_of_another_base_in_a_config_file_is_refused(project):
    (project / "config/config.yaml").write_text("scale: smoke\nseed: 010\n")
    with pytest.raises(ConfigError, match=r"config\.yaml line 2: not valid YAML \(010 would be read as 8; write that, or put"):
        driver.Driver(Workflow(), {"scale": "smoke", "seed": 8})


@pytest.mark.process
def test_a_mistake_ends_snakemake_while_it_reads_the_rules(project, capfd):
    pid = os.fork()
    if pid == 0:
        driver.opened(Workflow(), {"scale": "smoke", "seed": "one"})
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == signals.EXIT_MISTAKE
    assert capfd.readouterr().err == "reals: --config seed=one: expected a whole number\n"


def test_the_config_decides_the_experiment(project):
    own = driver.Driver(Workflow(), {"scale": "smoke", "seed": 7, "data": None, "site": None})
    assert own.experiment.overrides == ("scale=smoke", "seed=7")
    assert own.site_file == Path("config/site.yaml")
    assert driver.Driver(Workflow(), {"scale": "imagenet256", "rehearsal": True}).experiment.overrides[-1] == "rehearsal=true"


def test_names_and_paths_stay_as_they_were_typed(project):
    """Snakemake's own reading of --config makes 42, 202401, True, nothing and "a" of these."""
    for folder in ("0042", "2024_01", "true", "null", "1e5", "a #b", "[x]", "'quoted'"):
        (project / folder).mkdir()
        read = parse_config(["scale=smoke", f"data={folder}"])
        own = driver.Driver(Workflow(typed=("scale=smoke", f"data={folder}")), {"scale": "demo", "data": None} | read)
        assert own.experiment.overrides == ("scale=smoke", f"data={folder}")
        assert own.experiment.scale.data.path == folder


def test_what_is_typed_wrong_is_one_line(project):
    with pytest.raises(ConfigError, match="--config data=: no value; write one, or leave data out"):
        driver.Driver(Workflow(typed=("data=",)), {"scale": "smoke", "data": None})
    with pytest.raises(ConfigError, match="--config scle: unknown key"):
        driver.Driver(Workflow(typed=("scle=demo",)), {"scale": "smoke", "scle": "demo"})


@pytest.mark.parametrize(("stated", "left"), [(None, None), ("7/1m", (7, 60))])
def test_the_scheduler_looks_when_jobs_end_and_not_by_the_second(project, stated, left):
    """The limit that Snakemake states by itself is lifted, one that a user states stays."""
    stated = stated or get_argument_parser().get_default("max_jobs_per_timespan")
    scheduler = SimpleNamespace(job_rate_limiter=JobRateLimiter(MaxJobsPerTimespan.parse_choice(stated)))
    own = smoke()
    own.workflow.scheduler = scheduler
    own.start()
    limit = scheduler.job_rate_limiter
    assert (limit and (limit.max_jobs, limit.timespan)) == left


def test_a_stage_is_launched_with_what_its_job_was_granted(project):
    said = smoke().launch(OF_COMMAND["transformer"])
    wildcards, granted = SimpleNamespace(id="x", step=2), SimpleNamespace(nodes=2, gpus_per_node=8, runtime=30)
    assert said.format(resources=granted, threads=4, wildcards=wildcards, log="x.log") == (
        f"{sys.executable} -m reals.machine.dispatch --nodes 2 --gpus 8 --threads 4 --minutes 30 --together "
        "stage transformer x 2 --config scale=smoke > x.log 2>&1"
    )
    assert smoke().call("tables") == f"{sys.executable} -m reals tables --config scale=smoke"


def test_braces_in_a_path_are_no_wildcards(project):
    (project / "a{b}").mkdir()
    own = driver.Driver(Workflow(), {"scale": "smoke", "data": "a{b}"})
    assert own.call("tables").format() == f"{sys.executable} -m reals tables --config scale=smoke 'data=a{{b}}'"


def test_the_scale_states_what_jobs_ask_for_and_the_site_translates_it(project):
    assert smoke().stated("sample") == Resources()
    with (project / "config/scales/smoke.yaml").open("a") as file:
        file.write("resources: {default: {threads: 2}, transformer: {gpu: 4, threads: 8}}\n")
    own = smoke()
    assert (own.stated("sample").threads, own.stated("transformer").threads) == (2, 8)
    assert own.asked("transformer")["gpus_per_node"] == 4


def test_training_is_tried_again_by_the_first_process_on_a_cluster_alone(project):
    edit(project / "config/site.yaml", "training_retries: 10", "training_retries: 3")
    assert smoke(jobs=50).training_retries == 3
    assert smoke().training_retries is None
    assert smoke(jobs=50, main=False, remote=True).training_retries is None


def test_a_saved_stop_uses_up_no_try_and_a_hopeless_failure_all(project):
    own = smoke(jobs=50)
    jobs = {number: SimpleNamespace(attempt=2, restart_times=3) for number in (1, 2, 3)}
    own.workflow.dag = SimpleNamespace(jobs=jobs.values(), jobid=lambda job: next(n for n, other in jobs.items() if other is job))
    begun = {"began": 1.0, "node": "n1", "command": ["stage", "transformer", "x", "2"]}
    book(
        own.starts,
        begun | {"job": "71"},
        begun | {"job": "72"},
        {"ended": 2.0, "job": "71", "how": "stopped"},
        {"ended": 2.0, "job": "72", "how": "hopeless"},
        begun | {"job": "73"},
        {"ended": 2.0, "job": "73", "how": "stopped"},
        begun | {"job": "73"},  # preempted, and killed the second time
    )

    def said(number: int) -> str:
        return own._outlook(SimpleNamespace(jobid=number, rule_msg=f"SLURM-job '7{number}' failed, SLURM status is: 'FAILED'."))

    assert said(1) == "" and jobs[1].attempt == 1
    assert said(2) == "; not tried again, since it would fail in the same way" and jobs[2].attempt > jobs[2].restart_times
    assert said(3) == "" and jobs[3].attempt == 2
    assert own._outlook(SimpleNamespace(jobid=1, rule_msg=None)) == ""


def test_gpus_are_counted_on_one_machine(project, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    for named, expected in (
        ({}, {"gpus_per_node": 2}),
        ({"gpu": 1}, {"gpu": 1, "gpus_per_node": 1}),  # --resources gpu=1
        ({"gpu": 0}, {"gpu": 0, "gpus_per_node": 0}),
        ({"jobs": 50}, {}),  # SLURM counts them
        ({"main": False, "remote": True}, {}),
    ):
        own = smoke(**named)
        own.prepare()
        assert own.workflow.counted() == expected
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    own = smoke()
    own.prepare()
    assert own.workflow.counted() == {}


def test_a_job_on_its_node_is_told_of_the_site_and_the_first_process_says_what_failed(project):
    logger = logging.getLogger("snakemake.logging")
    before = len(logger.handlers)
    smoke(main=False, remote=True).prepare()
    assert json.loads(os.environ[dispatch.SITE]) == {"python": sys.executable}
    assert os.environ[dispatch.STARTS] == str(project / "results/smoke/slurm.jsonl")
    assert len(logger.handlers) == before
    smoke().prepare()
    assert isinstance(logger.handlers[-1], failures.Lines)


def test_what_another_run_told_its_jobs_is_ignored_and_named(project, monkeypatch, capsys):
    """As in a shell that was started inside a job; a stop that has passed would end every training at once."""
    for name in driver.FOR_JOBS:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    driver.opened(Workflow(main=False, remote=True), {"scale": "smoke"})
    assert os.environ[STOP_AT] == "1" and capsys.readouterr().err == ""  # a job's own
    monkeypatch.setenv("WORLD_SIZE", "2")
    driver.opened(Workflow(), {"scale": "smoke"})
    assert not {*driver.FOR_JOBS, "WORLD_SIZE"} & os.environ.keys()
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("reals: ignored WORLD_SIZE=2: ")
    assert second.startswith("reals: ignored REALS_PREFORK, REALS_SITE, ") and "REALS_STOP_AT" in second


@pytest.fixture
def server(monkeypatch) -> list[Path]:
    """In the import server's place: where it was asked to listen."""
    asked: list[Path] = []

    class Popen:
        def __init__(self, command):
            asked.append(Path(command[-1]))
            asked[-1].touch()

        def poll(self):
            return None

        def terminate(self):
            asked[-1].unlink(missing_ok=True)  # at the latest when an unfinished driver is collected

        def wait(self):
            assert not asked[-1].exists()

    monkeypatch.setattr(prefork.subprocess, "Popen", Popen)
    return asked


def test_jobs_find_the_import_server_and_nobody_else_writes_there(project, server, capsys):
    own = smoke("data", "all")
    own.start()
    assert os.environ[handover.VARIABLE] == str(server[0]) and server[0].exists()
    with (
        pytest.raises(ValueError, match="is being written by"),
        files.lock(Path("results/smoke/.snakemake.lock"), "results/smoke"),
    ):
        pass
    with pytest.raises(SystemExit) as ended:
        smoke("data").start()
    assert ended.value.code == signals.EXIT_MISTAKE
    assert capsys.readouterr().err.startswith("reals: results/smoke is being written by ")
    own.succeed()
    assert not server[0].parent.exists()
    with files.lock(Path("results/smoke/.snakemake.lock"), "results/smoke"):
        pass


def test_a_long_tmpdir_costs_no_server(project, server, tmp_path, monkeypatch, capsys):
    long = tmp_path / ("long" * 30)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    own = smoke("data")
    own.start()
    assert len(os.environ[handover.VARIABLE]) < 103 and not server[0].is_relative_to(long)
    own.succeed()
    monkeypatch.setattr(scratch, "for_socket", lambda: None)
    own = smoke("data")
    own.start()
    assert len(server) == 1 and "jobs start an interpreter each" in capsys.readouterr().err
    own.succeed()


def test_rendering_alone_needs_no_server_and_no_checks(project, server, monkeypatch):
    monkeypatch.setattr(checks, "at_start", lambda registry: pytest.fail("checked"))
    own = smoke("all", "tables", "figure", "report", "render", "only_table03")
    own.start()
    assert server == []
    own.fail()


def test_what_the_checks_refuse_is_one_line(project, server, monkeypatch, capsys):
    def refuse(registry):
        raise ConfigError("disk: full")

    monkeypatch.setattr(checks, "at_start", refuse)
    with pytest.raises(SystemExit) as ended:
        smoke("data").start()
    assert ended.value.code == signals.EXIT_MISTAKE and server == []
    assert capsys.readouterr().err == "reals: disk: full\n"


def test_on_a_cluster_its_partitions_are_checked_for_the_rules_that_are_needed(project, server, monkeypatch, capsys):
    asked = {}
    monkeypatch.setattr(slurm, "left_running", lambda folder: [])
    monkeypatch.setattr(slurm, "check", lambda here, where, jobs: asked.update({where: jobs}))
    own = smoke("transformer", "all", "data", "only_table03", local=False, jobs=50)
    own.start()
    assert {where: list(jobs) for where, jobs in asked.items()} == {"config/site.yaml": ["data", "transformer"]}
    assert server == []  # jobs run elsewhere
    own.succeed()
    monkeypatch.setattr(slurm, "left_running", lambda folder: ["12", "13"])
    with pytest.raises(SystemExit):
        smoke("transformer", local=False, jobs=50).start()
    assert capsys.readouterr().err.splitlines()[-1].endswith("2 of them; wait for them (squeue --me), or: scancel 12 13")


def test_what_is_told_to_be_made_again_is_set_aside_before_the_first_job(project, server, monkeypatch, capsys):
    monkeypatch.setattr(checks, "at_start", lambda registry: None)
    own = smoke()
    artefact = own.registry.data
    [index] = own.registry.outputs(artefact)
    index.parent.mkdir(parents=True)
    index.touch()
    job = SimpleNamespace(rule=SimpleNamespace(name="data"), wildcards_dict={"id": artefact.id})
    own.workflow.dag = SimpleNamespace(needrun_jobs=lambda: [job])
    own.workflow.dag_settings.forcerun = {"data"}
    own.workflow.touch = True
    own.start()
    assert index.exists()
    own.held.close()
    own.workflow.touch = False
    own.start()
    assert not index.exists() and "reals: made again from the start, as told" in capsys.readouterr().err
    own.fail()
    assert capsys.readouterr().err.startswith("\nThe same command without -F, -R and -f goes on from here; ")


def test_the_end_says_what_to_open_or_how_to_go_on(project, capsys):
    smoke().succeed()
    assert capsys.readouterr().err == ""
    Path("results/smoke").mkdir(parents=True)
    Path("results/smoke/report.html").touch()
    smoke().succeed()
    assert capsys.readouterr().err == "\nOpen results/smoke/report.html in a browser.\n"
    smoke().fail()
    assert capsys.readouterr().err == "\nThe same command goes on from here; nothing that was finished is lost.\n"


def book(path: Path, *rows: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_account_holds_this_runs_jobs_and_their_share(project, monkeypatch):
    monkeypatch.setattr(driver.usage, "cpu_seconds", lambda: 100.0)
    monkeypatch.setattr(driver.usage, "energy", lambda: {})
    row = {"artefact": "x", "wall": 9.0, "work": 1.0}
    here, through = smoke(), smoke(jobs=50)
    kept = here.registry.root / "journal.jsonl"
    book(
        kept,
        row | {"stage": "data", "began": time.time() - 3600, "cpu": 1000.0},  # an earlier run's
        row | {"stage": "data", "began": time.time() + 1, "cpu": 30.0},
        row | {"stage": "render", "began": time.time() + 2, "cpu": 10.0},
    )
    for own, engine in ((here, "60.0"), (through, "90.0")):  # on a cluster, jobs' CPU time is not of this machine
        table, no_plan, energy = own.account()
        assert [line.split()[0] for line in table.splitlines()] == ["stage", "data", "render", "engine", "all"]
        assert table.splitlines()[3].split()[1] == engine
        assert journal.engines(kept)[-1]["cpu"] == float(engine)
        assert no_plan == "No plan beside it: run `reals measure --config scale=smoke` once on this device."
        assert energy == "Energy: not readable on this machine."


def test_the_account_names_what_slurm_started_again(project):
    own = smoke(jobs=50)
    start = {"began": time.time() + 1, "node": "n1", "command": ["stage", "sample", "x", "0"]}
    book(own.starts, start | {"job": "1"}, start | {"job": "2"})
    [line] = own.account()
    assert line.startswith("reals: stage sample x 0: went on 1 time")


def test_the_early_page_names_what_runs_and_what_waits_and_leaves_out_what_is_done_or_only_drawn(project):
    own = smoke()
    registry = own.registry
    run, samples = registry.runs["sit-b2-reals"], registry.samples["sit-b2-reals_400K"]

    def job(stage, artefact, **numbers):
        return Job(SimpleNamespace(name=stage.command), {stage.wildcard: artefact.id} | numbers)

    done = job(registry.data.stage, registry.data)
    runs, waits = job(run.stage, run, step="2"), job(samples.stage, samples, shard="0")
    draws = Job(SimpleNamespace(name="report"), {})
    dag = SimpleNamespace(needrun_jobs=lambda: [done, runs, waits, draws], finished=lambda job: job is done)
    own.workflow.dag, own.workflow.scheduler = dag, SimpleNamespace(running=[runs])
    names = Names(registry)
    assert own._work() == early.Work([names.of(run, 2)], [names.of(samples, 0)])
