import ctypes
import subprocess
import sys

import pytest
import torch

from reals.machine import memory

FAULTS = """
import resource, torch
from reals.machine import memory

def faults():
    for turn in range(20):  # the first ones grow the heap
        began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(25_000_000)  # 100 MB: 24,414 pages of 4 KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - began

leave = faults()
memory.keep_freed()
print(leave, faults())
"""


@pytest.mark.process
@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt") or torch.cuda.is_available(), reason="needs the GNU C library, no GPU"
)
def test_memory_freed_comes_back_without_page_faults():
    done = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True)
    leave, keep = map(int, done.stdout.split())
    assert keep < 100 < 0.1 * leave


def test_a_gpu_or_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    memory.keep_freed()
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail("the host's memory was touched"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    memory.keep_freed()
