"""A defect of each kind, planted, makes its check of the selftest fail."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from torch.utils._python_dispatch import TorchDispatchMode

from reals import rng
from reals.experiment.sampler_table import SAMPLERS
from reals.machine import compiler, cuda
from reals.method import precision as precisions
from reals.method.models import autoencoder as autoencoders
from reals.method.models import transformer
from reals.planning.selftest import checks, drawing, runs
from reals.planning.selftest import device as machine
from reals.planning.selftest.agreement import leaves
from reals.planning.selftest.outcome import Check, Fault, Skipped, results
from reals.planning.selftest.runs import Runs, Training
from reals.planning.selftest.steps import ALLOWED, CPU, Steps, Trace, apart, made
from reals.planning.selftest.tiny import LabelsStandIn, Tiny
from reals.training.ema import update_ema
from reals.training.tasks import transformer as tasks

GPU = torch.device("cuda", 0)  # named, never used
CONFIG = REPOSITORY / "config"


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return checks.tiny(CONFIG)


@pytest.fixture(scope="module")
def traced(tiny):
    """Steps whose traces in float32 are shared."""
    return Steps(tiny, CPU)


def failed(look) -> str:
    """What a check says that must fail."""
    (result,) = results([Check("it", look, "mend it")])
    assert result.mark == "FAIL", result
    assert result.said.endswith("; mend it")
    return result.said


def test_a_driver_that_is_too_old(monkeypatch):
    monkeypatch.setattr(cuda, "driver", lambda: "535.104.05")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "needs 580 or newer" in failed(lambda: machine.driver(CPU))
    assert "needs 580 or newer" in failed(lambda: machine.gpu(CPU))
    assert "a compatibility package" in machine.driver(GPU)
    monkeypatch.setattr(cuda, "driver", lambda: "580.65.06")
    assert "PyTorch sees no GPU" in failed(lambda: machine.gpu(CPU))


def test_a_gpu_that_pytorch_has_no_kernels_for_or_that_is_full(monkeypatch):
    assert machine.runs_on((8, 9), ["sm_80"])
    assert machine.runs_on((12, 1), ["sm_90", "compute_90"])
    assert not machine.runs_on((8, 6), ["sm_89", "sm_90"])
    assert not machine.runs_on((12, 0), ["sm_90a", "sm_100a"])
    properties = type("Properties", (), {"name": "NVIDIA V100", "major": 7, "minor": 0})
    free = [30e9, 32e9]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: tuple(free))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert "compute capability 7.0, this PyTorch's kernels are for sm_75" in failed(lambda: machine.gpu(GPU))
    properties.major, properties.minor = 8, 6
    assert machine.gpu(GPU) == "1 x NVIDIA V100, 30.0 of 32.0 GB free, compute capability 8.6, a whole GPU"
    free[0] = 1e9
    assert "nvidia-smi shows who holds the rest" in failed(lambda: machine.gpu(GPU))


def test_attention_without_a_fused_kernel(monkeypatch):
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert machine.attention_kernel(CPU, torch.float32, 64) == "math"
    assert machine.attention_kernel(CPU, torch.float32, 64) == "flash"
    monkeypatch.setattr(machine, "attention_kernel", lambda device, dtype, width: "math" if width == 72 else "flash")
    assert "bf16 at head width 72, fp32 at head width 72 has no fused kernel" in failed(lambda: machine.attention(GPU))


def test_tf32_that_is_not_as_it_was_set(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(precisions, "allow_tf32", lambda allowed: None)
        assert "sets TF32 of products and convolutions to" in failed(lambda: machine.tf32(CPU))
    monkeypatch.setattr(machine, "product_error", lambda a, b: 3e-4)
    assert "fp32: a float32 product is 3.0e-04 off, so TF32 is on" in failed(lambda: machine.tf32(CPU))


def test_a_pytorch_without_what_processes_talk_by_and_a_missing_compiler(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    assert "no NCCL" in failed(lambda: machine.exchange(GPU))
    monkeypatch.setattr(torch.distributed, "is_gloo_available", lambda: False)
    assert "no gloo" in failed(lambda: machine.exchange(CPU))
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Skipped, match=r"a C\+\+ compiler missing; only engine.compile needs it"):
        machine.compiler(CPU)
    assert "a C compiler" in failed(lambda: machine.compiler(GPU))
    with pytest.raises(Skipped, match="compiler missing"):
        Runs(None, CPU, tmp_path, tmp_path).compiled()


PRODUCTS = (
    "mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward", "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention_for_cpu_backward",
)  # fmt: skip
DROPPED = 13  # bits of a float32's mantissa that TF32 has not


class Tf32(TorchDispatchMode):
    """A CPU whose products round their factors as TF32 does."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name.removeprefix("aten::") in PRODUCTS:
            args = [_cut(a) if isinstance(a, torch.Tensor) and a.dtype == torch.float32 else a for a in args]
        return func(*args, **(kwargs or {}))


