"""Stages keep their promises: caches agree with what they cache, latents come out at unit scale, heads see ink."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, edit
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from reals import files
from reals.data import cache, readers
from reals.experiment import registry
from reals.experiment.load import load
from reals.measure import reconstruction
from reals.measure.extractor import extract
from reals.measure.features import batches
from reals.measure.latent_maps import anchor
from reals.measure.metrics.generation import generation_metrics
from reals.measure.metrics.unlabelled import foreground, ink
from reals.method.models import autoencoder as models
from reals.method.models import teacher as teachers
from reals.method.models.heads import InkHeads
from reals.method.models.lpips import lpips_network
from reals.planning import cost, networks
from reals.stages import (
    autoencoder,
    data,
    downstream,
    extractor,
    features,
    inputs,
    latents,
    reference,
    sample,
    teacher,
    transformer,
)
from reals.stages.context import Context
from reals.training.tasks.augmentation import cropped, shifted
from reals.training.tasks.classifier import ClassifierTask


@pytest.fixture
def context(project):
    """The smoke scale with prepared images of both flips."""
    edit(project / "config/scales/smoke.yaml", "flip: false", "flip: true")
    edit(project / "config/scales/smoke.yaml", "images_per_class: 40", "images_per_class: 10")
    made = Context(registry.Registry(load("smoke")))
    data.run(made, made.registry.data)
    return made


def test_cached_and_online_features_agree_to_the_caches_precision(context):
    r = context.registry
    teacher.run(context, r.teachers["large"])
    features.run(context, r.features["large"])
    cached = readers.CachedFeatures(context.folder(r.features["large"]))
    online = teachers.OnlineFeatures(context.folder(r.teachers["large"]), context.device)
    indices, flips = np.array([3, 11, 3, 40]), np.array([True, False, False, True])
    pixels = torch.from_numpy(context.images("train").batch(indices, flips))
    for a, b in zip(cached(indices, flips, None), online(indices, flips, pixels), strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=2**-10, atol=2**-10)
    assert not torch.equal(cached(indices, flips, None)[0][0], cached(indices, flips, None)[0][2])


def test_the_latent_cache_holds_both_flips_at_unit_scale(context):
    r = context.registry
    autoencoder.run(context, r.autoencoders["sd-vae"])
    latents.run(context, r.latents["sd-vae"])
    cache = readers.Latents(context.folder(r.latents["sd-vae"]))
    noise = torch.zeros(2, 4, *cache.rows("moments", [0], np.zeros(1, int)).shape[2:])
    double = readers.Latents(context.folder(r.latents["sd-vae"]), scaling_factor=2 * cache.scaling_factor)
    pair = [c.batch([0, 1], np.zeros(2, int), noise) for c in (cache, double)]
    torch.testing.assert_close(pair[1], 2 * pair[0])
    vae = models.load(context.folder(r.autoencoders["sd-vae"]))
    indices, flips = np.arange(80), np.arange(80) % 3 == 0
    noise = torch.randn(80, 4, 8, 8)
    pixels = torch.from_numpy(context.images("train").batch(indices, flips))
    with torch.no_grad():
        mean, logvar = models.moments(vae, models.to_input(pixels))
    direct = (mean + torch.exp(0.5 * logvar) * noise) * cache.scaling_factor
    torch.testing.assert_close(cache.batch(indices, flips, noise), direct, rtol=2**-8, atol=2**-8)
    everything = torch.cat([cache.batch(indices, np.full(80, f), torch.randn(80, 4, 8, 8)) for f in (False, True)])
    assert everything.std() == pytest.approx(1.0, abs=0.03)
    # Mirroring the image is not mirroring its latent: that is why both are cached.
    mirrored = cache.batch(indices, np.ones(80, bool), torch.zeros(80, 4, 8, 8))
    assert not torch.allclose(mirrored, cache.batch(indices, np.zeros(80, bool), torch.zeros(80, 4, 8, 8)).flip(-1), atol=1e-3)


def test_the_latent_scale_is_the_same_for_any_sharding_and_data_it_was_not_made_from_is_refused(context, monkeypatch):

    r = context.registry
    autoencoder.run(context, r.autoencoders["sd-vae"])
    folder = context.folder(r.latents["sd-vae"])
    scales = {}
    for size in (cache.SHARD_IMAGES, 16):
        monkeypatch.setattr(latents, "BATCH", 16)
        monkeypatch.setattr(
            latents, "latent_layout", lambda *a, size=size: cache.Layout(a[0], 2, {"moments": (2 * a[1], a[2], a[2])}, size)
        )
        latents.run(context, r.latents["sd-vae"])
        read = readers.Latents(folder)
        keys = ("scaling_factor", "std", "channel_mean", "channel_std")
        scales[len(read.layout)] = np.concatenate([np.atleast_1d(read.manifest[key]) for key in keys])
        folder.rename(folder.with_name(f"moved-{size}"))
    assert list(scales) == [1, 5]
    np.testing.assert_allclose(scales[1], scales[5], rtol=1e-12)
    folder.with_name("moved-16").rename(folder)
    readers.Latents(folder, context.images("train"))
    with pytest.raises(ValueError, match="was made from 80 images of other files than the 20 there are now"):
        readers.Latents(folder, context.images("held_out"))


def test_cls_tokens_alone_can_be_cached(context, project):
    edit(project / "config/scales/smoke.yaml", "features: cached", "features: cls")
    r = registry.Registry(load("smoke"))
    context = Context(r)
    # What needs patches computes them; what is aligned to the cls token alone reads it.
    assert next(a.kind for a in r.autoencoders["reals"].needs if a.kind != "data") == "teacher"
    teacher.run(context, r.teachers["large"])
    features.run(context, r.features["large"])
    folder = context.folder(r.features["large"])
    assert sorted(p.name for p in folder.glob("*.npy")) == ["cls_00000.npy"]
    cached = readers.CachedFeatures(folder)
    online = teachers.OnlineFeatures(context.folder(r.teachers["large"]), context.device)
    indices, flips = np.array([3, 11]), np.array([True, False])
    pixels = torch.from_numpy(context.images("train").batch(indices, flips))
    patches, cls = cached(indices, flips, None)
    assert patches.shape == (2, 0, cached.dim)
    torch.testing.assert_close(cls, online(indices, flips, pixels)[1], rtol=2**-10, atol=2**-10)


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


def test_reconstruction_is_measured_in_pages_on_as_many_images_as_the_scale_says(context, monkeypatch, project):
    r = context.registry
    autoencoder.run(context, r.autoencoders["sd-vae"])
    extractor.run(context, r.extractor)
    vae, held_out = models.load(context.folder(r.autoencoders["sd-vae"])), context.images("held_out")
    indices = np.arange(len(held_out))[::-1].copy()
    config = context.scale.autoencoder.lpips
    lpips = lpips_network(config.net, config.backbone, config.weights)

    def measured() -> dict[str, float]:
        extractor, seed = inputs.load_extractor(context), context.scale.seeds.analysis
        return reconstruction.reconstruction_scores(vae, held_out, indices, lpips, extractor, seed)

    with torch.no_grad():
        whole = measured()
        monkeypatch.setattr(reconstruction, "BATCH", 2)
        monkeypatch.setattr(reconstruction, "PAGE", 6)
        paged = measured()
    assert paged == pytest.approx(whole, rel=1e-3)
    edit(project / "config/scales/smoke.yaml", "analysis: {", "analysis: {reconstruction_images: 9, ")
    more = registry.Registry(load("smoke"))
    assert more.analyses["sd-vae"].id != r.analyses["sd-vae"].id
    jobs = [cost.Costs(which).jobs for which in (r, more)]
    plain, fewer = (sum(job.flops for job in found.values() if job.stage == "analyse") for found in jobs)
    assert fewer < plain


def test_a_gallery_is_cut_to_what_the_scale_shows_and_never_too_short(tmp_path):
    arrays = {"latents": np.arange(8.0), "images": np.arange(8), "labels": np.arange(8)}
    np.savez(tmp_path / "gallery.npz", **arrays)
    z, images, labels = downstream.gallery(tmp_path, 5)
    assert z.tolist() == images.tolist() == labels.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(files.MissingArtefact, match="gallery was 8 images, now it is 9"):
        downstream.gallery(tmp_path, 9)


def test_ink_and_depth_of_a_stroke():
    images = torch.zeros(1, 3, 9, 9, dtype=torch.uint8)
    images[:, :, 2:7, 2:7] = 255
    mask, depth = ink(images)
    assert mask.sum() == 25
    assert depth[0, 4, 4] == 3
    assert depth[0, 2, 2] == 1
    assert depth[0, 0, 0] == 0


def test_heads_learn_what_the_tokens_hold():
    heads = InkHeads(4, 4)
    mask, depth = heads(torch.randn(5, 64, 4))
    assert mask.shape == depth.shape == (5, 32, 32)
    assert (depth >= 0).all()
    token = torch.zeros(2, 64, 4)
    token[:, 9] = 5.0
    moved = (heads.eval()(token)[0] - heads(torch.zeros(2, 64, 4))[0])[0].detach()
    rows, columns = moved.abs().nonzero(as_tuple=True)
    assert set(rows.tolist()) <= {4, 5, 6, 7}
    assert set(columns.tolist()) <= {4, 5, 6, 7}


def test_label_free_foreground_is_bright_where_the_object_is():
    tokens = torch.randn(6, 64, 8) * 0.1
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[2:6, 2:6] = True
    tokens[:, inside.flatten()] += torch.tensor([2.0, -1, 0, 0, 1, 0, 0, 0])
    mask = foreground(tokens)
    assert mask[:, inside].min() > mask[:, ~inside].max()


def test_the_anchor_lies_on_the_object():
    image = np.zeros((3, 32, 32), np.uint8)
    image[:, 13:15, 20:23] = 255
    assert anchor(image, 8) == (3, 5)


@given(st.integers(1, 60), st.integers(1, 12))
def test_shards_cover_every_sample_once(n, shards):
    from reals.method.sampling import shard_range

    ranges = [list(shard_range(n, k, shards)) for k in range(shards)]
    assert [i for r in ranges for i in r] == list(range(n))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


def test_shifting_repeats_edges_and_stays_within_reach():
    x = torch.arange(2 * 1 * 6 * 6, dtype=torch.uint8).view(2, 1, 6, 6)
    moved = shifted(x, 1, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(x.float(), (1, 1, 1, 1), mode="replicate").to(torch.uint8)
    for a, p in zip(moved, padded, strict=True):
        assert any(torch.equal(a, p[:, i : i + 6, j : j + 6]) for i in range(3) for j in range(3))


def test_a_data_folder_that_was_cut_is_noticed(context):
    folder = Path(context.folder(context.registry.data))
    (folder / "train_labels.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"train_labels\.npy: 0 bytes, .* expected"):
        context.images("train")


def test_the_costs_in_the_manual_are_those_of_the_layouts(project):
    lines = [line.split("|")[1:-1] for line in (REPOSITORY / "docs/caches.md").read_text().splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line] for line in lines[2:] if len(line) == 6]
    assert len(rows) == 7
    train = {"demo": 4000, "cifar10": 50000}
    for name, of, images, flips, row, size in rows:
        scale = load(name).scale
        n = scale.data.expected_images or train[name]
        width = networks.teacher_width(scale.teachers["large"])
        planned = (
            readers.latent_layout(n, scale.latent.channels, scale.latent_size)
            if of == "latents"
            else readers.feature_layout(n, 2 if scale.data.flip else 1, scale.latent_size, width, of.endswith("cls"))
        )
        stated = " + ".join(" x ".join(map(str, shape)) for shape in planned.fields.values())
        assert [images, flips, row, size] == [f"{n:,}", str(planned.flips), stated, cache.amount(planned.bytes)], (name, of)


def test_crops_have_the_area_asked_for_and_lie_inside_the_image():
    ramp = torch.arange(256, dtype=torch.float32).expand(64, 1, 16, 256).to(torch.uint8)
    cut = cropped(ramp, (0.25, 0.25), torch.Generator().manual_seed(1))
    width = cut[:, 0, 0, -1] - cut[:, 0, 0, 0]  # of a quarter of the area: half a side, times at most the root of 4/3
    assert (width > 128 * (3 / 4) ** 0.5 - 3).all() and (width < 128 * (4 / 3) ** 0.5 + 3).all() and width.std() > 5
    assert cut[:, 0, 0, 0].std() > 20  # the place varies
    assert (cut[..., 1:] > cut[..., :-1]).all()  # no edge is repeated: nothing lies outside
    assert torch.equal(cut, cropped(ramp, (0.25, 0.25), torch.Generator().manual_seed(1)))


def test_the_patch_loss_is_the_mean_cross_entropy_of_the_patch_tokens(tmp_path):
    network = teachers.build(teachers.TeacherConfig("", 4, 2, (0.5,) * 3, (0.5,) * 3, 16, 1, 2, 5))
    x, y = torch.randn(3, 3, 8, 8), torch.tensor([0, 4, 2])

    def task(weight):
        return ClassifierTask(network, None, None, 1, 3, 0.1, 0, False, patch_loss=weight)

    alone = task(None).loss(x, y)
    by_hand = torch.stack([
        torch.nn.functional.cross_entropy(network.head(tokens), label.expand(4))
        for tokens, label in zip(network.forward_features(x)[:, 1:], y, strict=True)
    ]).mean()  # fmt: skip
    torch.testing.assert_close(task(0.5).loss(x, y), alone + 0.5 * by_hand)


def test_a_second_extractor_measures_the_same_samples_with_its_own_reference(project):
    edit(
        project / "config/scales/smoke.yaml", "  pr_reference:",
        "  second: {kind: small-cnn, name: other-cnn, width: 4, blocks: 2, steps: 2, batch: 8, lr: 1.0e-3, seed: 99}\n  pr_reference:",
    )  # fmt: skip
    context = Context(registry.Registry(load("smoke")))
    r = context.registry
    data.run(context, r.data)
    extractor.run(context, r.extractor)
    extractor.run(context, r.second_extractor)
    assert r.second_extractor.id != r.extractor.id and "other-cnn" in r.second_reference.id
    reference.run(context, r.reference)
    reference.run(context, r.second_reference)
    evaluation = r.evaluations["sit-b2-reals_400K"]
    assert [n.kind for n in evaluation.needs] == ["samples", "reference", "reference"]
    second = inputs.load_extractor(context, r.second_extractor)
    assert second.network.config.blocks == 2
    real = inputs.load_reference(context, r.second_reference)
    images = context.images("train")
    found = extract(second, batches(images))
    assert generation_metrics(found, real, pr_reference=0)["fid"] == pytest.approx(0, abs=1e-6)
    plain = registry.Registry(load("demo")).evaluations["sit-b2-reals_400K"]
    assert "second" not in plain.identity
