"""Stage `extractor`: the networks whose features the metrics compare, trained here or brought in."""

import torch

from reals import files, rng
from reals.experiment.artefact import Artefact
from reals.experiment.specs import ExtractorSpec
from reals.measure.extractors.inception import inception
from reals.measure.extractors.small_cnn import SmallCNN, SmallCNNConfig, initialise_small_cnn, save_small_cnn
from reals.stages.context import Context
from reals.stages.inputs import extractor_config, inception_weights
from reals.training.tasks.classifier import ClassifierTask, train_classifier


def run(context: Context, artefact: Artefact[ExtractorSpec]) -> None:
    """Trains one of the scale's feature extractors, or verifies Inception's weights."""
    config = extractor_config(context, artefact)
    folder = context.begin(artefact)
    if config.kind == "inception":
        weights = inception_weights(context, config)
        if weights is not None and not weights.is_file():
            raise ValueError(f"evaluation.extractor.weights: {weights}: no such file; give torch-fidelity's Inception weights")
        inception(weights, config.sha256)
        files.seal(
            folder, [], name=config.name, weights_sha256=files.sha256(weights) if weights else "torch-fidelity's own download"
        )
        return
    images = context.images("train")
    network = SmallCNN(SmallCNNConfig(len(images.classes), images.resolution, config.width, config.blocks or 1))
    initialise_small_cnn(network, rng.generator(config.seed, "extractor weights"))
    network = network.to(context.device).to(memory_format=torch.channels_last)
    task = ClassifierTask(
        network, lambda x: x, images, config.steps, config.batch, config.lr, config.seed, context.scale.data.flip
    )
    score = train_classifier(task, folder, config.name, context.images("held_out"), context.scale.engine.deterministic)
    save_small_cnn(network.cpu(), folder)
    files.seal(folder, ["config.json", "model.safetensors"], name=config.name, held_out_accuracy=score)
