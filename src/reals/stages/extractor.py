"""Stage `extractor`: the networks whose features the metrics compare, trained here or brought in."""

import torch

from reals import files, rng
from reals.experiment.artefact import Artefact
from reals.experiment.networks import TrainedExtractor
from reals.experiment.specs import ExtractorSpec
from reals.measure.extractors.small_cnn import SmallCNN, SmallCNNConfig, initialise_small_cnn, save_small_cnn
from reals.stages.context import Context
from reals.stages.inputs import extractor_config, extractor_weights, published_extractor
from reals.training.tasks.classifier import ClassifierTask, part_of, train_classifier


def run(context: Context, artefact: Artefact[ExtractorSpec]) -> None:
    """Trains one of the scale's feature extractors, or verifies the weights of a published one."""
    key, config = extractor_config(context, artefact)
    folder = context.begin(artefact)
    if not isinstance(config, TrainedExtractor):
        weights = extractor_weights(context, key, config)
        package = "torch-fidelity" if config.kind == "inception" else "timm"
        if weights is not None and not weights.is_file():
            raise ValueError(f"evaluation.{key}.weights: {weights}: no such file; give {package}'s weights of {config.name}")
        published_extractor(config, weights)
        files.seal(folder, [], name=config.name, weights_sha256=files.sha256(weights) if weights else f"{package}'s own download")
        return
    images = context.images("train")
    network = SmallCNN(SmallCNNConfig(len(images.classes), images.resolution, config.width, config.blocks or 1))
    initialise_small_cnn(network, rng.generator(config.seed, "extractor weights"))
    network = network.to(context.device).to(memory_format=torch.channels_last)
    task = ClassifierTask(
        network, lambda x: x, images, config.steps, config.batch, config.lr, config.seed, context.scale.data.flip,
        shift=config.shift, among=part_of(len(images), config.share, context.scale.seeds.data),
    )  # fmt: skip
    score = train_classifier(task, folder, config.name, context.images("held_out"), context.scale.engine.deterministic)
    save_small_cnn(network.cpu(), folder)
    files.seal(folder, ["config.json", "model.safetensors"], name=config.name, held_out_accuracy=score)
