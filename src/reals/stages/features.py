"""Stage `features`: the teacher's features of the training images, cached; and the same features online."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reals import files
from reals.journal import work
from reals.models import teacher as teachers
from reals.progress import Progress
from reals.registry import Artefact
from reals.stages import Context

BATCH = 64


def run(context: Context, artefact: Artefact) -> None:
    """Writes patch.npy [F, N, T, D] and cls.npy [F, N, D], float16; F is 2 (plain, mirrored) where the data flip, else 1."""
    folder = context.begin(artefact)
    images = context.images("train")
    teacher_folder = context.folder(artefact.needed("teacher"))
    files.opened(teacher_folder)
    teacher = teachers.load(teacher_folder, context.device)
    flips = [False, True] if context.scale.data.flip else [False]
    tokens = context.scale.latent_size**2
    progress = Progress(artefact.name, len(flips) * len(images))

    def write_patch(patch_file: Path) -> None:
        patch = np.lib.format.open_memmap(patch_file, "w+", np.float16, (len(flips), len(images), tokens, teacher.dim))
        for f, flip in enumerate(flips):
            for start in range(0, len(images), BATCH):
                indices = np.arange(start, min(start + BATCH, len(images)))
                x = torch.from_numpy(images.batch(indices, np.full(len(indices), flip))).to(context.device)
                p, c = teacher.features(x.float() / 255)
                patch[f, indices], cls[f, indices] = p.cpu().numpy(), c.cpu().numpy()
                progress.update(f * len(images) + start + len(indices))
        patch.flush()

    cls = np.zeros((len(flips), len(images), teacher.dim), np.float16)
    with work():
        files.write_atomically(folder / "patch.npy", write_patch)

    def write_cls(partial: Path) -> None:
        with partial.open("wb") as file:
            np.save(file, cls)

    files.write_atomically(folder / "cls.npy", write_cls)
    files.seal(
        folder,
        ["patch.npy", "cls.npy"],
        teacher=artefact.spec["teacher"],
        data=artefact.spec["data"],
        grid=context.scale.latent_size,
    )


class CachedFeatures:
    """Teacher features by image index, from the cache."""

    def __init__(self, folder: Path):
        self.manifest = files.opened(folder)
        self.patch = np.load(folder / "patch.npy", mmap_mode="r")
        self.cls = np.load(folder / "cls.npy")

    @property
    def dim(self) -> int:
        return self.cls.shape[-1]

    def __call__(self, indices, flips: np.ndarray, images: Tensor | None) -> tuple[Tensor, Tensor]:
        """(patches [B, T, D], cls [B, D]), float32; ``images`` is not looked at."""
        f = np.asarray(flips).astype(int)
        return torch.from_numpy(self.patch[f, indices]).float(), torch.from_numpy(self.cls[f, indices]).float()


class OnlineFeatures:
    """Teacher features computed from the very images the autoencoder sees."""

    def __init__(self, folder: Path, device: torch.device, grid: int | None = None):
        files.opened(folder)
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
