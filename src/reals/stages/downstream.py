"""Stage `downstream`: masks and depth read off generated latents through the align network (Section 4.4, Figure 4)."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reals import files, rng
from reals.arrays import save_npz
from reals.data import labelled
from reals.data.readers import CachedFeatures
from reals.experiment.artefact import Artefact
from reals.experiment.specs import DownstreamSpec
from reals.machine.usage import work
from reals.measure.features import batches
from reals.measure.heads import Reader, predictions, score
from reals.measure.metrics import dense
from reals.measure.metrics.unlabelled import foreground, ink_scores
from reals.method.alignment import AlignNetworks
from reals.method.models import autoencoder as models
from reals.method.models import heads as networks
from reals.method.models import teacher as teachers
from reals.method.models.teacher import OnlineFeatures
from reals.method.sampling import shard_range
from reals.stages.context import Context
from reals.training.processes import use_deterministic_kernels
from reals.training.tasks.head import HeadSettings, trained_on_ink, trained_on_labels


def run(context: Context, artefact: Artefact[DownstreamSpec]) -> None:
    """Writes maps.npz (images, labels, mask and, where there is a depth target, depth) and metrics.json."""
    registry, scale, spec = context.registry, context.scale, artefact.spec
    folder = context.begin(artefact)
    samples = artefact.needed("samples")
    source_ae = registry.folder(samples.needed("autoencoder"))
    align = _align_networks(source_ae, context.device)
    kept = min(spec.gallery, len(shard_range(samples.spec.n, 0, registry.shards(samples))))
    z, images, labels = gallery(registry.folder(samples), kept)
    if scale.engine.deterministic and context.device.type == "cuda":
        use_deterministic_kernels()
    settings = HeadSettings(spec.seed, spec.steps, spec.batch, spec.lr, context.device)
    values: dict[str, float] = {}
    done: Said = {"heads": "none"}
    arrays = {"images": images.transpose(0, 2, 3, 1), "labels": labels}
    with work():
        if spec.target == "labelled":
            values, found, done = _read_labelled(context, artefact, z, images, settings)
            arrays |= found
        elif spec.target == "foreground":
            mask = foreground(align(z.to(context.device))[0].cpu())
            arrays["mask"] = F.interpolate(mask[:, None], scale_factor=scale.latent.factor, mode="bilinear")[:, 0].numpy()
        else:
            values, found, done = _read_ink(context, artefact, align, z, images, settings)
            arrays |= found
    files.write_atomically(folder / "maps.npz", lambda p: save_npz(p, **arrays))
    targets = {"ink": "mask: ink; depth stand-in: distance inside the stroke (pixels)",
               "foreground": "mask: first principal component of the align network's features (no labels)",
               "labelled": "heads on true teacher features, against the labels of images"}  # fmt: skip
    files.write_json(
        folder / "metrics.json",
        {
            "kind": "downstream",
            "name": artefact.name,
            "id": artefact.id,
            "values": values,
            "protocol": {
                "scale": scale.name,
                "target": targets[spec.target],
                **_described(context),
                **done,
                "seeds": f"analysis {spec.seed}",
            },
            "provenance": {
                "samples": samples.id,
                "autoencoder": samples.spec.autoencoder,
                "made by code": files.code_version(),
            },
        },
    )


Said = dict[str, str | int]
"""What was done, for who reads the numbers: what -> how."""


def gallery(folder: Path, count: int) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """The first ``count`` samples of an evaluation: (latents, images, labels). MissingArtefact where fewer were kept."""
    path = folder / "gallery.npz"
    with np.load(path) as stored:
        if len(stored["labels"]) < count:
            raise files.MissingArtefact(
                f"{path} was kept when the scale's gallery was {len(stored['labels'])} images, now it is {count}; delete {folder} to draw again"
            )
        return torch.from_numpy(stored["latents"][:count]), stored["images"][:count], stored["labels"][:count]


def _read_ink(
    context: Context,
    artefact: Artefact[DownstreamSpec],
    align: AlignNetworks,
    z: Tensor,
    images: np.ndarray,
    settings: HeadSettings,
) -> tuple[dict[str, float], dict[str, np.ndarray], Said]:
    """(values, arrays for Figure 4, what was done) of generated latents z [k, C, h, w] (unscaled); the images' own ink is the truth."""
    registry, scale, spec = context.registry, context.scale, artefact.spec
    source_ae = registry.folder(artefact.needed("samples").needed("autoencoder"))
    values: dict[str, float] = {}
    cached = spec.features is not None
    needed = artefact.needed("features" if cached else "teacher")
    teacher_folder = registry.folder(needed.needed("teacher") if cached else needed)
    train = context.images("train")
    source = CachedFeatures(registry.folder(needed), train) if cached else OnlineFeatures.of(teacher_folder, context.device)
    heads = trained_on_ink(train, source, scale.latent.factor, settings)
    held_out = context.images("held_out")
    chosen = rng.permutation(spec.seed, "held-out", n=len(held_out))[: scale.analysis.images]
    real = torch.from_numpy(held_out.batch(chosen))
    teacher, vae = teachers.load(teacher_folder, context.device), models.load(source_ae, context.device)
    parts: dict[str, list[Tensor]] = {"teacher": [], "align": []}
    with torch.no_grad():
        for block in batches(real.numpy()):
            block = block.to(context.device)
            parts["teacher"].append(teacher.features(block.float() / 255)[0])
            parts["align"].append(align(models.moments(vae, models.to_input(block))[0])[0])
    for name, tokens in (("teacher", torch.cat(parts["teacher"])), ("align", torch.cat(parts["align"]))):
        values |= {f"{k}_{name}": v for k, v in ink_scores(heads, tokens, real).items()}
    generated = align(z.to(context.device))[0]
    values |= {f"{k}_generated": v for k, v in ink_scores(heads, generated, torch.from_numpy(images)).items()}
    mask, depth = heads(generated)
    done: Said = {"heads": _trained(settings, len(train)), "held-out images": len(chosen)}
    return values, {"mask": mask.sigmoid().cpu().numpy(), "depth": depth.cpu().numpy()}, done


