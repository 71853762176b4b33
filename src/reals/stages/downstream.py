"""Stage `downstream`: masks and depth read off generated latents through the align network (Section 4.4, Figure 4)."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reals import files, rng
from reals.arrays import save_npz
from reals.data.dataset import Images
from reals.data.readers import CachedFeatures
from reals.experiment.artefact import Artefact
from reals.machine.usage import work
from reals.measure.features import batches
from reals.method.models import autoencoder as models
from reals.method.models import teacher as teachers
from reals.method.models.teacher import OnlineFeatures
from reals.method.sampling import shard_range
from reals.progress import Progress
from reals.stages import labelled
from reals.stages.context import Context
from reals.training.batches import data_order

INK = 0.5  # brightness above which a pixel is ink


class Heads(nn.Module):
    """BatchNorm and one 1x1 convolution per task on teacher tokens (DINOv2's linear head), at pixel resolution.

    tokens [B, h*w, D] -> mask logits and depth, each [B, h*r, w*r].
    """

    def __init__(self, dim: int, pixels_per_token: int):
        super().__init__()
        self.r = pixels_per_token
        self.norm = nn.BatchNorm1d(dim)
        self.out = nn.Linear(dim, 2 * pixels_per_token**2)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        side = round(tokens.shape[1] ** 0.5)
        maps = self.out(self.norm(tokens.transpose(1, 2)).transpose(1, 2))
        maps = F.pixel_shuffle(maps.transpose(1, 2).unflatten(2, (side, side)), self.r)
        return maps[:, 0], F.softplus(maps[:, 1])


def ink(images: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 [B, 3, R, R] of bright strokes on black -> (mask [B, R, R] in {0, 1}, depth [B, R, R] in pixels).

    The depth stand-in is the distance from each inked pixel to the nearest bare one: how deep inside the stroke it is.
    """
    from scipy.ndimage import distance_transform_edt

    mask = (images.float().mean(dim=1) / 255 > INK).numpy()
    depth = np.stack([distance_transform_edt(m) for m in mask]).astype(np.float32)
    return torch.from_numpy(mask.astype(np.float32)), torch.from_numpy(depth)


def train_heads(context: Context, artefact: Artefact, source, dim: int, train: Images) -> Heads:
    """Heads trained on *true* teacher features of training images: the generator's latents are never seen."""
    spec = artefact.spec
    heads = Heads(dim, context.scale.latent.factor)
    with torch.no_grad():
        g = rng.generator(spec["seed"], "head weights")
        heads.out.weight.normal_(0, dim**-0.5, generator=g)
        heads.out.bias.zero_()
    heads = heads.to(context.device).train()
    optimizer = torch.optim.AdamW(heads.parameters(), lr=spec["lr"], weight_decay=0.0)
    progress = Progress("heads", spec["steps"])
    for step in range(spec["steps"]):
        indices = data_order(spec["seed"], step, spec["batch"], len(train))
        pixels = torch.from_numpy(train.batch(indices))
        tokens, _ = source(indices, np.zeros(len(indices), bool), pixels.to(context.device))
        mask, depth = heads(tokens.to(context.device))
        true_mask, true_depth = (t.to(context.device) for t in ink(pixels))
        loss = F.binary_cross_entropy_with_logits(mask, true_mask) + F.l1_loss(depth, true_depth)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"downstream heads: the loss is not finite at step {step}; lower downstream.lr")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        progress.update(step + 1, loss=float(loss))
    return heads.eval().requires_grad_(False)


def scores(heads: Heads, tokens: Tensor, images: Tensor) -> dict[str, float]:
    """IoU of the mask and mean absolute error of the depth (pixels, on true ink) against the images' own ink."""
    mask, depth = heads(tokens)
    true_mask, true_depth = ink(images)
    predicted, truth = (mask > 0).cpu(), true_mask > 0
    union = float((predicted | truth).sum())
    error = (depth.cpu() - true_depth).abs()[truth]
    return {"iou": float((predicted & truth).sum()) / union if union else 1.0,
            "depth_error": float(error.mean()) if len(error) else 0.0}  # fmt: skip


