"""Stage `transformer`: DiT, SiT or REPA on cached latents, one milestone after the other."""

import json
from dataclasses import asdict
from functools import partial

import torch

from reals import files, rng
from reals.data.dataset import Images
from reals.data.readers import CachedFeatures, Latents
from reals.experiment.artefact import Artefact
from reals.experiment.specs import RunSpec
from reals.method.models.teacher import OnlineFeatures
from reals.method.models.transformer import Transformer, TransformerConfig, initialise
from reals.planning import flops, rates
from reals.stages.context import Context
from reals.stages.inputs import weights_path
from reals.training import loop
from reals.training.processes import Processes
from reals.training.states import States
from reals.training.tasks.pictures import Pictures
from reals.training.tasks.transformer import TransformerTask, checkpoint_blocks, network_config


class NoState(files.MissingArtefact):
    """A milestone is here and nothing that its run could go on from: a further try would find no more."""

    passing = False


def utilisation(config: TransformerConfig, batch: int, precision: str, devices: int, step_seconds: float) -> float | None:
    """The transformer's FLOPs in a step over what the devices' peak allows; None where `reals measure` has not found the peak."""
    peak = rates.peak(rates.this_device(torch.get_num_threads()), precision)
    return peak and flops.TRAINED * flops.transformer_flops(config) * batch / (step_seconds * devices * peak)


def run(context: Context, artefact: Artefact[RunSpec], step: int) -> None:
    """Trains to ``step`` (a milestone; earlier ones are done) and writes its EMA weights, which say what they are.

    Raises NoState where an earlier milestone is there but no training state: it came from elsewhere.
    """
    from safetensors.torch import save_file

    spec, registry = artefact.spec, context.registry
    folder, states = context.begin(artefact), registry.states(artefact)
    milestones = registry.milestones(artefact)
    earlier = [m for m in milestones if m < step and weights_path(folder, m).exists()]
    if earlier and not States(states).steps():
        raise NoState(
            f"{weights_path(folder, earlier[-1])} is here, its training state is not in {states}: `dvc pull` the run's state too, "
            f"or delete the milestone to train again from the start"
        )
    images = context.images("train")
    latents = Latents(context.near(registry.folder(artefact.needed("latents"))), images, spec.scaling_factor)
    made_with = latents.manifest.get("autoencoder_sha256")
    autoencoder = registry.folder(artefact.needed("latents").needed("autoencoder"))
    if (autoencoder / files.MANIFEST).exists():  # where the cache was pulled alone it is not needed
        here = files.fingerprint(files.read_manifest(autoencoder))
        files.refuse_other_copy(here, made_with, autoencoder, registry.folder(artefact.needed("latents")))
    teacher: CachedFeatures | OnlineFeatures | None = None
    online: Images | None = None
    if spec.repa is not None:
        grid = spec.latent_size // spec.patch
        if spec.features is not None:
            teacher = CachedFeatures(context.near(registry.folder(artefact.needed("features"))), images)
        else:
            teacher = OnlineFeatures.of(registry.folder(artefact.needed("teacher")), context.device, grid)
            # Files that are decoded stay where they are, and a list of a million paths is not read twice.
            online = context.images("train", near=True) if images.stored else images
    config = network_config(spec, len(images.classes), teacher.dim if teacher else None)
    model = Transformer(config)
    initialise(model, rng.generator(spec.seed, "transformer weights"))
    engine = context.scale.engine
    if engine.checkpoint_blocks:
        checkpoint_blocks(model)
    with Processes(spec.precision or "fp32", engine.accumulate, engine.compile, engine.deterministic) as processes:
        task = TransformerTask(spec, model.train(), latents, torch.from_numpy(images.labels), processes, teacher, online)
        pictures = Pictures(task, autoencoder, latents.scale, context.scale.sampling.steps)
        loop.train(
            task, folder, step, label=f"{artefact.name} {step}", processes=processes, engine=engine, keep=milestones,
            batch=spec.batch, sample=pictures, states=states,
            utilisation=partial(utilisation, config, spec.batch, spec.precision or "fp32", processes.count),
        )  # fmt: skip
        if not processes.main:
            return
    facts = {
        "step": step,
        "family": spec.family,
        "config": asdict(config),
        **latents.scale.facts(),
        "run": artefact.id,
        "autoencoder": latents.manifest["autoencoder"],
        "autoencoder_sha256": made_with,
        "data_sha256": images.fingerprint(),
        "code": files.code_version(),
        **({"interpolant": spec.interpolant} if spec.interpolant else {}),
    }
    state = {k: v.detach().cpu().contiguous() for k, v in task.ema.items()}
    files.sweep(weights_path(folder, step))
    files.write_atomically(
        weights_path(folder, step),
        lambda partial: save_file(state, partial, metadata={"reals": json.dumps(facts)}),
    )
