"""What a stage reads of the files that another stage made, checked before it is used."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from reals import files
from reals.experiment.artefact import Artefact
from reals.experiment.metric_table import JUDGES
from reals.experiment.networks import AnyExtractor, PublishedExtractor, TrainedExtractor
from reals.experiment.specs import ExtractorSpec, ReferenceSpec, SamplesSpec
from reals.experiment.stage_table import OF_KIND
from reals.measure.extractor import Extractor
from reals.measure.extractors.inception import inception
from reals.measure.extractors.small_cnn import load_small_cnn, small_cnn_extractor
from reals.measure.extractors.torch_fidelity import register_with_torch_fidelity
from reals.measure.extractors.vision_transformers import VITS, vision_transformer
from reals.measure.metrics.generation import Reference
from reals.measure.references import reference_from
from reals.method import checkpoints
from reals.method.models.lpips import lpips_network
from reals.method.models.transformer import Transformer
from reals.planning import pretrained
from reals.records import provenance
from reals.stages.context import Context
from reals.training.log import OF_THE_MACHINE, read_log

CURVE_POINTS = 100


def extractor_config(context: Context, artefact: Artefact[ExtractorSpec]) -> tuple[str, AnyExtractor]:
    """(its key in `evaluation` of the scale, its settings) of the feature extractor that ``artefact`` is: the first, or a judge."""
    settings = context.scale.evaluation
    for metric, judge in context.registry.judges.items():
        if artefact.id == judge.id:
            return JUDGES[metric], settings.judges[metric]
    return "extractor", settings.extractor


def extractor_sha256(context: Context, artefact: Artefact[ExtractorSpec]) -> str:
    """What tells one copy of a feature extractor from another: its files, or the weights that it was made from."""
    manifest = files.opened(context.folder(artefact))
    return manifest.get("weights_sha256") or files.fingerprint(manifest)


def load_extractor(context: Context, artefact: Artefact[ExtractorSpec] | None = None) -> Extractor:
    """The scale's feature extractor (or the one that ``artefact`` is), ready on the context's device."""
    artefact = artefact or context.registry.extractor
    key, config = extractor_config(context, artefact)
    folder = context.folder(artefact)
    files.verified(folder)
    if not isinstance(config, TrainedExtractor):
        return published_extractor(config, extractor_weights(context, key, config)).to(context.device)
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    # So that torch_fidelity.calculate_metrics(feature_extractor=<name>) works beside us, on the same network.
    if config.name not in FEATURE_EXTRACTORS_REGISTRY:
        register_with_torch_fidelity(config.name, folder)
    return small_cnn_extractor(load_small_cnn(folder), config.name).to(context.device)


def published_extractor(config: PublishedExtractor, weights: Path | None) -> Extractor:
    """A feature extractor that is brought in, from its file, or from the package's own download where ``weights`` is None."""
    if config.kind == "inception":
        return inception(weights, config.sha256)
    return vision_transformer(VITS[config.kind], weights, config.sha256)


def extractor_weights(context: Context, key: str, config: PublishedExtractor) -> Path | None:
    """The file that the scale names, else what `reals fetch` brought; None where a package is to download its own."""
    return Path(config.weights) if config.weights else pretrained.local(context.scale, f"evaluation.{key}")


def load_lpips(context: Context) -> nn.Module:
    """The scale's LPIPS, with its backbone from the file that the scale names, what `reals fetch` brought, or torchvision."""
    config = context.scale.autoencoder.lpips
    fetched = pretrained.local(context.scale, "autoencoder.lpips")
    return lpips_network(config.net, config.backbone, config.weights or (str(fetched) if fetched else None))


def load_reference(context: Context, artefact: Artefact[ReferenceSpec]) -> Reference:
    """MissingArtefact where it is gone, damaged, or of another copy of its feature extractor than the one that is here."""
    folder, extractor = context.folder(artefact), artefact.needed("extractor")
    made_with = files.verified(folder).get("extractor_sha256")
    files.refuse_other_copy(extractor_sha256(context, extractor), made_with, context.folder(extractor), folder)
    with np.load(folder / "reference.npz") as stored:
        return reference_from({k: stored[k] for k in stored.files})


def weights_path(folder: Path, step: int) -> Path:
    """The EMA weights of a run's milestone ``step``."""
    (name,) = OF_KIND["run"].files(step)
    return folder / name


def load_transformer(path: Path, device: torch.device) -> tuple[Transformer, dict]:
    """(the EMA network in eval mode, the facts written with it). MissingArtefact where the file is missing or damaged."""
    if path.exists():
        provenance.refuse_damaged(path)
    try:
        checkpoint = checkpoints.load(path, device=device)
    except ValueError as error:
        raise files.MissingArtefact(f"{error}; delete it and run `snakemake {path}`") from None
    return checkpoint.model, checkpoint.facts


def checkpoint(context: Context, artefact: Artefact[SamplesSpec]) -> Path:
    """The weights that samples are drawn by: a run's at one milestone."""
    return weights_path(context.folder(artefact.needed("run")), artefact.spec.step)


def provenance_of_samples(context: Context, artefact: Artefact[SamplesSpec]) -> dict[str, Any]:
    """Where the samples come from: the checkpoint's own facts, its place and its hash."""
    path = checkpoint(context, artefact)
    _, facts = load_transformer(path, torch.device("cpu"))
    return {"checkpoint": str(path), "checkpoint_sha256": files.sha256(path), **facts}


def curve(log: Path, upto: int | None = None) -> dict[str, list[float]]:
    """A training log thinned to at most 100 points: step and every column of the training that all records have."""
    records = [r for r in read_log(log) if upto is None or r["step"] <= upto]
    if not records:
        return {}
    thin = records[:: max(1, -(-len(records) // CURVE_POINTS))]
    keys = [k for k in thin[0] if k not in OF_THE_MACHINE and all(k in r for r in thin)]
    return {k: [round(r[k], 6) for r in thin] for k in keys}