def _cut(x: torch.Tensor) -> torch.Tensor:
    bits = x.contiguous().view(torch.int32)
    return ((bits + (1 << (DROPPED - 1))) & ~((1 << DROPPED) - 1)).view(torch.float32)


@pytest.mark.parametrize("stage", ["SiT", "DiT", "REPA", "teacher"])
def test_tf32_in_place_of_float32(tiny, traced, stage):
    with Tf32():
        got = made(tiny, stage, "fp32", CPU)
    wanted = traced.trace(stage, "fp32", CPU)
    with pytest.raises(Fault):
        apart(got, wanted, ALLOWED[stage]["fp32"], "fp32")
    if "tf32" in ALLOWED[stage]:
        apart(got, wanted, ALLOWED[stage]["tf32"], "tf32")


@pytest.mark.parametrize("stage", ALLOWED)
def test_a_part_that_is_not_trained(tiny, traced, stage):
    wanted = traced.trace(stage, "fp32", CPU)
    assert apart(wanted, wanted, 0.0, stage) == 0
    for part in {name.split(".")[0] for name in wanted.changed if "optimizer" not in name}:
        still = {name: 0 * value if name.startswith(f"{part}.") else value for name, value in wanted.changed.items()}
        for precision, allowed in ALLOWED[stage].items():
            with pytest.raises(Fault, match=rf"{precision}: {part}.*: 1.0e\+00 apart"):
                apart(Trace(wanted.terms, still), wanted, allowed, precision)


def test_a_slip_in_half_precision_alone(tiny, monkeypatch):
    honest = tasks.TransformerTask.losses

    def slipping(self, batch):
        losses = honest(self, batch)
        return losses._replace(total=losses.total * 1.2) if self.processes.precision == "bf16" else losses

    monkeypatch.setattr(tasks.TransformerTask, "losses", slipping)
    assert failed(lambda: Steps(tiny, CPU).against_cpu("SiT")).startswith("bf16: 0.loss: 2.0e-01 apart, 5e-02 allowed")


def test_an_average_that_is_not_updated(tiny, traced, monkeypatch):
    wanted = traced.trace("SiT", "fp32", CPU)
    monkeypatch.setattr(tasks, "update_ema", lambda ema, weights, decay: update_ema(ema, weights, 1.0))
    with pytest.raises(Fault, match=r"fp32: ema: 1.0e\+00 apart"):
        apart(made(tiny, "SiT", "fp32", CPU), wanted, ALLOWED["SiT"]["fp32"], "fp32")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ALLOWED)
def test_steps_that_differ_from_time_to_time(tiny, monkeypatch, stage):
    here = Steps(tiny, CPU)
    here.twice(stage)
    honest = rng.key
    monkeypatch.setattr(rng, "key", lambda seed, purpose, *index: honest(seed, purpose, 7, *index))
    assert "differs by" in failed(lambda: here.twice(stage))


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_that_are_not_finite(tiny, monkeypatch, name):
    monkeypatch.setattr(transformer, "normalised", lambda x: x / 0)
    assert failed(lambda: drawing.Drawing(tiny, CPU).sampler(name))


def off_in_half(honest):
    """The same, a fifth too large under autocast."""
    return lambda *given: honest(*given) * (1.2 if torch.is_autocast_enabled("cpu") else 1)


