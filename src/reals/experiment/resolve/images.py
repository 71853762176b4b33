"""The images, and the networks that look at them: teachers and their cached features, feature extractors."""

from collections.abc import Mapping

from reals.experiment.artefact import Artefact
from reals.experiment.load import Experiment
from reals.experiment.networks import InceptionExtractor, TrainedExtractor, TrainedTeacher
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
)


def data(experiment: Experiment) -> Artefact[DataSpec]:
    """The scale's images."""
    config, seeds = experiment.scale.data, experiment.scale.seeds
    spec = DataSpec(
        source=config.source, resolution=config.resolution, storage=config.storage, held_out=config.held_out,
        images_per_class=config.images_per_class, unreadable=config.unreadable, exif_rotate=config.exif_rotate,
        version=config.version, seed=seeds.data,
    )  # fmt: skip
    return Artefact(config.name, spec)


def teachers(experiment: Experiment, data: Artefact[DataSpec]) -> dict[str, Artefact[TeacherSpec]]:
    """By their key in the scale."""
    scale = experiment.scale
    found: dict[str, Artefact[TeacherSpec]] = {}
    for key, teacher in scale.teachers.items():
        if isinstance(teacher, TrainedTeacher):
            trained = TrainedTeacherSpec(data=data.id, grid=scale.latent_size, flip=scale.data.flip, **values_of(teacher))
            found[key] = Artefact(teacher.name, trained, (data,))
        else:
            found[key] = Artefact(teacher.name, PretrainedTeacherSpec(grid=scale.latent_size, **values_of(teacher, "weights")))
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


def extractor(
    experiment: Experiment, data: Artefact[DataSpec], config: TrainedExtractor | InceptionExtractor
) -> Artefact[ExtractorSpec]:
    if isinstance(config, InceptionExtractor):
        return Artefact(config.name, InceptionSpec(sha256=config.sha256))
    spec = TrainedExtractorSpec(data=data.id, flip=experiment.scale.data.flip, **values_of(config))
    return Artefact(config.name, spec, (data,))
