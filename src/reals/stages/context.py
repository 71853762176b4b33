"""What every stage is called with: the experiment's artefacts, the device, the images."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from reals import files
from reals.data.dataset import Images
from reals.experiment.artefact import Artefact
from reals.experiment.paper import Paper
from reals.experiment.registry import Registry
from reals.experiment.scale import Scale


@dataclass(frozen=True)
class Context:
    """The registry (and through it the experiment) and the device."""

    registry: Registry

    @property
    def scale(self) -> Scale:
        return self.registry.experiment.scale

    @property
    def paper(self) -> Paper:
        return self.registry.experiment.paper

    @cached_property
    def device(self) -> torch.device:
        """This process's GPU (torchrun numbers the processes of a node), or the CPU."""
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else torch.device("cpu")

    def folder(self, artefact: Artefact) -> Path:
        return self.registry.folder(artefact)

    def begin(self, artefact: Artefact) -> Path:
        """The artefact's folder, made and marked with its spec; refused where it holds another."""
        folder = self.folder(artefact)
        files.begin(folder, artefact.id, artefact.identity)
        return folder

    def images(self, split: str) -> Images:
        data = self.scale.data
        moved = Path(data.path) if data.source == "folder" and data.path else None
        return Images(self.folder(self.registry.data), split, moved if moved and moved.is_dir() else None)
