"""What every stage is called with: the experiment's artefacts, the device, the images."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from reals import files
from reals.data.dataset import Images, image_root
from reals.data.local_copy import local_copy
from reals.experiment.artefact import Artefact
from reals.experiment.paper import Paper
from reals.experiment.registry import Registry
from reals.experiment.scale import Scale
from reals.machine.world import world


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
        return torch.device("cuda", world().local_rank) if torch.cuda.is_available() else torch.device("cpu")

    def folder(self, artefact: Artefact) -> Path:
        return self.registry.folder(artefact)

    def begin(self, artefact: Artefact) -> Path:
        """The artefact's folder, made and marked with its spec; refused where it holds another."""
        folder = self.folder(artefact)
        files.begin(folder, artefact.id, artefact.identity)
        return folder

    @property
    def image_root(self) -> Path | None:
        """Where the image files are now; None where the scale does not say so."""
        return image_root(self.scale.data)

    def images(self, split: str, near: bool = False) -> Images:
        """A split; ``near``: for who reads all of it again and again, from a local copy of the kept crops where there is one."""
        folder = self.folder(self.registry.data)
        return Images(folder, split, self.image_root, self.near) if near else Images(folder, split, self.image_root)

    def near(self, folder: Path) -> Path:
        """A sealed folder, or its copy on this node's disk where the scale asks for one."""
        return local_copy(folder) if self.scale.engine.local_copy else folder
