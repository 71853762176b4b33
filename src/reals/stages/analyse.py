"""Stage `analyse`: what one autoencoder's latents and reconstructions are like (Tables 2 and 8, Figures 1 and 5)."""

import numpy as np
import torch
from torch import Tensor

from reals import files, rng
from reals.arrays import save_npz
from reals.data.dataset import Images
from reals.experiment.registry import Artefact
from reals.machine.usage import work
from reals.measure.extractor import extract
from reals.measure.features import batches
from reals.measure.metrics import semantics
from reals.measure.metrics.frechet import Moments, frechet_distance
from reals.measure.metrics.reconstruction import psnr, ssim, ssim_paper
from reals.method.models import autoencoder as models
from reals.method.models.autoencoder import to_uint8
from reals.method.models.lpips import lpips_network
from reals.stages.context import Context
from reals.stages.inputs import curve, load_extractor

BATCH = 100
PAGE = 6400  # images in memory at a time: whole batches of ours and of the feature extractor's, so that paging changes no bit
MAPS = 6  # images with token-similarity maps in Figure 1


def run(context: Context, artefact: Artefact) -> None:
    """Writes metrics.json and latents.npz of one autoencoder.

    Reconstructions decode a posterior *sample*, as the published rows do (LlamaGen's protocol); ``*_mean`` values decode
    the mean. Semantic features are the spatially averaged posterior means.
    """
    scale, paper, registry = context.scale, context.paper, context.registry
    folder, settings = context.begin(artefact), scale.analysis
    ae = artefact.needed("autoencoder")
    source = registry.folder(ae)
    files.verified(source)
    vae = models.load(source, context.device).to(memory_format=torch.channels_last)
    held_out, train = context.images("held_out"), context.images("train")
    n = min(settings.images, len(held_out))
    with work(), torch.no_grad():
        order = _spread(held_out.labels, len(held_out), scale.seeds.analysis)
        decoded, indices = order[: settings.reconstruction_images or n], order[:n]
        values = _reconstruction(context, vae, held_out, decoded)
        images = torch.from_numpy(held_out.batch(indices))
        values |= _consistency(context, vae, images)
        probe = _spread(train.labels, min(settings.probe_images, len(train)), scale.seeds.analysis)
        train_z = _means(context, vae, train, probe).mean(dim=(2, 3))
        test_z = _means(context, vae, held_out, indices)
        pooled, train_y, test_y = (
            test_z.mean(dim=(2, 3)),
            torch.from_numpy(train.labels[probe]),
            torch.from_numpy(held_out.labels[indices]),
        )
        values["knn"] = semantics.knn_accuracy(train_z, train_y, pooled, test_y, min(paper.knn_k, len(train_z)))
        values["linear_probe"] = semantics.linear_probe_accuracy(train_z, train_y, pooled, test_y)
        values["latent_std"] = _latent_std(context, vae, images)
        figure = _figure1(context, vae, held_out)
        pooled, labels = figure.pop("pooled"), figure["labels"]
        if 2 <= len(set(labels.tolist())) < len(labels):  # else it is not defined
            values["silhouette"] = semantics.silhouette(pooled, torch.from_numpy(labels))
    files.write_atomically(folder / "latents.npz", lambda p: save_npz(p, **figure))
    files.write_json(
        folder / "metrics.json",
        {
            "kind": "autoencoder",
            "name": artefact.name,
            "id": artefact.id,
            "values": values,
            "protocol": {
                "scale": scale.name,
                "data": f"{scale.data.name} {scale.data.resolution}x{scale.data.resolution}",
                "training steps": ae.spec.get("steps", 0),
                "images": f"{n} held-out" + (f", {len(decoded)} for reconstruction" if len(decoded) != n else ""),
                "decoded latent": "posterior sample",
                "feature extractor": scale.evaluation.extractor.name,
                "LPIPS": f"{scale.autoencoder.lpips.net}, {scale.autoencoder.lpips.backbone} backbone",
                "probes": f"{len(probe)} training images, averaged posterior means",
                "seeds": f"autoencoder {ae.spec.get('seed', 'none')}, analysis {scale.seeds.analysis}",
            },
            "provenance": {
                "autoencoder": ae.id,
                "checkpoint_sha256": files.sha256(source / "diffusion_pytorch_model.safetensors"),
                "data_sha256": train.fingerprint(),
                "extractor": registry.extractor.id,
                "lambda_k": ae.spec.get("lambda_k"),
                "made by code": files.code_version(),
            },
            "curve": curve(source / "log.jsonl"),
        },
    )


