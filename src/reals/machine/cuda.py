"""What PyTorch's CUDA needs of the NVIDIA driver, and which driver this machine has."""

import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

OLDEST_DRIVERS = {11: 450, 12: 525, 13: 580}
"""CUDA's major version -> the oldest branch of the driver that runs it (CUDA Toolkit release notes, minor version compatibility)."""
VERSION = re.compile(r"\b\d{3}\.\d+(?:\.\d+)?\b")
TOOL_SECONDS = 15.0  # for nvidia-smi to answer
BUILT_FOR = re.compile(r"^cuda\b[^=]*=\s*'([\d.]+)'", re.MULTILINE)


def built_for() -> str | None:
    """The CUDA version of the installed PyTorch, as torch.version.cuda, without importing it; None for one without CUDA."""
    found = find_spec("torch")
    written = Path(found.origin).with_name("version.py") if found and found.origin else None
    said = BUILT_FOR.search(written.read_text()) if written and written.is_file() else None
    return said[1] if said else None


def driver(said: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """The version of the NVIDIA driver that is loaded, such as 580.65.06: as the kernel says it in ``said``, or nvidia-smi; None without."""
    if said.is_file() and (found := VERSION.search(said.read_text())):
        return found[0]
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_SECONDS).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = VERSION.search(printed)
    return found[0] if found else None


def driver_fault(driver: str, cuda: str | None) -> str | None:
    """Why PyTorch built for CUDA ``cuda`` (torch.version.cuda) cannot use this driver, and what to do; None where it can."""
    branch = int(driver.split(".")[0])
    fitting = [version for version, oldest in OLDEST_DRIVERS.items() if oldest <= branch]
    other = f"install PyTorch's wheels for CUDA {max(fitting)} (pytorch.org)" if fitting else None
    if cuda is None:
        return f"this PyTorch is built without CUDA; {other or 'update the driver'}"
    needed = OLDEST_DRIVERS.get(int(cuda.split(".")[0]))
    if needed is None or branch >= needed:
        return None
    return f"driver {driver} is too old for this PyTorch: CUDA {cuda} needs {needed} or newer; update the driver{f', or {other}' if other else ''}"
