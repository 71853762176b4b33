"""Stage `analyse`: what one autoencoder's latents and reconstructions are like (Tables 2 and 8, Figures 1 and 5)."""

import numpy as np
import torch

from reals import files
from reals.arrays import save_npz
from reals.experiment.artefact import Artefact
from reals.experiment.specs import AnalysisSpec, TrainedAutoencoderSpec
from reals.machine.usage import work
from reals.measure.latent_maps import Classes, latent_maps
from reals.measure.latents import chosen, consistency, latent_std, probe_scores
from reals.measure.metrics import semantics
from reals.measure.reconstruction import reconstruction_scores
from reals.method.models import autoencoder as models
from reals.stages.context import Context
from reals.stages.inputs import curve, load_extractor, load_lpips


def run(context: Context, artefact: Artefact[AnalysisSpec]) -> None:
    """Writes metrics.json and latents.npz of one autoencoder."""
    scale, paper, registry, seed = context.scale, context.paper, context.registry, context.scale.seeds.analysis
    folder, settings = context.begin(artefact), scale.analysis
    ae = artefact.needed("autoencoder")
    trained = ae.spec if isinstance(ae.spec, TrainedAutoencoderSpec) else None
    source = registry.folder(ae)
    scaled_by = files.verified(source).get("latent_scale_images")
    vae = models.channels_last(models.load(source, context.device), context.device)
    held_out, train = context.images("held_out"), context.images("train")
    n = min(settings.images, len(held_out))
    lpips = scale.autoencoder.lpips
    with work():
        order = chosen(held_out, len(held_out), seed)
        decoded, indices = order[: settings.reconstruction_images or n], order[:n]
        network, extractor = load_lpips(context), load_extractor(context)
        values = reconstruction_scores(vae, held_out, decoded, network.to(context.device), extractor, seed)
        images = torch.from_numpy(held_out.batch(indices))
        values |= consistency(vae, images, paper.augmentations, seed)
        probe = chosen(train, min(settings.probe_images, len(train)), seed)
        k = min(paper.knn_k, len(probe))
        values |= probe_scores(vae, train, probe, held_out, indices, k)
        values["latent_std"] = latent_std(vae, images)
        crowd = train if settings.tsne_split == "train" else held_out
        drawn = artefact.spec.tsne_drawn is not False
        classes = Classes(crowd, settings.tsne_classes, settings.tsne_images, settings.tsne_grid, drawn)
        maps = latent_maps(vae, held_out, classes, seed)
        labels = torch.from_numpy(maps.arrays["labels"])
        if 2 <= len(labels.unique()) < len(labels):  # else it is not defined
            values["silhouette"] = semantics.silhouette(maps.pooled, labels)
    files.write_atomically(folder / "latents.npz", lambda p: save_npz(p, **maps.arrays))
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
                "training steps": trained.steps if trained else 0,
                "images": f"{n} held-out" + (f", {len(decoded)} for reconstruction" if len(decoded) != n else ""),
                "decoded latent": "posterior sample",
                "feature extractor": scale.evaluation.extractor.name,
                "LPIPS": f"{lpips.net}, {lpips.backbone} backbone",
                **({"latent scale": f"of {scaled_by} training images"} if scaled_by else {}),
                "probes": f"{len(probe)} training images, averaged posterior means, k = {k} nearest",
                "t-SNE": f"{_of_each(maps.arrays['labels'])}, {'held-out' if crowd is held_out else 'training'}{_cells(settings.tsne_grid)}",
                "seeds": f"autoencoder {'none' if ae.spec.seed is None else ae.spec.seed}, analysis {seed}",
            },
            "provenance": {
                "autoencoder": ae.id,
                "checkpoint_sha256": files.sha256(source / "diffusion_pytorch_model.safetensors"),
                "data_sha256": train.fingerprint(),
                "extractor": registry.extractor.id,
                "lambda_k": trained.lambda_k if trained else None,
                "made by code": files.code_version(),
            },
            "curve": curve(source / "log.jsonl"),
        },
    )


def _of_each(labels: np.ndarray) -> str:
    """How many images of how many classes there are among some labels."""
    counts = np.unique(labels, return_counts=True)[1]
    few, many = counts.min(), counts.max()
    return f"{few if few == many else f'{few} to {many}'} images of each of {len(counts)} classes"


def _cells(grid: int | None) -> str:
    return f", means over {grid}x{grid} cells, standardised" if grid else ""
