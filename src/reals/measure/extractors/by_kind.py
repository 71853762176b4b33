"""A feature extractor from the few words that describe it."""

from functools import partial
from pathlib import Path

from reals.measure.extractor import Extractor
from reals.measure.extractors.inception import inception
from reals.measure.extractors.small_cnn import load_small_cnn, small_cnn_extractor
from reals.measure.extractors.vision_transformers import VITS, vision_transformer


def make_extractor(spec: dict[str, str], folder: Path | None) -> Extractor:
    """The feature extractor a spec describes, with its files in ``folder``.

    ``{"kind": "inception", "weights": file name, "sha256": digest}``: ADM's network; without ``folder`` the
    weights are torch-fidelity's own download. Kinds ``dinov2``, ``clip`` and ``clip-l-14-336`` likewise; without ``folder`` timm
    takes its published weights from the hub. ``{"kind": "small-cnn", "name": ...}``: one trained here.
    ValueError for an unknown kind and for missing or unknown keys.
    """
    published = {"inception": inception} | {kind: partial(vision_transformer, vit) for kind, vit in VITS.items()}
    kind = spec.get("kind")
    if kind not in (*published, "small-cnn"):
        raise ValueError(f"feature extractor: kind {kind!r}, expected one of {', '.join([*published, 'small-cnn'])}")
    given = set(spec) - {"kind"}
    wanted = {"name"} if kind == "small-cnn" else set() if folder is None else {"weights", "sha256"}
    if given != wanted:
        raise ValueError(f"feature extractor {kind}: keys {sorted(given)}, expected {sorted(wanted)}")
    if kind in published:
        return published[kind](folder / spec["weights"], spec["sha256"]) if folder is not None else published[kind](None)
    if folder is None:
        raise ValueError("feature extractor small-cnn: no folder given; train it first")
    return small_cnn_extractor(load_small_cnn(folder), spec["name"])
