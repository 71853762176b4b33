"""The record of a measurement: the numbers, and everything a reader must know beside them."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from reals import files
from reals.experiment.metric_table import ADM_EXTRACTOR, JUDGES, METRICS, metric_name
from reals.measure.extractor import Extractor, Features
from reals.measure.metrics.contributions import class_contributions
from reals.measure.metrics.generation import KID_SUBSETS, Measured, Reference
from reals.measure.metrics.intervals import LEVEL, bootstrap_frechet, bootstrap_inception_score, bootstrap_share, centred_interval
from reals.measure.metrics.kernel import CMMD_SCALE, CMMD_SIGMA
from reals.measure.source import Source
from reals.measure.stored import Facts

# ADM's protocol: samples, reference images for precision and recall, images in a split of the Inception Score, and neighbours.
ADM_SAMPLES, ADM_PR_REFERENCE, ADM_SPLIT, ADM_K = 50_000, 10_000, 5000, 3

Record = dict[str, Any]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Counts:
    """How many images were used and how many were asked for: samples, and reference images for precision and recall; images in a
    subset of KID's.
    """

    samples: int
    samples_asked: int
    reference: int
    reference_asked: int
    kid_subset: int = 0

    @property
    def fewer_than_asked(self) -> bool:
        return self.samples < self.samples_asked or self.reference < self.reference_asked


def record(
    source: Source, extractor: Extractor, reference: Reference, real: Facts, found: Measured, counts: Counts, seed: int
) -> Record:
    """The metrics ``found`` of a source's first images, and everything a reader must know beside them.

    ``real`` are the facts of the reference; metrics stand under their printed names.
    """
    adm, n = extractor.name == ADM_EXTRACTOR, counts.samples
    return {
        "metrics": named(found.values, extractor.name),
        "n": n,
        "asked": counts.samples_asked,
        "fewer_than_asked": counts.fewer_than_asked,
        "notes": _notes(source, adm, reference, real, found, counts),
        "protocol": {
            "feature extractor": extractor.name,
            "input": "bytes, resized as the network's own protocol does",
            "FID": "pool features, covariance divisor n - 1, float64, symmetric eigenvalues",
            "sFID": "first 7 channels of the 17x17 1x1 branch of Mixed_6d" if adm else "first 7 channels of the network's map",
            **how(found.values, n, counts.reference, ADM_K, ADM_SPLIT, counts.kid_subset),
            "seed": seed,
        },
        "samples": {
            "path": str(source.path),
            "kind": source.kind,
            "images": len(source),
            "size": list(source.size),
            "sha256": source.sha256,
        },
        "reference": real,
        "network": {"name": extractor.name, "sha256": extractor.sha256},
        "versions": versions(extractor.name),
    }


def _notes(source: Source, adm: bool, reference: Reference, real: Facts, found: Measured, counts: Counts) -> list[str]:
    """What makes the numbers differ from those of the published protocol, one clause each."""
    notes, n, pr = list(source.notes), counts.samples, counts.reference
    notes += [f"reference: {note}" for note in real.get("notes", [])]
    if n < counts.samples_asked:
        notes.append(f"fewer samples than asked: {n} of {counts.samples_asked}")
    if pr < counts.reference_asked:
        notes.append(f"fewer reference images for precision and recall than asked: {pr} of {counts.reference_asked}")
    if adm and n != ADM_SAMPLES:
        notes.append(f"not comparable with published FID-50K: {n} samples, {ADM_SAMPLES} in ADM's protocol")
    if adm and pr not in (0, ADM_PR_REFERENCE):
        notes.append(f"precision and recall against {pr} reference images, {ADM_PR_REFERENCE} in ADM's protocol")
    if len(source) > n:
        notes.append(f"the first {n} of {len(source)} images")
    if "is" in found.values and source.labels is not None and n > 1 and (np.diff(source.labels[:n]) >= 0).all():
        notes.append("the samples are sorted by class: the Inception Score, of consecutive splits, is too low")
    if real["size"] is None:
        notes.append("the reference file does not say its resolution: it was not compared with the samples'")
    elif real["statistics"] == "computed" and real["images"] <= reference.pool.mu.numel():
        notes.append(f"the reference covariance is of {real['images']} images in {reference.pool.mu.numel()} dimensions")
    return notes


def how(values: Mapping[str, float], n: int, reference: int, k: int, split: int, kid_subset: int) -> dict[str, str]:
    """What the metrics of ``n`` samples that are among ``values`` were made of: splits of so many, so many reference images and
    neighbours, subsets of so many."""
    said = {}
    if "is" in values:
        splits, last = -(-n // split), n % split
        sizes = f"{splits} splits of {split}" + (f", the last of {last}" if last else "")
        said["IS"] = f"{sizes if splits > 1 else f'one split of {n}'}, in file order"
    if "precision" in values:
        said["precision and recall"] = f"k = {k}, {reference} reference images against {n} samples"
    if "fid_interval" in values:
        said["FID ±"] = (
            f"half of the {LEVEL:.0%} interval over the samples, infinitesimal jackknife; the reference stays as it is"
        )
    if "cmmd" in values:
        said["CMMD"] = f"{reference} reference images, Gaussian kernel of sigma {CMMD_SIGMA}, times {CMMD_SCALE}, biased"
    if "kid" in values:
        said["KID"] = f"{KID_SUBSETS} subsets of {kid_subset}, cubic kernel"
    return said


def summary(record: Record) -> str:
    """One line: the metrics, how many samples, and every note."""
    shown = "  ".join(f"{name} {round(value, 4) + 0.0:.4f}" for name, value in record["metrics"].items() if "std" not in name)
    notes = "".join(f"; {note}" for note in record["notes"])
    return f"{shown}  (n={record['n']}{notes})"


def named(values: dict[str, Value], extractor: str) -> dict[str, Value]:
    """Values under their printed names: those of the literature only with ADM's extractor."""
    out = {}
    for key, value in values.items():
        if key in JUDGES:
            name = METRICS[key].printed
        else:
            name = f"{metric_name('is', extractor)} std over splits" if key == "is_std" else metric_name(key, extractor)
        out[name] = value
    return out


