"""Out of memory, planted in each stage: one line with the setting and the value that fits, and no second try."""

from argparse import Namespace

import pytest
import torch
from forks import numbered

from reals.cli import out_of_memory, stage
from reals.cli.main import main
from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.experiment.stage_table import STAGES
from reals.machine import dispatch, restarts
from reals.planning import footprint

CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB")
CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:129] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
)


@pytest.fixture
def paper(project):
    return Registry(load("imagenet256"))


@pytest.fixture
def failed(project, monkeypatch, capsys, tmp_path):
    """How a stage of the paper's scale ends where this is raised in it: (what it says, what it notes for SLURM); a card of 80 GB."""
    monkeypatch.setattr(out_of_memory, "_card_gb", lambda: 80.0)
    monkeypatch.setattr(footprint, "transformer", lambda r, a, gpus, k, on: int(4e8 * a.spec.batch / gpus / k / (1 + on)))
    monkeypatch.setattr(footprint, "autoencoder", lambda r, a, gpus, k: int(2e9 * a.spec.batch / gpus / k))
    monkeypatch.setattr(footprint, "sampling", lambda r, a, n: int(2e9 * n))
    monkeypatch.setenv(dispatch.STARTS, str(tmp_path / "book"))
    monkeypatch.setenv("SLURM_JOB_ID", "7")

    def failed(artefact, error, scale="imagenet256"):
        def run(options):
            raise error

        monkeypatch.setattr(stage, "run", run)
        command = next(s for s in STAGES if s.kind == artefact.kind)
        number = ["1"] if command.numbering else []
        assert main(["stage", command.command, "--config", f"scale={scale}", artefact.id, *number]) == 2
        (said,) = capsys.readouterr().err.splitlines()
        return said, restarts.how_it_ended(tmp_path / "book", "7")

    return failed


def torchrun(monkeypatch, rank: int, count: int) -> None:
    for name, value in numbered(rank, count).items():
        monkeypatch.setenv(name, value)


def test_a_training_names_what_fits(paper, failed, monkeypatch):
    xl = paper.runs["sit-xl2-reals"]
    said, noted = failed(xl, CUDA)
    assert said.startswith("reals stage transformer: out of memory on the GPU (80 GB): batch 256, 256 samples at once")
    assert "engine.accumulate 1" in said and "set engine.accumulate to 2 in the scale file" in said and noted == "hopeless"
    torchrun(monkeypatch, 0, 4)  # the count says that it fits: the card is not ours alone
    said, _ = failed(xl, CUDA)
    assert "64 samples at once in each process of 4" in said and "set engine.accumulate to 2" in said
    torchrun(monkeypatch, 0, 1)
    said, _ = failed(paper.autoencoders["reals"], CUDA)
    assert "batch 64" in said and "set engine.accumulate to 2" in said and "checkpoint" not in said
    monkeypatch.setattr(footprint, "transformer", lambda r, a, gpus, k, on: int(1e11 - 5e10 * on))
    said, _ = failed(paper.runs["sit-l2-reals"], CUDA)
    assert "set engine.checkpoint_blocks to true" in said and "accumulate to" not in said
    monkeypatch.setattr(footprint, "transformer", lambda *how: 10**12)
    assert "no setting fits" in failed(paper.runs["sit-b2-reals"], CUDA)[0]


def test_a_command_by_hand_names_its_batch():
    said = out_of_memory.line(CUDA, Namespace(command="sample", batch=16))
    assert said.endswith("--batch is 16; set it to 8, which changes nothing but speed, or close what else uses this memory")
    assert "--batch" not in out_of_memory.line(CUDA, Namespace(command="measure"))


def test_on_a_cpu_the_job_s_memory_is_named_too(paper, failed):
    mapped = RuntimeError("unable to mmap 9 bytes from file <x>: Cannot allocate memory (12)")
    for error in (CPU, MemoryError(), OSError(12, "Cannot allocate memory"), mapped):
        said, noted = failed(paper.runs["sit-b2-reals"], error)
        assert "on this machine's CPU" in said and "engine.accumulate to 2" in said and "resources.transformer.mem_mb" in said
        assert noted == "hopeless"


def test_samples_name_their_batch(paper, failed):
    said, _ = failed(next(iter(paper.samples.values())), CUDA)
    assert "sampling.batch is 125; set it to 31 in the scale file" in said


@pytest.mark.parametrize("kind", [s.kind for s in STAGES])
def test_every_stage_says_it_in_one_line(project, failed, kind):
    artefact = next(a for a in Registry(load("smoke")).all() if a.kind == kind)
    said, noted = failed(artefact, CUDA, "smoke")
    assert "out of memory on the GPU" in said and noted == "hopeless"


def test_other_errors_are_no_lack_of_memory():
    assert not out_of_memory.ran_out(RuntimeError("shapes do not match")) and not out_of_memory.ran_out(
        ValueError("out of memory")
    )


def test_the_first_process_speaks_for_all(paper, failed, monkeypatch):
    waited = []
    monkeypatch.setattr(out_of_memory.time, "sleep", waited.append)
    torchrun(monkeypatch, 1, 2)
    failed(paper.runs["sit-b2-reals"], CUDA)
    assert waited == [out_of_memory.FIRST_SPEAKS]


def test_advice_that_fails_hides_nothing(paper, failed, monkeypatch):
    monkeypatch.setattr(footprint, "transformer", lambda *how: 1 / 0)
    assert "`reals plan` says what fits" in failed(paper.runs["sit-b2-reals"], CUDA)[0]
