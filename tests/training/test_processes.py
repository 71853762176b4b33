"""Two processes train as one does: same samples, same noise, same weights, same log; and when one dies, all end and go on."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, copy_project, edit
from forks import codes, fork, fork_all, wait_for
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small import RUN

from reals import rng
from reals.experiment import registry
from reals.experiment.engine import EngineConfig
from reals.experiment.load import load
from reals.experiment.specs import RepaSpec
from reals.machine import compiler, signals, world
from reals.machine.launch import worst
from reals.method.models.transformer import Transformer, TransformerConfig, initialise
from reals.stages import autoencoder, data, transformer
from reals.stages import latents as latents_stage
from reals.stages.context import Context
from reals.training import loop, processes
from reals.training.log import OF_THE_MACHINE, read_log
from reals.training.processes import Processes, shares
from reals.training.states import States
from reals.training.tasks.transformer import TransformerTask, checkpoint_blocks

pytestmark = pytest.mark.process

IMAGES, CLASSES, TEACHER = 24, 5, 6
FAMILIES = {
    "SiT": RUN,
    "DiT": replace(RUN, family="DiT"),
    "REPA": replace(RUN, repa=RepaSpec(depth=1, hidden=8, coefficient=0.5, grad_clip=0.3, teacher_precision=None)),
}


class Latents:
    """Sampled latents by image and flip, as the cache gives them."""

    def __len__(self):
        return IMAGES

    def batch(self, indices, flips, noise):
        table = torch.randn(2, IMAGES, 2, 4, 4, generator=rng.generator(0, "moments"))
        return table[np.asarray(flips).astype(int), indices] + 0.1 * noise


class Teacher:
    """Patch features by image and flip, as `CachedFeatures` gives them."""

    dim = TEACHER

    def __call__(self, indices, flips, images):
        table = torch.randn(2, IMAGES, 4, TEACHER, generator=rng.generator(0, "teacher"))
        return table[np.asarray(flips).astype(int), indices], None


class Task(TransformerTask):
    """The real task; may be slowed down, made to fail in one process, or to tell that it has begun."""

    slow, poison, told = 0.0, None, None

    def update(self, step):
        if self.told is not None and step == 2:
            (self.told / f"going_{self.processes.rank}").touch()
        time.sleep(self.slow)
        record = super().update(step)
        return record

    def losses(self, batch):
        losses = super().losses(batch)
        if self.poison is not None and self.processes.rank == self.poison:
            return losses._replace(total=losses.total * float("nan"))
        return losses


def train(folder: Path, family: str, steps: int, *, wide: bool = False, accumulate: int = 1, precision: str = "fp32",
          engine: EngineConfig | None = None, blocks: bool = False, compiled: bool = False, **changes) -> None:  # fmt: skip
    """Trains the real task in this process and, at the end, writes its weights, EMA and moments."""
    if wide:
        torch.set_default_dtype(torch.float64)
    spec = FAMILIES[family]
    repa = spec.repa
    model = Transformer(
        TransformerConfig(
            width=16, depth=2, heads=2, patch=2, latent_channels=2, latent_size=4, classes=CLASSES, learn_sigma=True,
            label_dropout=0.3, projector_depth=1 if repa else None, projector_dim=TEACHER if repa else None, projector_hidden=8,
        )
    )  # fmt: skip
    initialise(model, rng.generator(0, "weights"))
    if blocks:
        checkpoint_blocks(model)
    labels = torch.arange(IMAGES) % CLASSES
    with Processes(precision, accumulate, compiled) as several:
        task = Task(spec, model, Latents(), labels, several, Teacher() if repa else None)
        for name, value in changes.items():
            setattr(task, name, value)
        loop.train(
            task, folder, steps, label=family, processes=several, engine=engine or EngineConfig(log_every=1), batch=spec.batch
        )
        if several.main:
            torch.save(task.state(), folder / "final.pt")


def final(folder: Path) -> list[torch.Tensor]:
    state = torch.load(folder / "final.pt", weights_only=True)
    moments = [m for s in state["optimizer"]["state"].values() for m in s.values()]
    return [*state["model"].values(), *state["ema"].values(), *moments]


def same(a: Path, b: Path) -> bool:
    return all(torch.equal(x, y) for x, y in zip(final(a), final(b), strict=True))


def one(folder, *arguments, **named):
    assert codes([fork(lambda: train(folder, *arguments, **named))]) == [0]


def many(count, folder, *arguments, **named):
    assert codes(fork_all(count, lambda: train(folder, *arguments, **named))) == [0] * count


def curve(folder: Path) -> list[dict]:
    return [{k: v for k, v in r.items() if k not in OF_THE_MACHINE} for r in read_log(folder / "log.jsonl")]


@given(st.integers(1, 50), st.integers(1, 6), st.integers(1, 5))
def test_shares_cover_a_batch_once_and_weigh_its_mean(n, count, accumulate):
    if n < count:
        with pytest.raises(ValueError, match=f"batch {n} on {count} processes"):
            shares(n, 0, count, accumulate)
        return
    every = [shares(n, rank, count, accumulate) for rank in range(count)]
    assert [i for part in every for share in part for i in range(n)[share.rows]] == list(range(n))
    assert all([share.last for share in part] == [False] * (len(part) - 1) + [True] for part in every)
    sizes = [len(range(n)[share.rows]) for part in every for share in part]
    assert min(sizes) >= 1
    values = np.arange(n, dtype=float) ** 2
    mean = np.mean([sum(share.weight * values[share.rows].mean() for share in part) for part in every])
    assert mean == pytest.approx(values.mean(), rel=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_split_of_the_batch_trains_the_same_network(tmp_path, family):
    one(tmp_path / "1", family, 12, wide=True)
    one(tmp_path / "1x3", family, 12, wide=True, accumulate=3, blocks=True)
    many(2, tmp_path / "2", family, 12, wide=True)
    many(3, tmp_path / "3x2", family, 12, wide=True, accumulate=2)
    many(4, tmp_path / "4", family, 12, wide=True)
    expected = final(tmp_path / "1")
    assert not same(tmp_path / "1", tmp_path / "2")  # another order of summation: equality below says something
    for split in ("1x3", "2", "3x2", "4"):
        for got, wanted in zip(final(tmp_path / split), expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)
        for got, wanted in zip(curve(tmp_path / split), curve(tmp_path / "1"), strict=True):
            assert got == pytest.approx(wanted, rel=1e-9)


def test_two_processes_agree_with_one_in_single_precision(tmp_path):
    one(tmp_path / "1", "SiT", 20)
    many(2, tmp_path / "2", "SiT", 20)
    for got, wanted in zip(final(tmp_path / "2"), final(tmp_path / "1"), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2])
def test_compiled_networks_train_the_same_and_are_saved_under_plain_names(tmp_path, count, monkeypatch):
    compiles = torch.nn.Module.compile
    # Not inductor, which needs a C++ compiler: the graph is what could go wrong, not its code.
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, options=None: compiles(module, backend="aot_eager"))
    monkeypatch.setattr(compiler, "missing", lambda gpu: [])
    many(count, tmp_path / "plain", "SiT", 6, wide=True)
    many(count, tmp_path / "compiled", "SiT", 6, wide=True, compiled=True)
    plain, compiled = (torch.load(tmp_path / name / "final.pt", weights_only=True) for name in ("plain", "compiled"))
    assert compiled["model"].keys() == plain["model"].keys()
    for got, wanted in zip(final(tmp_path / "compiled"), final(tmp_path / "plain"), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("count", [2, 3])
def test_a_warning_to_any_process_stops_all_and_the_resumed_run_has_the_same_bits(tmp_path, count):
    many(count, tmp_path / "whole", "REPA", 30)
    pids = fork_all(count, lambda: train(tmp_path / "cut", "REPA", 30, slow=0.02, told=tmp_path))
    wait_for(tmp_path / "going_1")
    os.kill(pids[-1], signal.SIGTERM)
    assert codes(pids) == [signals.EXIT_STOPPED] * count
    assert 3 <= States(tmp_path / "cut" / "state").steps()[-1] < 30
    many(count, tmp_path / "cut", "REPA", 30)
    assert same(tmp_path / "whole", tmp_path / "cut")
    assert curve(tmp_path / "whole") == curve(tmp_path / "cut")


@pytest.mark.parametrize("victim", [0, 1])
def test_when_a_process_is_killed_the_others_end_and_the_run_goes_on(tmp_path, victim):
    saves = EngineConfig(log_every=1, save_seconds=0.1)
    pids = fork_all(2, lambda: train(tmp_path, "SiT", 30, slow=0.03, told=tmp_path, engine=saves))
    wait_for(tmp_path / "going_0")
    time.sleep(0.3)
    os.kill(pids[victim], signal.SIGKILL)
    ended = codes(pids, seconds=60)
    assert ended[victim] == -signal.SIGKILL
    assert ended[1 - victim] == signals.EXIT_PEER
    many(2, tmp_path, "SiT", 30)
    many(2, tmp_path / "whole", "SiT", 30)
    assert same(tmp_path, tmp_path / "whole")


def test_a_process_that_falls_silent_ends_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(processes, "SILENT_SECONDS", 1.0)
    pids = fork_all(3, lambda: train(tmp_path, "SiT", 2000, slow=0.02, told=tmp_path))
    wait_for(tmp_path / "going_1")
    os.kill(pids[1], signal.SIGSTOP)
    try:
        assert codes([pids[0], pids[2]], seconds=20) == [signals.EXIT_PEER] * 2
    finally:
        os.kill(pids[1], signal.SIGKILL)
        os.waitpid(pids[1], 0)


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs Linux")
def test_a_process_whose_launcher_dies_before_all_have_met_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "ORPHAN_SECONDS", 0.1)

    def waiting():
        os.environ[world.LAUNCHER] = str(os.getppid())
        (tmp_path / "pid").write_text(str(os.getpid()))
        Processes()  # process 1 of 2, and process 0 never comes

    def launcher():
        with socket.socket() as nobody:  # a port at which nobody listens
            nobody.bind(("127.0.0.1", 0))
            fork(waiting, rank=1, count=2, port=nobody.getsockname()[1])
            wait_for(tmp_path / "pid")
            time.sleep(0.3)

    assert codes([fork(launcher)]) == [0]
    status = Path(f"/proc/{(tmp_path / 'pid').read_text()}/status")
    until = time.monotonic() + 20
    while status.exists() and "State:\tZ" not in status.read_text():
        assert time.monotonic() < until, "it still waits"
        time.sleep(0.05)


def test_a_loss_that_is_not_finite_in_one_process_stops_all_at_the_same_step(tmp_path, capfd):
    pids = fork_all(2, lambda: train(tmp_path, "SiT", 30, poison=1, engine=EngineConfig(log_every=4)))
    assert codes(pids) == [2, 2]
    errors = capfd.readouterr().err
    assert errors.count("not finite at step 0 (loss nan") == 2
    assert States(tmp_path / "state").steps() == []


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_near_single_and_resumes_to_the_bit(tmp_path, precision):
    one(tmp_path / "fp32", "SiT", 12)
    one(tmp_path / "whole", "SiT", 12, precision=precision)
    one(tmp_path / "cut", "SiT", 5, precision=precision)
    one(tmp_path / "cut", "SiT", 12, precision=precision)
    assert same(tmp_path / "whole", tmp_path / "cut")
    assert not same(tmp_path / "whole", tmp_path / "fp32")
    got, wanted = curve(tmp_path / "whole"), curve(tmp_path / "fp32")
    assert got[-1]["loss"] == pytest.approx(wanted[-1]["loss"], rel=0.02)
    assert all(v.dtype == torch.float32 for v in final(tmp_path / "whole"))
    if precision == "fp16":
        assert got[-1]["loss_scale"] > 1


def test_without_a_compiler_it_is_said_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(compiler, "missing", lambda gpu: ["a C++ compiler"])
    with pytest.raises(
        ValueError, match=r"engine\.compile: torch\.compile needs a C\+\+ compiler, not found here; install or load"
    ):
        Processes(compiled=True)


def test_an_unknown_precision_is_named():
    with pytest.raises(ValueError, match=r"precision: got 'fp8', expected one of fp32, tf32, bf16, fp16"):
        Processes("fp8")


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """The smoke scale up to the latents: (context, a run), in a folder of its own."""
    folder = tmp_path_factory.mktemp("project")
    copy_project(folder)
    edit(folder / "config/scales/smoke.yaml", "4M: 10}", "4M: 100000}\nengine: {sample_every: 5, log_every: 1}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield until_latents()


def until_latents():
    context = Context(registry.Registry(load("smoke")))
    run = context.registry.runs["sit-b2-sd-vae"]
    data.run(context, context.registry.data)
    autoencoder.run(context, context.registry.autoencoders["sd-vae"])
    latents_stage.run(context, run.needed("latents"))
    return context, run


@pytest.fixture
def fresh(stages):
    """The same, with the run not begun: what an earlier test left, its states too, is gone."""
    context, run = stages
    for folder in (context.folder(run), context.registry.states(run)):
        shutil.rmtree(folder, ignore_errors=True)
    return context, run


def launch(*arguments: str, module: str = "reals.machine.launch") -> subprocess.Popen:
    """torchrun with two processes of `reals`."""
    here = {"PYTHONPATH": str(REPOSITORY / "src"), "REALS_THREADS": "1", "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-m", module, "--nproc-per-node", "2", "--standalone", *arguments]
    return subprocess.Popen(call, env={**os.environ, **here}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_launcher_passes_a_warning_on_and_keeps_the_exit_code(fresh):
    context, run = fresh
    folder = context.folder(run)
    job = launch("stage", "transformer", run.id, "100000", "--config", "scale=smoke")
    try:
        wait_for(folder / "log.jsonl")
        job.send_signal(signal.SIGUSR1)
        _, error = job.communicate(timeout=60)
    finally:
        job.kill()
    assert job.returncode == signals.EXIT_STOPPED, error
    assert error.count("the same command goes on") == 1
    assert States(context.registry.states(run)).steps()
    assert "Traceback" not in error


@pytest.mark.extra
def test_torchrun_trains_a_run_of_the_dag_in_two_processes(fresh):
    context, run = fresh
    job = launch("-m", "reals", "stage", "transformer", run.id, "10", "--config", "scale=smoke", module="torch.distributed.run")
    _, error = job.communicate(timeout=120)
    assert job.returncode == 0, error
    folder = context.folder(run)
    first = read_log(folder / "log.jsonl")
    assert (folder / "step_10.safetensors").exists()
    assert error.count("10/10") == 1
    book = [json.loads(line) for line in (context.registry.root / "journal.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in book] == ["transformer"]
    shutil.rmtree(folder)
    shutil.rmtree(context.registry.states(run))
    transformer.run(context, run, 10)
    alone = read_log(folder / "log.jsonl")
    assert [r["loss"] for r in first] == pytest.approx([r["loss"] for r in alone], rel=1e-5)


def test_exit_codes_of_many_processes_become_one():
    assert worst([75, 75]) == 75
    assert worst([-9, 76]) == 76
    assert worst([75, 2, 76]) == 2


def test_pictures_do_not_disturb_the_run(fresh):
    context, run = fresh
    folder = context.folder(run)
    transformer.run(context, run, 10)
    weights = (folder / "step_10.safetensors").read_bytes()
    pictures = [Image.open(folder / "samples" / f"step_{step}.png") for step in (5, 10)]
    assert [p.size for p in pictures] == [(8 * 32, 2 * 32)] * 2
    assert np.asarray(pictures[1]).std() > 0
    shutil.rmtree(folder)
    edit(Path("config/scales/smoke.yaml"), "sample_every: 5", "sample_every: 0")
    plain = Context(registry.Registry(load("smoke")))
    assert plain.registry.runs["sit-b2-sd-vae"].id == run.id
    transformer.run(plain, run, 10)
    assert (folder / "step_10.safetensors").read_bytes() == weights
    assert not (folder / "samples").exists()
