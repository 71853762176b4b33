"""The driver that PyTorch's CUDA needs, and the one that is loaded."""

import pytest

from reals.machine import cuda

OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22)\nGCC version: gcc 12.2.0\n"
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n"


@pytest.mark.parametrize(("said", "version"), [(OPEN, "580.65.06"), (CLOSED, "535.104.05")])
def test_the_kernel_says_which_driver_is_loaded(tmp_path, said, version):
    (tmp_path / "version").write_text(said)
    assert cuda.driver(tmp_path / "version") == version


def test_a_driver_older_than_the_wheels_cuda_is_told_with_the_way_out():
    assert cuda.driver_fault("580.65.06", "13.0") is None
    assert cuda.driver_fault("535.104.05", "12.6") is None
    assert cuda.driver_fault("999.1", "14.0") is None  # a CUDA that nobody has told us of
    assert cuda.driver_fault("570.133.20", "13.0") == (
        "driver 570.133.20 is too old for this PyTorch: CUDA 13.0 needs 580 or newer; update the driver, "
        "or install PyTorch's wheels for CUDA 12 (pytorch.org)"
    )
    assert "built without CUDA" in (cuda.driver_fault("580.65.06", None) or "")
    assert (cuda.driver_fault("390.157", "13.0") or "").endswith("newer; update the driver")
