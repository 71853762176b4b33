"""What a stage reads of others says what it is; what is torn, cut or of another copy is refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from reals import files
from reals.stages import (
    autoencoder,
    extractor,
    inputs,
    latents,
    reference,
    sample,
    transformer,
)


@pytest.mark.slow
def test_a_checkpoint_says_what_it_is_and_a_torn_one_is_refused(context):
    r = context.registry
    autoencoder.run(context, r.autoencoders["sd-vae"])
    latents.run(context, r.latents["sd-vae"])
    run = r.runs["sit-b2-sd-vae"]
    transformer.run(context, run, 2)
    path = inputs.weights_path(context.folder(run), 2)
    model, facts = inputs.load_transformer(path, torch.device("cpu"))
    assert facts["step"] == 2
    assert facts["run"] == run.id
    assert facts["autoencoder"] == r.autoencoders["sd-vae"].id
    assert model.config.classes == 10
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"step_2\.safetensors"):
        inputs.load_transformer(path, torch.device("cpu"))


def another_copy(folder):
    """The same network with one weight moved, sealed as if it had been made that way elsewhere."""
    manifest = files.read_json(folder / files.MANIFEST)
    (weights,) = (folder / name for name in manifest["files"] if name.endswith("model.safetensors"))
    state = load_file(weights)
    next(iter(state.values())).view(-1)[0] += 1
    save_file(state, weights)
    facts = {k: v for k, v in manifest.items() if k not in ("files", "code")}
    files.seal(folder, list(manifest["files"]), **facts)


@pytest.mark.slow
def test_what_was_made_with_another_copy_of_a_network_is_refused(context):
    r = context.registry
    base, cache = r.autoencoders["sd-vae"], r.latents["sd-vae"]
    run, samples = r.runs["sit-b2-sd-vae"], r.samples["sit-b2-sd-vae_400K"]
    step = samples.spec.step
    autoencoder.run(context, base)
    latents.run(context, cache)
    transformer.run(context, run, step)
    sample.run(context, samples, 0)
    for shard in context.folder(samples).glob("shard_*"):
        shard.unlink()
    another_copy(context.folder(base))
    with pytest.raises(files.MissingArtefact, match=f"{run.id}.*another copy of .*{base.id}.*dvc pull"):
        sample.run(context, samples, 0)
    inputs.weights_path(context.folder(run), step).unlink()
    with pytest.raises(files.MissingArtefact, match=f"{cache.id}.*another copy of .*{base.id}"):
        transformer.run(context, run, step)
    (context.folder(base) / files.MANIFEST).unlink()  # pulled without its autoencoder, a cache is enough to train
    transformer.run(context, run, step)

    extractor.run(context, r.extractor)
    reference.run(context, r.reference)
    inputs.load_reference(context, r.reference)
    another_copy(context.folder(r.extractor))
    with pytest.raises(files.MissingArtefact, match=f"{r.reference.id}.*another copy of .*{r.extractor.id}"):
        inputs.load_reference(context, r.reference)


def test_a_data_folder_that_was_cut_is_noticed(context):
    folder = Path(context.folder(context.registry.data))
    (folder / "train_labels.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"train_labels\.npy: 0 bytes, .* expected"):
        context.images("train")
