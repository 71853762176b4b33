"""Where the time of some steps goes: torch's profiler over them, as a trace that chrome://tracing and Perfetto show."""

import gzip
import shutil
import tempfile
from pathlib import Path
from typing import Self

import torch
from torch import profiler

from reals import files


class Profile:
    """Traces the steps from ``steps[0]`` to ``steps[1]``, numbered as the log numbers them; None: no step.

    A run that goes on in their midst, or ends there, traces those that it makes: the file's name says which. Outside of them
    nothing is measured.
    """

    def __init__(self, folder: Path, steps: tuple[int, int] | None):
        self.folder, self.steps = folder, steps
        self.running: profiler.profile | None = None
        self.first = self.made = 0

    def __enter__(self) -> Self:
        return self

    def before(self, step: int) -> None:
        """Called before a step is made."""
        if self.steps is not None and self.running is None and self.steps[0] <= step <= self.steps[1]:
            kinds = [profiler.ProfilerActivity.CPU, profiler.ProfilerActivity.CUDA]
            self.running = profiler.profile(activities=kinds if torch.cuda.is_available() else kinds[:1])
            self.running.start()
            self.first = step

    def after(self, step: int) -> None:
        """Called when a step is made."""
        self.made = step
        if self.steps is not None and step == self.steps[1]:
            self._write()

    def __exit__(self, *raised: object) -> None:
        self._write()

    def _write(self) -> None:
        """profile/steps_<first>-<last>.json.gz of the steps made since the start, if it was started."""
        if self.running is None:
            return
        running, self.running = self.running, None
        running.stop()
        if self.made < self.first:
            return
        path = self.folder / f"steps_{self.first}-{self.made}.json.gz"
        with tempfile.TemporaryDirectory() as scratch:
            plain = Path(scratch) / "trace.json"
            running.export_chrome_trace(str(plain))
            with files.replacing(path) as partial, plain.open("rb") as trace, gzip.open(partial, "wb") as packed:
                shutil.copyfileobj(trace, packed)
