"""Stage `teacher`: the network that the latents are aligned with, trained here or brought in."""

from pathlib import Path

import torch

from reals import files, rng
from reals.experiment.artefact import Artefact
from reals.experiment.networks import PretrainedTeacher
from reals.experiment.specs import TeacherSpec
from reals.method.models import teacher as teachers
from reals.method.models.autoencoder import to_input
from reals.planning import pretrained
from reals.stages.context import Context
from reals.training.tasks.classifier import ClassifierTask, part_of, train_classifier


def run(context: Context, artefact: Artefact[TeacherSpec]) -> None:
    """Trains the scale's small ViT, or brings timm's weights into a folder of the same form."""
    key, config = next((k, c) for k, c in context.scale.teachers.items() if context.registry.teachers[k].id == artefact.id)
    folder = context.begin(artefact)
    if config.kind == "timm":
        fetched = pretrained.local(context.scale, f"teachers.{key}")
        _bring_in(config, Path(config.weights) if config.weights is not None else fetched, context.scale.teacher_grid, folder)
        return
    images = context.images("train")
    built = teachers.config_of(artefact.spec, len(images.classes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.key(config.seed, "teacher weights"))
        network = teachers.build(built)
        teachers.initialise_small_vit(network)
        network = network.to(context.device)
    task = ClassifierTask(
        network, to_input, images, config.steps, config.batch, config.lr, config.seed, context.scale.data.flip,
        config.crop_scale, config.patch_loss, among=part_of(len(images), config.share, context.scale.seeds.data),
    )  # fmt: skip
    score = train_classifier(task, folder, config.name, context.images("held_out"), context.scale.engine.deterministic)
    files.seal(folder, teachers.save(network, built, folder), name=config.name, held_out_accuracy=score)


def _bring_in(config: PretrainedTeacher, weights: Path | None, grid: int, folder: Path) -> None:
    """timm's weights, from a file or from the hub, checked before they are used."""
    if weights is not None:
        if not weights.is_file():
            raise ValueError(f"teachers: weights {weights}: no such file; give the weights of {config.model}")
        if config.sha256 not in (None, digest := files.sha256(weights)):
            raise ValueError(f"teachers: {weights}: its sha256 is {digest}, not {config.sha256}; fetch the file again")
    built = teachers.published(config.model, config.patch, grid)
    network = teachers.build(built, pretrained=weights is None)
    if weights is not None:
        teachers.load_weights(network, weights)
    files.seal(folder, teachers.save(network, built, folder), name=config.name)
