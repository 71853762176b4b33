import ctypes
import subprocess
import sys

import pytest
import torch

from reals import memory

FAULTS = """
import resource, sys, torch
from reals import memory
if sys.argv[1] == "keep":
    memory.keep_freed()
for turn in range(20):  # the first ones grow the heap
    began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(25_000_000)  # 100 MB: 24,414 pages of 4 KiB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - began)
"""


def faults(how: str) -> int:
    return int(subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt") or torch.cuda.is_available(), reason="needs the GNU C library, no GPU"
)
def test_memory_freed_comes_back_without_page_faults():
    assert faults("keep") < 100 < 0.1 * faults("leave")


def test_a_gpu_or_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    memory.keep_freed()
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail("the host's memory was touched"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    memory.keep_freed()
