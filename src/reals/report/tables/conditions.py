"""Under which conditions a scale measures: what stands above its tables, and what the table of settings prints as used."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from reals import files
from reals.experiment.protocol import protocol
from reals.experiment.registry import Registry


@dataclass(frozen=True)
class Conditions:
    """What all numbers of one scale have in common.

    ``planned`` is what the scale says of how they are measured: what -> how. ``extractor`` names the feature extractor of FID and its
    kin, ``judges`` those of the metrics on further ones. ``settings``: part of training -> setting -> value as printed.
    ``paper``: measured numbers compare with the published ones.
    """

    scale: str
    planned: Mapping[str, str]
    extractor: str | None
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    paper: bool = False
    judges: Mapping[str, str] = field(default_factory=dict)
    description: str = ""


def of(registry: Registry) -> Conditions:
    scale = registry.experiment.scale
    return Conditions(
        scale=scale.name,
        planned=protocol(registry),
        extractor=scale.evaluation.extractor.name,
        settings=_settings(registry),
        paper=scale.paper,
        judges={metric: judge.name for metric, judge in scale.evaluation.judges.items()},
        description=scale.description,
    )


def _settings(registry: Registry) -> dict[str, dict[str, str]]:
    """What Table 1 prints as used, read from the scale; epochs need the number of images, stated or (once prepared) counted."""
    scale = registry.experiment.scale
    images = scale.data.expected_images
    data = registry.folder(registry.data) / files.MANIFEST
    if data.exists():
        images = files.read_manifest(data.parent)["images"]["train"]
    a, t = scale.autoencoder, scale.transformer

    def epochs(steps: int, batch: int) -> str:
        return f"{steps * batch / images:.3g}" if images else f"{steps} steps"

    return {
        "autoencoder": {"optimizer": "AdamW", "lr": f"{a.lr:g}", "schedule": "Cosine", "min_lr": "0.0", "batch": str(a.batch),
                        "epochs": epochs(a.steps, a.batch)},
        "transformer": {"optimizer": "AdamW", "lr": f"{t.lr:g}", "schedule": "-", "min_lr": "-", "batch": str(t.batch), "epochs": "-"},
    }  # fmt: skip