def _spread(labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """n indices in random order, fixed by the seed (prepared data are sorted by class)."""
    return rng.permutation(seed, "analysis", n=len(labels))[:n]


def _means(context: Context, vae, images: Images, indices: np.ndarray) -> Tensor:
    blocks = [torch.from_numpy(images.batch(indices[i : i + BATCH])) for i in range(0, len(indices), BATCH)]
    return torch.cat([models.moments(vae, models.to_input(b.to(context.device)))[0].cpu() for b in blocks])


def _sampled(context: Context, mean: Tensor, logvar: Tensor, start: int) -> Tensor:
    noise = torch.stack([
        torch.randn(mean.shape[1:], generator=rng.generator(context.scale.seeds.analysis, "posterior", start + i))
        for i in range(len(mean))
    ])  # fmt: skip
    return mean + torch.exp(0.5 * logvar) * noise.to(mean)


def _reconstruction(context: Context, vae, images: Images, indices: np.ndarray) -> dict[str, float]:
    """rFID, PSNR, SSIM and LPIPS of the images ``indices``; of pixels no more than a page is in memory."""
    config = context.scale.autoencoder.lpips
    lpips = lpips_network(config.net, config.backbone, config.weights).to(context.device)
    extractor = load_extractor(context)
    scores: dict[str, list[Tensor]] = {}
    features: dict[str, list[Tensor]] = {"real": [], "": [], "_mean": []}
    for first in range(0, len(indices), PAGE):
        page = torch.from_numpy(images.batch(indices[first : first + PAGE]))
        decoded: dict[str, list[Tensor]] = {"": [], "_mean": []}
        for start in range(0, len(page), BATCH):
            x = models.to_input(page[start : start + BATCH].to(context.device))
            mean, logvar = models.moments(vae, x)
            for suffix, z in (("", _sampled(context, mean, logvar, first + start)), ("_mean", mean)):
                bytes_ = to_uint8(vae.decode(z).sample)
                decoded[suffix].append(bytes_.cpu())
                truth, made = (x + 1) / 2, bytes_.float() / 255
                parts = {
                    "psnr": psnr(truth, made), "ssim": ssim(truth, made), "ssim_paper": ssim_paper(truth, made),
                    "lpips": lpips(made * 2 - 1, x).flatten(),
                }  # fmt: skip
                for name, score in parts.items():
                    scores.setdefault(name + suffix, []).append(score.cpu())
        for name, some in (("real", page), *((suffix, torch.cat(parts)) for suffix, parts in decoded.items())):
            features[name].append(extract(extractor, batches(some.numpy())).pool)
    values = {name: float(torch.cat(parts).mean()) for name, parts in scores.items()}
    real, *made = (Moments.of(torch.cat(parts)).finalize() for parts in features.values())
    for suffix, found in zip(("", "_mean"), made, strict=True):
        values[f"rfid{suffix}"] = frechet_distance(real.mu, real.sigma, found.mu, found.sigma)
    return values


def _consistency(context: Context, vae, images: Tensor) -> dict[str, float]:
    a = context.paper.augmentations
    kernel = max(3, round(a.blur_kernel_fraction * images.shape[-1]) // 2 * 2 + 1)
    views = semantics.ViewSettings(
        crop_scale=a.crop_scale, crop_ratio=a.crop_ratio, flip_probability=a.flip_probability,
        blur_probability=a.blur_probability, blur_sigma=a.blur_sigma,
        blur_kernel=kernel, grayscale_probability=a.grayscale_probability,
    )  # fmt: skip

    def encode(x: Tensor) -> Tensor:
        return models.moments(vae, (2 * x - 1).to(context.device))[0].cpu()

    values = {}
    for name in semantics.AUGMENTATIONS:
        made = semantics.semantic_consistency(encode, images.float() / 255, name, views, context.scale.seeds.analysis)
        values |= {f"sc_{name}": made.sc, f"sc_centred_{name}": made.centred}
    return values


def _latent_std(context: Context, vae, images: Tensor) -> float:
    """Std over all elements of the sampled latents: the size of a point in Figure 5."""
    statistics = models.LatentStatistics()
    for start in range(0, len(images), BATCH):
        statistics.add(*models.moments(vae, models.to_input(images[start : start + BATCH].to(context.device))))
    return statistics.std


def _figure1(context: Context, vae, images: Images) -> dict[str, np.ndarray]:
    """t-SNE of pooled latents of a few classes, and cosine maps of a few images' tokens to one anchor."""
    settings, seed = context.scale.analysis, context.scale.seeds.analysis
    classes = np.sort(rng.permutation(seed, "t-SNE classes", n=len(images.classes))[: settings.tsne_classes])
    chosen = np.concatenate([
        np.flatnonzero(images.labels == c)[rng.permutation(seed, "t-SNE images", int(c), n=int((images.labels == c).sum()))[: settings.tsne_images]]
        for c in classes
    ])  # fmt: skip
    z = _means(context, vae, images, chosen)
    pooled = z.mean(dim=(2, 3))
    shown = np.linspace(0, len(chosen) - 1, MAPS).round().astype(int)
    pixels = images.batch(chosen[shown])
    anchors = np.array([_anchor(image, z.shape[-1]) for image in pixels])
    maps = torch.stack([semantics.token_similarity(z[i], tuple(a)) for i, a in zip(shown, anchors.tolist(), strict=True)])
    moments = models.moments(vae, models.to_input(torch.from_numpy(pixels).to(context.device)))
    decoded = to_uint8(vae.decode(_sampled(context, *moments, 0)).sample).cpu().numpy()
    return {
        "pooled": pooled,
        "tsne": semantics.tsne(pooled, seed, min(30.0, (len(pooled) - 1) / 3)).astype(np.float32),
        "labels": images.labels[chosen],
        "images": pixels.transpose(0, 2, 3, 1),
        "reconstructions": decoded.transpose(0, 2, 3, 1),
        "maps": maps.numpy().astype(np.float32),
        "anchors": anchors,
    }


def _anchor(image: np.ndarray, grid: int) -> tuple[int, int]:
    """The token whose pixels vary most: a place on the object, the same for every autoencoder. Our choice."""
    tokens = image.mean(axis=0).reshape(grid, image.shape[1] // grid, grid, image.shape[2] // grid)
    best = int(tokens.std(axis=(1, 3)).argmax())
    return best // grid, best % grid
