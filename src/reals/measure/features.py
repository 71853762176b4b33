"""Images to features in one pass: of a whole source, or of the part of it that one process takes."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reals.data.dataset import Images
from reals.measure.extractor import FIELDS, Extractor, Features, extract, joined
from reals.measure.metrics.checks import finite_rows
from reals.measure.source import Source
from reals.measure.stored import Facts, checked_facts, load_arrays, own_rows, own_rows_of, part_path, parts_of, save_arrays
from reals.progress import Progress

BATCH = 256


def batches(array: np.ndarray | Images, rows: np.ndarray | None = None) -> Iterator[Tensor]:
    """uint8 [B, 3, H, W] tensors over an array of images or a data split, which is read ahead; of these ``rows`` alone if given."""
    rows = np.arange(len(array)) if rows is None else rows
    spans = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    blocks = (block for _, block in array.ahead(spans)) if isinstance(array, Images) else (array[span] for span in spans)
    yield from map(torch.from_numpy, blocks)


@dataclass
class Clock:
    """Seconds spent in the network, and in all."""

    network: float = 0.0
    total: float = 0.0

    def around(self, extractor: Extractor) -> Extractor:
        """The same extractor, timed."""

        def features(images: Tensor) -> Features:
            began = time.perf_counter()
            found = extractor.features(images)
            self.network += time.perf_counter() - began
            return found

        return replace(extractor, features=features)

    def facts(self, n: int) -> Facts:
        """What the record says about the time: how much of it was not the network's."""
        rest = self.total - self.network
        return {"seconds": self.total, "images_per_second": n / self.total, "share_outside_network": rest / self.total}


def feature_batches(
    source: Source, extractor: Extractor, start: int, stop: int, batch: int, progress: Callable[[int], None] | None = None
) -> Iterator[Features]:
    """Features of images start to stop, batch by batch; ValueError naming the first image whose features are not finite."""
    for images in source.batches(start, stop, batch):
        found = extract(extractor, [images])
        for field in FIELDS:
            finite_rows(getattr(found, field), f"features of {source.path}", first=start)
        start += len(found)
        if progress is not None:
            progress(start)
        yield found


def save_features(path: Path, features: Features, facts: Facts) -> None:
    save_arrays(path, facts, {field: getattr(features, field).numpy() for field in FIELDS})


def load_features(path: Path, facts: Facts) -> Features:
    """Features saved with these very ``facts``; ValueError otherwise."""
    found, arrays = load_arrays(path)
    checked_facts(path, found, facts)
    return Features(*(torch.from_numpy(arrays[field]) for field in FIELDS))


def features_of_shard(
    source: Source, extractor: Extractor, n: int, batch: int, path: Path, facts: Facts, shard: tuple[int, int]
) -> None:
    """Writes one shard's part of the features of the first n images beside ``path``."""
    start, stop = own_rows(n, batch, *shard)
    out = part_path(path, *shard)
    progress = Progress(f"features, part {shard[0]} of {shard[1]}", max(stop - start, 1))
    found = list(feature_batches(source, extractor, start, stop, batch, lambda done: progress.update(done - start)))
    features = joined(found) if found else _no_features(source, extractor)
    save_features(out, features, facts | {"start": start, "stop": stop})
    absent = [k for k in range(shard[1]) if not part_path(path, k, shard[1]).exists()]
    rest = f"parts {', '.join(map(str, absent))} are missing" if absent else "all parts are here: run without --shard"
    print(f"{out}: images {start} to {stop - 1}; {rest}")


def _no_features(source: Source, extractor: Extractor) -> Features:
    """Features of no image, in the right widths: of a shard beyond the last batch."""
    one = extract(extractor, source.batches(0, 1, 1))
    return Features(*(getattr(one, field)[:0] for field in FIELDS))


def features_of(
    source: Source, extractor: Extractor, n: int, batch: int, path: Path | None, facts: Facts, clock: Clock
) -> Features:
    """Features of the first n images: from ``path`` or its parts if they are there, else made (and kept in ``path``).

    ``facts`` say what they are made from; ValueError where the files that are there say something else.
    """
    if path is not None and path.exists():
        return load_features(path, facts)
    if path is not None and (parts := parts_of(path)):
        return _features_of_parts(parts, n, facts)
    progress = Progress("features", n)
    began = time.perf_counter()
    features = joined(list(feature_batches(source, clock.around(extractor), 0, n, batch, progress.update)))
    clock.total = time.perf_counter() - began
    if path is not None:
        save_features(path, features, facts)
    return features


def _features_of_parts(parts: list[Path], n: int, facts: Facts) -> Features:
    """Features of the first n images from the parts that shards wrote; ValueError where they do not fit."""
    start, found = 0, []
    for part in parts:
        stop = own_rows_of(part)[1]
        found.append(load_features(part, facts | {"start": start, "stop": stop}))
        start = stop
    if start != n:
        raise ValueError(f"{parts[-1]}: the parts end at image {start}, {n} expected; make them with one --n and --batch")
    return joined(found)
