"""Finished batches on disk, from which a command that is run again goes on."""

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reals import files
from reals.arrays import save_npz
from reals.progress import Progress

START_ANEW = "give --parts another folder, or delete this one"

Report = Callable[[int, int], None]
"""Called with (step, steps) while a batch is drawn."""


class Parts:
    """A folder of finished batches, <first>_<count>.npz, that belong to one set of settings.

    A part is renamed into place, so one that exists is whole, and it is named by the samples it holds, so that batches
    and shards of any size go together.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def settings(self) -> dict[str, Any]:
        try:
            return dict(files.read_json(self.folder / "settings.json"))
        except files.MissingArtefact:
            raise ValueError(f"{self.folder}: its settings.json is damaged; {START_ANEW}") from None

    def begin(self, settings: dict[str, Any]) -> None:
        """Marks the folder with its settings; ValueError where it holds parts of others, or of nobody knows which."""
        path, settings = self.folder / "settings.json", json.loads(json.dumps(settings))
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{self.folder}: is a file; give a folder with --parts")
        if not path.exists():
            if self._listed():
                raise ValueError(
                    f"{self.folder} holds images, but no settings.json that says how they were made; copy it too, or {START_ANEW}"
                )
            files.write_json(path, settings)
        made = self.settings()
        for key in [*settings, *made]:
            if made.get(key) != settings.get(key):
                raise ValueError(
                    f"{self.folder} holds images made with {key} {made.get(key)}, now it is {settings.get(key)}; "
                    f"give other outputs, or {START_ANEW}"
                )

    def _listed(self) -> list[tuple[int, int, Path]]:
        named = ((re.fullmatch(r"(\d+)_(\d+)", path.stem), path) for path in self.folder.glob("*.npz"))
        return sorted((int(found[1]), int(found[2]), path) for found, path in named if found)

    def covered(self) -> set[int]:
        return {i for first, count, _ in self._listed() for i in range(first, first + count)}

    def save(self, first: int, images: np.ndarray) -> None:
        """images uint8 [k, H, W, 3] of the samples first, first + 1, ..."""
        files.write_atomically(self.folder / f"{first:07d}_{len(images)}.npz", lambda p: save_npz(p, images=images))

    def images(self, n: int) -> Iterator[np.ndarray]:
        """The images of samples 0..n-1 in order, as uint8 [k, H, W, 3] arrays."""
        next_one = 0
        for first, count, path in self._listed():
            if next_one >= min(first + count, n):
                continue
            assert first <= next_one, f"sample {next_one} is in no part"
            try:
                with np.load(path) as saved:
                    images = saved["images"]
            except (zipfile.BadZipFile, ValueError, KeyError, EOFError) as error:
                raise ValueError(f"{path}: damaged ({error}); delete it and run again") from None
            yield images[next_one - first : n - first]
            next_one = min(first + count, n)


def fill(
    parts: Parts, missing: list[int], share: int, rounds: int, batch: int, make: Callable[[list[int], Report], np.ndarray]
) -> None:
    """Draws the missing samples of a share, a batch of neighbours at a time, each kept as soon as it is done.

    ``make(indices, report)`` draws one batch, calling ``report(step, steps)``; ``rounds`` is how many steps to count an
    image as.
    """
    done = share - len(missing)
    what = "images" if rounds == 1 else f"images x {rounds} steps"
    progress = Progress(f"{parts.folder.stem} ({what})", share * rounds, done * rounds)
    for indices in _batches(missing, batch):
        parts.save(indices[0], make(indices, partial(_report, progress, done, len(indices), rounds)))
        done += len(indices)


def _report(progress: Progress, done: int, size: int, rounds: int, step: int, steps: int) -> None:
    progress.update(round((done + size * step / steps) * rounds))


def _batches(indices: list[int], size: int) -> Iterator[list[int]]:
    """Runs of consecutive indices, none longer than ``size``."""
    batch: list[int] = []
    for i in indices:
        if batch and (i != batch[-1] + 1 or len(batch) == size):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
