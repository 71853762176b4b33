"""What torch.compile builds with: a C++ compiler on a CPU; on a GPU Triton, and a C compiler and Python's headers for what starts its kernels."""

import os
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path


def found(gpu: bool) -> str | None:
    """The path of the compiler that torch.compile would call; None without."""
    stated, names = ("CC", ("cc", "gcc", "clang")) if gpu else ("CXX", ("g++", "clang++"))
    return next((path for name in (os.environ.get(stated, ""), *names) if name and (path := shutil.which(name))), None)


def missing(gpu: bool) -> list[str]:
    """What torch.compile needs and is not here, in words."""
    lacks = [] if found(gpu) else ["a C compiler" if gpu else "a C++ compiler"]
    if gpu and find_spec("triton") is None:
        lacks.append("Triton")
    if gpu and not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        lacks.append("Python's headers (python3-dev)")
    return lacks


def require(gpu: bool, asked: str) -> None:
    """ValueError (one line) where torch.compile, which ``asked`` asks for, would fail for want of something."""
    if lacks := missing(gpu):
        raise ValueError(
            f"{asked}: torch.compile needs {' and '.join(lacks)}, not found here; install or load it, or leave {asked} out"
        )