def foreground(tokens: Tensor) -> Tensor:
    """Label-free masks: the tokens' first principal component over the batch, min-max scaled to [0, 1]: [B, h, w].

    The sign is chosen so that the border, on the whole, is background.
    """
    b, t, d = tokens.shape
    flat = tokens.reshape(-1, d).double()
    centred = flat - flat.mean(dim=0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    side = round(t**0.5)
    value = (centred @ vectors[:, -1]).view(b, side, side)
    border = torch.ones(side, side, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    if value[:, border].mean() > value[:, ~border].mean():
        value = -value
    return ((value - value.min()) / (value.max() - value.min()).clamp_min(1e-12)).float()


def gallery(folder: Path, count: int) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """The first ``count`` samples of an evaluation: (latents, images, labels). MissingArtefact where fewer were kept."""
    path = folder / "gallery.npz"
    with np.load(path) as stored:
        if len(stored["labels"]) < count:
            raise files.MissingArtefact(
                f"{path} was kept when the scale's gallery was {len(stored['labels'])} images, now it is {count}; delete {folder} to draw again"
            )
        return torch.from_numpy(stored["latents"][:count]), stored["images"][:count], stored["labels"][:count]


def run(context: Context, artefact: Artefact) -> None:
    """Writes maps.npz (images, labels, mask and, where there is a depth target, depth) and metrics.json."""
    registry, scale, spec = context.registry, context.scale, artefact.spec
    folder = context.begin(artefact)
    samples = artefact.needed("samples")
    source_ae = registry.folder(samples.needed("autoencoder"))
    align = models.load_align(source_ae, context.device)
    kept = min(spec["gallery"], len(shard_range(samples.spec["n"], 0, registry.shards(samples))))
    z, images, labels = gallery(registry.folder(samples), kept)
    values: dict[str, float] = {}
    arrays = {"images": images.transpose(0, 2, 3, 1), "labels": labels}
    with work():
        generated = align(z.to(context.device))[0]
        if spec["target"] == "labelled":
            values, found = labelled.run(context, artefact, z, images)
            arrays |= found
        elif spec["target"] == "foreground":
            mask = foreground(generated.cpu())
            arrays["mask"] = F.interpolate(mask[:, None], scale_factor=scale.latent.factor, mode="bilinear")[:, 0].numpy()
        else:
            cached = "features" in spec
            needed = artefact.needed("features" if cached else "teacher")
            teacher_folder = registry.folder(needed.needed("teacher") if cached else needed)
            source = (
                CachedFeatures(registry.folder(needed), context.images("train"))
                if cached
                else OnlineFeatures(teacher_folder, context.device)
            )
            heads = train_heads(context, artefact, source, source.dim, context.images("train"))
            held_out = context.images("held_out")
            chosen = rng.permutation(spec["seed"], "held-out", n=len(held_out))[: scale.analysis.images]
            real = torch.from_numpy(held_out.batch(chosen))
            teacher, vae = teachers.load(teacher_folder, context.device), models.load(source_ae, context.device)
            parts: dict[str, list[Tensor]] = {"teacher": [], "align": []}
            with torch.no_grad():
                for block in batches(real.numpy()):
                    block = block.to(context.device)
                    parts["teacher"].append(teacher.features(block.float() / 255)[0])
                    parts["align"].append(align(models.moments(vae, models.to_input(block))[0])[0])
            for name, tokens in (("teacher", torch.cat(parts["teacher"])), ("align", torch.cat(parts["align"]))):
                values |= {f"{k}_{name}": v for k, v in scores(heads, tokens, real).items()}
            values |= {f"{k}_generated": v for k, v in scores(heads, generated, torch.from_numpy(images)).items()}
            mask, depth = heads(generated)
            arrays |= {"mask": mask.sigmoid().cpu().numpy(), "depth": depth.cpu().numpy()}
    files.write_atomically(folder / "maps.npz", lambda p: save_npz(p, **arrays))
    targets = {"ink": "mask: ink; depth stand-in: distance inside the stroke (pixels)",
               "foreground": "mask: first principal component of the align network's features (no labels)",
               "labelled": "heads trained on true teacher features of labelled images"}  # fmt: skip
    files.write_json(
        folder / "metrics.json",
        {
            "kind": "downstream",
            "name": artefact.name,
            "id": artefact.id,
            "values": values,
            "protocol": {
                "scale": scale.name,
                "target": targets[spec["target"]],
                **labelled.described(context),
                "heads": f"{spec['steps']} steps on true teacher features" if values else "none",
                "held-out images": scale.analysis.images,
                "seeds": f"analysis {spec['seed']}",
            },
            "provenance": {
                "samples": samples.id,
                "autoencoder": samples.spec["autoencoder"],
                "made by code": files.code_version(),
            },
        },
    )
