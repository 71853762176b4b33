"""Without a GPU: no step mixes devices, waits for the device more than is said here, or needs a kernel that is not deterministic.

What is checked runs in one process of its own (`cuda_scenes`), since it changes torch: see `cuda_device`.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY
from fake_cuda import cuda_scenes as scenes

pytestmark = pytest.mark.process
HERE = Path(__file__).parent

STEPS = {**scenes.TRAINING, **scenes.HEADS, **scenes.SIZED}
FORWARD = {**scenes.DRAWING, **scenes.MEASURING}
WAITS = {
    # A head's loss is looked at every so many steps: here after the last.
    **dict.fromkeys(scenes.HEADS, 1),
    # Whether latents and images are finite, once a batch.
    "decoding": 2,
    # Results are wanted on the CPU: images one way, what is found in them the other, once a batch.
    "encoding": 2,
    "extractor: small CNN": 4,
    "extractor: Inception": 4,
    "semantic consistency": 20,
    "reconstructions": 50,
}
"""How often a step waits for the device; never where it is not named."""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, dict]:
    """Scene -> facts; those that need a gradient are absent where there is no compiler for the shim."""
    compiler, shim = shutil.which("g++") or shutil.which("c++"), tmp_path_factory.mktemp("shim") / "shim.so"
    arguments = []
    if compiler is not None:
        command = [
            compiler,
            "-std=c++17",
            "-shared",
            "-fPIC",
            "-Wl,-soname,libcuda.so.1",
            "-o",
            str(shim),
            str(HERE / "shim.cpp"),
        ]
        subprocess.run(command, check=True)
        arguments = [str(shim)]
    paths = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY / "tests")])
    done = subprocess.run(
        [sys.executable, str(HERE / "cuda_scenes.py"), *arguments], capture_output=True, text=True, timeout=600,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def facts(found: dict[str, dict], name: str) -> dict:
    if name not in found:
        pytest.skip("no C++ compiler: autograd cannot be told of a device that is none")
    assert found[name]["error"] is None, found[name]["error"]
    return found[name]


@pytest.mark.parametrize("name", [*STEPS, *FORWARD])
def test_a_step_waits_for_nothing_that_it_need_not(found, name):
    waits = facts(found, name)["waits"]
    assert sum(waits.values()) <= WAITS.get(name, 0), waits


@pytest.mark.parametrize("name", STEPS)
def test_every_operation_of_a_training_is_deterministic(found, name):
    assert not facts(found, name)["refused"]


def test_peak_memory_of_the_largest_network_at_32_a_gpu(found):
    """One more copy of what its blocks give would be 4%."""
    assert facts(found, "SiT-XL bf16")["peak"] / 1e9 == pytest.approx(26.1, rel=0.03)


@pytest.mark.parametrize("name", ["SiT bf16", "REPA, online teacher bf16"])
def test_in_half_precision_every_product_is(found, name):
    assert set(facts(found, name)["dtypes"]) == {"bfloat16"}


def test_in_half_precision_the_autoencoder_s_networks_lpips_and_teacher_are(found):
    """In float32 are the align networks alone (four layers, forward and back) and the weights of LPIPS's distances."""
    dtypes = facts(found, "autoencoder, adaptive GAN, gradient balance bf16")["dtypes"]
    assert dtypes["bfloat16"] > 80 and dtypes["float32"] < 30, dtypes


def test_planted_defects_are_caught(found):
    facts(found, "SiT")
    assert "FakeTensorDeviceMismatchError" in found["a_cpu_tensor"]["error"]
    assert "generator on cpu" in found["a_generator_on_the_cpu"]["error"]
    assert any(wait.startswith("number") for wait in facts(found, "a_number_asked_for")["waits"])
    assert any(name.startswith("nll_loss2d_forward") for name in facts(found, "a_cross_entropy_of_maps")["refused"])
    kept = 2 * 2 * 2048  # two steps' two blocks, each 7 x 4 x 16 float32 in whole 512 bytes
    assert facts(found, "activations_kept")["peak"] == facts(found, "SiT")["peak"] + kept
