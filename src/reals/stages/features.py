"""Stage `features`: the teacher's features of the training images, cached; and the same features online."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reals import files, shards
from reals.models import teacher as teachers
from reals.registry import Artefact
from reals.shards import Cache, Layout, Put
from reals.stages import Context

BATCH = 64


def layout(images: int, flips: int, grid: int, width: int, cls_only: bool = False) -> Layout:
    """One row: the patches [grid*grid, width] in row order (unless ``cls_only``) and the cls token [width]."""
    patch = {} if cls_only else {"patch": (grid**2, width)}
    return Layout(images, flips, patch | {"cls": (width,)})


def run(context: Context, artefact: Artefact) -> None:
    """Fills the cache of features, with as many processes as run this; mirrored images too where the data flip."""
    folder = context.begin(artefact)
    images = context.images("train")
    teacher_folder = context.folder(artefact.needed("teacher"))
    made_from = {
        "id": artefact.id,
        "teacher": artefact.spec["teacher"],
        "teacher_sha256": files.fingerprint(files.verified(teacher_folder)),
        "data": artefact.spec["data"],
        "data_sha256": images.fingerprint(),
        "grid": context.scale.latent_size,
    }
    teacher = teachers.load(teacher_folder, context.device)
    flips = 2 if context.scale.data.flip else 1
    planned = layout(len(images), flips, context.scale.latent_size, teacher.dim, artefact.spec["targets"] == "cls")

    def compute(span: range, put: Put) -> dict:
        batches = (np.arange(start, min(start + BATCH, span.stop)) for start in range(span.start, span.stop, BATCH))
        for _, pixels in images.ahead(batches):
            x = torch.from_numpy(pixels).to(context.device)
            views = [teacher.features(view.float() / 255) for view in (x, x.flip(-1))[:flips]]
            rows = {
                name: torch.stack(parts, dim=1) for name, parts in zip(("patch", "cls"), zip(*views, strict=True), strict=True)
            }
            put(**{name: rows[name].half().cpu().numpy() for name in planned.fields})
        return {}

    shards.make(folder, planned, made_from, compute, lambda facts: {}, f"features {artefact.name}")


class CachedFeatures(Cache):
    """Teacher features by image index, from the cache."""

    @property
    def dim(self) -> int:
        return self.layout.fields["cls"][-1]

    def __call__(self, indices, flips: np.ndarray, images: Tensor | None) -> tuple[Tensor, Tensor]:
        """(patches [B, T, D], cls [B, D]), float32; T is 0 where the cls token alone was cached. ``images`` is not looked at."""
        cls = torch.from_numpy(self.rows("cls", indices, flips)).float()
        if "patch" not in self.layout.fields:
            return cls.new_empty(len(cls), 0, self.dim), cls
        return torch.from_numpy(self.rows("patch", indices, flips)).float(), cls


class OnlineFeatures:
    """Teacher features computed from the very images the autoencoder sees."""

    def __init__(self, folder: Path, device: torch.device, grid: int | None = None):
        files.verified(folder)
        self.teacher, self.grid = teachers.load(folder, device), grid

    @property
    def dim(self) -> int:
        return self.teacher.dim

    def __call__(self, indices, flips: np.ndarray, images: Tensor) -> tuple[Tensor, Tensor]:
        """images uint8 [B, 3, R, R], already mirrored -> (patches [B, T, D], cls [B, D]), float32."""
        return self.teacher.features(images.float() / 255, self.grid)


def pooled(patches: Tensor, grid: int) -> Tensor:
    """Patches [B, T, D] averaged onto a coarser ``grid`` x ``grid``: [B, grid*grid, D]. Unchanged where they fit.

    Our choice for scales whose transformer tokens are coarser than the cached features; at paper scale the teacher
    runs at the token grid itself, as REPA does. Raises ValueError where the grids do not divide.
    """
    side = round(patches.shape[1] ** 0.5)
    if side == grid:
        return patches
    if side % grid:
        raise ValueError(f"teacher features have a {side}x{side} grid, which does not divide into {grid}x{grid} tokens")
    k = side // grid
    return patches.unflatten(1, (grid, k, grid, k)).mean(dim=(2, 4)).flatten(1, 2)