def test_a_network_that_is_off_in_half_precision(tiny, monkeypatch):
    here = drawing.Drawing(tiny, CPU)
    monkeypatch.setattr(transformer, "unpatchify", off_in_half(transformer.unpatchify))
    for name in SAMPLERS:
        if SAMPLERS[name].times is not None:
            assert failed(lambda name=name: here.sampler(name)).startswith("bf16: ")
    moments = autoencoders.moments
    monkeypatch.setattr(autoencoders, "moments", lambda vae, x: tuple(off_in_half(lambda part: part)(p) for p in moments(vae, x)))
    assert failed(here.encoder).startswith("bf16: ")
    decoder = type(tiny.vae().decoder)
    monkeypatch.setattr(decoder, "forward", off_in_half(decoder.forward))
    assert failed(here.decoder).startswith("bf16: ")


def test_features_and_metrics_that_differ_or_are_not_finite(tiny, monkeypatch):
    good = leaves({"pool": torch.ones(4), "fid": 1.0})
    assert drawing.furthest(good, good, 0.0) == 0.0
    with pytest.raises(Fault, match=r"fid: 5\.0e-02 apart, 1e-02 allowed"):
        drawing.furthest(good | leaves({"fid": 1.05}), good, drawing.SCORES)
    honest = drawing.extract

    def broken(extractor, batches):
        found = honest(extractor, batches)
        return replace(found, logits=found.logits * float("nan"))

    monkeypatch.setattr(drawing, "extract", broken)
    assert "logits is not finite" in failed(drawing.Drawing(tiny, CPU).extractors)
    assert failed(drawing.Drawing(tiny, CPU).metrics)


class Slipping(Runs):
    """Makes a step too few, in this process, in place of starting one."""

    def start(self, training: Training, processes: int = 1, cpu: bool = False) -> subprocess.Popen:
        slipped = replace(training, steps=training.steps - 1)
        slipped.make(self.tiny, CPU)
        for stage in training.stages:
            states = training.states(stage)
            for suffix in (".pt", ".sha256"):
                states.path(slipped.steps).with_suffix(suffix).rename(states.path(training.steps).with_suffix(suffix))
        return subprocess.Popen([sys.executable, "-c", ""], stderr=subprocess.PIPE, text=True)


@pytest.mark.process
def test_processes_and_compiled_networks_that_train_otherwise(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "SPLIT", ("SiT",))
    here = Slipping(tiny, CPU, tmp_path, CONFIG)
    assert failed(here.processes).startswith("SiT in 2 processes: ")
    if not compiler.missing(gpu=False):
        assert failed(here.compiled).startswith("compiled: ")


class Forgetful(Runs):
    """A training that is killed at step 3 and goes on as if it had made 4."""

    def start(self, training: Training, processes: int = 1, cpu: bool = False) -> subprocess.Popen:
        states, program = training.states("SiT"), ""
        if not states.steps():
            replace(training, steps=3).make(self.tiny, CPU)
            program = "import time; time.sleep(60)"
        else:
            with states:
                states.save(4, states.read(3))
            training.make(self.tiny, CPU)
        return subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)


@pytest.mark.process
def test_a_training_that_goes_on_otherwise(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "KILLED_STEPS", 8)
    said = failed(Forgetful(tiny, CPU, tmp_path, CONFIG).resumed)
    assert said.startswith("after a kill and a resume: model.")


@pytest.mark.process
def test_a_process_that_fails_or_hangs_is_told_and_ended(monkeypatch, tmp_path):
    here = Runs(None, CPU, tmp_path, Path())

    def process(program: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)

    assert failed(lambda: here.end(process("raise SystemExit('no room')"), 60, "it")).startswith("it: exit code 1: no room")
    monkeypatch.setattr(runs, "LAST_SECONDS", 0.2)
    stubborn = process("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)")
    assert failed(lambda: here.end(stubborn, 0.5, "it")).startswith("it: not done after 0 s, ended")
    assert stubborn.wait() < 0


def test_stand_in_labels_have_pixels_without_a_class():
    images, masks = LabelsStandIn.of("voc").batch(range(4), 16)
    assert images.shape == (4, 3, 16, 16)
    assert {255} < set(np.unique(masks).tolist()) <= {*range(21), 255}
