"""The images, and the networks that look at them: teachers and their cached features, feature extractors."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from reals.experiment.artefact import Artefact
from reals.experiment.datasets import DataConfig
from reals.experiment.load import Experiment
from reals.experiment.networks import VIT_MODELS, AnyExtractor, InceptionExtractor, TrainedExtractor, TrainedTeacher
from reals.experiment.reading import ConfigError, read_names
from reals.experiment.resolve.shared import PRECISION, values_of
from reals.experiment.specs import (
    DataSpec,
    ExtractorSpec,
    FeaturesSpec,
    InceptionSpec,
    PretrainedTeacherSpec,
    TeacherSpec,
    TrainedExtractorSpec,
    TrainedTeacherSpec,
    VitExtractorSpec,
)


def data(experiment: Experiment) -> Artefact[DataSpec]:
    """The scale's images."""
    config, seeds = experiment.scale.data, experiment.scale.seeds
    spec = DataSpec(
        source=config.source, resolution=config.resolution, storage=config.storage, held_out=config.held_out,
        classes=_listed(config), images_per_class=config.images_per_class, unreadable=config.unreadable, exif_rotate=config.exif_rotate,
        version=config.version, seed=seeds.data,
    )  # fmt: skip
    return Artefact(config.name, spec)


def _listed(config: DataConfig) -> str | None:
    """What tells one list of classes from another, whatever its order and comments."""
    if config.class_list is None:
        return None
    try:
        names = sorted(read_names(Path(config.class_list)))
    except ConfigError as error:
        raise ConfigError(f"data.class_list: {error}") from None
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def teachers(experiment: Experiment, data: Artefact[DataSpec]) -> dict[str, Artefact[TeacherSpec]]:
    """By their key in the scale."""
    scale = experiment.scale
    found: dict[str, Artefact[TeacherSpec]] = {}
    for key, teacher in scale.teachers.items():
        if isinstance(teacher, TrainedTeacher):
            trained = TrainedTeacherSpec(data=data.id, grid=scale.teacher_grid, flip=scale.data.flip, **values_of(teacher))
            found[key] = Artefact(teacher.name, trained, (data,))
        else:
            found[key] = Artefact(teacher.name, PretrainedTeacherSpec(grid=scale.teacher_grid, **values_of(teacher, "weights")))
    return found


def features(
    experiment: Experiment, data: Artefact[DataSpec], teachers: Mapping[str, Artefact[TeacherSpec]]
) -> dict[str, Artefact[FeaturesSpec]]:
    """The caches of the teachers' features; none where features are computed as they are used."""
    scale = experiment.scale
    if scale.features == "online":
        return {}
    return {
        key: Artefact(
            f"{teacher.name}_{data.name}",
            FeaturesSpec(
                data=data.id,
                teacher=teacher.id,
                precision=PRECISION,
                compute=scale.encoding.precision,
                flip=scale.data.flip,
                targets="cls" if scale.features == "cls" else None,
            ),
            (data, teacher),
        )
        for key, teacher in teachers.items()
    }


def extractor(experiment: Experiment, data: Artefact[DataSpec], config: AnyExtractor) -> Artefact[ExtractorSpec]:
    if isinstance(config, InceptionExtractor):
        return Artefact(config.name, InceptionSpec(sha256=config.sha256))
    if not isinstance(config, TrainedExtractor):
        return Artefact(config.name, VitExtractorSpec(model=VIT_MODELS[config.kind], resize="pil", sha256=config.sha256))
    spec = TrainedExtractorSpec(data=data.id, flip=experiment.scale.data.flip, **values_of(config))
    return Artefact(config.name, spec, (data,))
