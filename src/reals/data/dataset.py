"""One split of a prepared data set, read by index."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from reals import files
from reals.data.decode import decode
from reals.experiment.datasets import DataConfig
from reals.machine.cores import cores

CROPS = "crops"  # the folder of kept crops in a data set's folder
AHEAD = 2  # batches decoded before they are asked for

Indices = Sequence[int] | np.ndarray


class Images:
    """One split of a prepared data set; ``batch`` reads by index.

    ``root`` is where the image files are now (``files`` storage); without it, where they were when it was prepared. Where their
    crops were kept (`crops.keep`) they are read, by way of ``near`` (sealed folder -> the same or its copy), and no file is decoded.
    """

    def __init__(self, folder: Path, split: str, root: Path | None = None, near: Callable[[Path], Path] = lambda kept: kept):
        self.manifest = files.opened(folder)
        self.classes: list[str] = self.manifest["classes"]
        self.resolution: int = self.manifest["resolution"]
        self.labels = np.load(folder / f"{split}_labels.npy")
        stored = folder if self.manifest["storage"] == "array" else _kept(folder / CROPS, self.fingerprint(), near)
        self._array: np.ndarray | None = None
        if stored is not None:
            self._array = np.load(stored / f"{split}_images.npy", mmap_mode="r")
        else:
            root = root or folder / self.manifest["root"]
            self._paths = [root / p for p in files.read_json(folder / f"{split}_files.json", kind=list)]
            self._pool = ThreadPoolExecutor(cores())

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def stored(self) -> bool:
        """Whether pixels are read, and not decoded."""
        return self._array is not None

    def batch(self, indices: Indices, flips: np.ndarray | None = None) -> np.ndarray:
        """uint8 [B, 3, R, R]; images whose ``flips`` entry is true are mirrored left to right."""
        if self._array is not None:
            images = self._array[np.asarray(indices)]
        else:
            how = self.manifest["exif_rotate"], self.manifest.get("megapixels")
            images = np.stack(list(self._pool.map(lambda i: decode(self._paths[i], self.resolution, *how), indices)))
        if flips is not None and np.any(flips):
            images = np.where(np.asarray(flips)[:, None, None, None], images[..., ::-1], images)
        return images

    def ahead(self, batches: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(indices, images) of each batch, the next one decoded while the caller works on this one."""
        with ThreadPoolExecutor(1) as reader:
            waiting: deque[tuple[np.ndarray, Future]] = deque()
            for indices in batches:
                waiting.append((indices, reader.submit(self.batch, indices)))
                if len(waiting) > AHEAD:
                    indices, images = waiting.popleft()
                    yield indices, images.result()
            for indices, images in waiting:
                yield indices, images.result()

    def fingerprint(self) -> str:
        """A hash over the manifest's file hashes: what provenance calls the data hash."""
        return files.fingerprint(self.manifest)


def _kept(crops: Path, fingerprint: str, near: Callable[[Path], Path]) -> Path | None:
    """``near(crops)`` where that is the whole crops of the data set with this fingerprint; a line where it is something else."""
    if not (crops / files.MANIFEST).exists():
        return None
    try:
        if files.opened(crops).get("made_from") == fingerprint:
            return near(crops)
        reason = "they are of other files"
    except files.MissingArtefact as error:
        reason = str(error).split(";")[0]
    print(f"{crops}: the kept crops are not used and images decoded ({reason}); delete the folder", file=sys.stderr, flush=True)
    return None


def image_root(data: DataConfig) -> Path | None:
    """Where the image files are now; None where the scale does not say so."""
    moved = Path(data.path) if data.source == "folder" and data.path else None
    return moved if moved and moved.is_dir() else None