def bootstrap(
    samples: Features, reference: Reference, found: Measured, split_size: int, replicates: int, seed: int
) -> dict[str, dict[str, float]]:
    """95% intervals of FID, sFID, IS, precision and recall, by metric key: std, low, high."""
    values = {"fid": bootstrap_frechet(samples.pool, reference.pool, replicates, seed)}
    if "sfid" in found.values:
        values["sfid"] = bootstrap_frechet(samples.spatial, reference.spatial, replicates, seed)
    if "is" in found.values:
        values["is"] = bootstrap_inception_score(samples.logits, split_size, replicates, seed)
    if found.samples_in is not None and found.reference_in is not None:
        values["precision"] = bootstrap_share(found.samples_in, replicates, seed)
        values["recall"] = bootstrap_share(found.reference_in, replicates, seed)
    return {name: centred_interval(found.values[name], x)._asdict() for name, x in values.items()}


def per_class(samples: Features, labels: np.ndarray, classes: tuple[str, ...] | None, reference: Reference) -> Record:
    """Each class's share of the FID (:func:`class_contributions`), with its number of samples."""
    there, rank = np.unique(labels, return_inverse=True)  # a label may be any number, such as an id of its own
    names = [str(label) if classes is None else classes[label] for label in there.tolist()]
    found = class_contributions(samples.pool, torch.from_numpy(rank), len(there), reference.pool)
    rows = zip(names, found.share.tolist(), found.count.tolist(), strict=True)
    return {
        "what": "sum over the class's samples of their squared distance to the reference under the optimal linear map, over n; "
        "shares and remainder sum to the FID",
        "classes": {name: {"share": share, "samples": n} for name, share, n in rows},
        "remainder": found.remainder,
    }


def versions(extractor: str) -> dict[str, str]:
    """Of everything that can change a digit."""
    import PIL

    found = {"reals": files.code_version(), "python": platform.python_version()}
    found |= {"torch": torch.__version__, "numpy": np.__version__, "pillow": PIL.__version__}
    if extractor == ADM_EXTRACTOR:
        import torch_fidelity

        found["torch-fidelity"] = torch_fidelity.__version__
    else:
        import timm

        found["timm"] = timm.__version__
    return found