def _trained(settings: HeadSettings, images: int) -> str:
    return f"{settings.steps} steps, batch {settings.batch}, {images} images"


def _align_networks(autoencoder: Path, device: torch.device) -> AlignNetworks:
    """Those of the samples' autoencoder, which the sheets say was aligned. MissingArtefact where they are gone."""
    networks = models.load_align(autoencoder, device)
    if networks is None:
        raise files.MissingArtefact(f"{autoencoder}: its align networks are gone; delete it and run again")
    return networks


class Sources(NamedTuple):
    """What heads can be fed with: the teacher's features, the align network's of latents, the base's latents themselves."""

    teacher: Reader
    align: Reader
    base: Reader
    of_latents: Callable[[Tensor], Tensor]  # the align network's features of latents [B, C, h, w], unscaled
    teacher_name: str
    dim: int
    channels: int


def sources(context: Context, artefact: Artefact[DownstreamSpec]) -> Sources:
    """The networks of the samples, of the base that they are compared with, and the teacher, each as a reader."""
    registry, device = context.registry, context.device
    aligned = registry.folder(artefact.needed("samples").needed("autoencoder"))
    base = registry.folder(artefact.needed("autoencoder"))
    teacher_folder = registry.folder(artefact.needed("teacher"))
    for folder in (aligned, base, teacher_folder):
        files.verified(folder)
    teacher = teachers.load(teacher_folder, device)
    align, vae, start = _align_networks(aligned, device), models.load(aligned, device), models.load(base, device)

    def of_latents(z: Tensor) -> Tensor:
        return networks.as_map(align(z)[0])

    return Sources(
        lambda x: networks.as_map(teacher.features(x.float() / 255)[0]),
        lambda x: of_latents(models.moments(vae, models.to_input(x))[0]),
        lambda x: models.moments(start, models.to_input(x))[0],
        of_latents, teacher.config.timm, teacher.dim, context.scale.latent.channels,
    )  # fmt: skip


def _read_labelled(
    context: Context, artefact: Artefact[DownstreamSpec], z: Tensor, images: np.ndarray, settings: HeadSettings
) -> tuple[dict[str, float], dict[str, np.ndarray], Said]:
    """(values, arrays for Figure 4, what was done) of generated latents z [k, C, h, w] (unscaled) and their images [k, 3, R, R].

    For each kind of label a head is trained on the teacher's features, frozen, and then scored against ground truth on held-out
    images: on the teacher's own features (``..._teacher``, the ceiling), on the align network's of encoded images (``..._align``);
    and a probe of the same form, trained on the base's latents, on those (``..._base``, the floor). On the generated: the agreement
    of the head on their latents with the head on the teacher's features of the decoded images (``..._generated``).
    """
    config, resolution = context.scale.downstream, context.scale.data.resolution
    found = sources(context, artefact)
    values: dict[str, float] = {}
    arrays: dict[str, np.ndarray] = {}
    heads, scored_on = [], []
    decoded = torch.from_numpy(images).to(context.device)
    for kind, labels in (("segmentation", config.segmentation), ("depth", config.depth)):
        if labels is None:
            continue
        splits = labelled.pairs(labels, f"downstream.{kind}", context.scale.data.megapixels)
        if labels.head is not None:
            classes = labelled.classes(labels)
            head = networks.published(Path(labels.head), labels.layout, found.teacher_name, found.dim, classes).to(context.device)
        else:
            head = trained_on_labels(kind, splits["train"], found.teacher, found.dim, "teacher", resolution, settings)
        steps = _trained(settings, len(splits["train"]))
        heads.append(f"{kind}: {steps}" if labels.head is None else f"{kind}: published; its probe on the base {steps}")
        scored_on.append(f"{len(splits['held_out'])} for {kind}")
        probe = trained_on_labels(kind, splits["train"], found.base, found.channels, "base", resolution, settings)
        for name, network, reader in (
            ("teacher", head, found.teacher),
            ("align", head, found.align),
            ("base", probe, found.base),
        ):
            scored = score(labels, predictions(network, reader, splits["held_out"], resolution, context.device))
            values |= {f"{metric}_{name}": value for metric, value in scored.items()}
        with torch.no_grad():
            seen, true = head(found.of_latents(z.to(context.device)), resolution), head(found.teacher(decoded), resolution)
        if kind == "segmentation":
            seen, true = seen.argmax(1).cpu(), true.argmax(1).cpu()
            arrays["classes"] = seen.numpy().astype(np.uint8)
            values["miou_generated"] = dense.mean_iou(dense.confusion(seen, true, labelled.classes(labels)))
        else:
            arrays["depth"] = seen.cpu().numpy()
            if labels.relative:
                values["correlation_generated"] = dense.depth_correlation(seen.cpu(), true.cpu())
            else:
                errors = dense.depth_errors(seen.cpu(), true.cpu())
                values |= {f"{metric}_generated": value for metric, value in errors.items()}
    return values, arrays, {"heads": "; ".join(heads), "held-out images": ", ".join(scored_on)}


def _described(context: Context) -> dict[str, str]:
    """What a reader must know beside the numbers."""
    config, facts = context.scale.downstream, {}
    if config.segmentation is not None:
        head = "published linear head" if config.segmentation.head else "BatchNorm and 1x1 convolution trained here"
        facts["segmentation"] = f"{config.segmentation.name} ({config.segmentation.layout}): {head}; mIoU over the held-out split"
    if config.depth is not None:
        how = "after scale and shift by least squares for each image" if config.depth.relative else "as predicted, no alignment"
        head = (
            "MoGe's head, experimental, on one last-layer map in place of its own backbone's four"
            if config.depth.head
            else "head trained here"
        )
        facts["depth"] = f"{config.depth.name}: {head}; AbsRel and delta1 {how}, means over images"
    return facts
