"""A scale that does not hold together gets one clear line."""

from pathlib import Path

import pytest
from conftest import edit
from mistakes import names, one_line

from reals.experiment.load import load
from reals.experiment.networks import ClipExtractor, DinoExtractor, InceptionExtractor, PretrainedTeacher
from reals.experiment.reading import ConfigError, read_names, validate
from reals.experiment.registry import Registry

MISTAKES = [
    # file, old text, new text, what the line must say
    ("config/scales/demo.yaml", "resolution: 32", "resolution: 30", "resolution 30 does not divide"),
    ("config/scales/demo.yaml", "features: cached", "feature: cached", "feature: unknown key"),
    ("config/scales/demo.yaml", "features: cached", "features: sometimes", "features"),
    ("config/scales/demo.yaml", "patch: 4, steps", "patch: 8, steps", "the latents are 8 wide"),
    ("config/scales/demo.yaml", "factor: 4", "factor: 8", "block_out_channels"),
    ("config/scales/demo.yaml", "resolution: 32", "resolution: 16", "LPIPS"),
    ("config/scales/demo.yaml", "400K: 400,", "400K: -400,", "milestones.400K"),
    ("config/scales/demo.yaml", "latent: {channels", "latent: {chanels", "chanels"),
    ("config/scales/demo.yaml", "batch: 250, shards: 1}", "batch: 250, shards: 5000}", "some would be empty"),
    ("config/scales/demo.yaml", "seed: 11", "seed: -11", "teachers.large"),
    ("config/scales/demo.yaml", "features: cached", "features: cached\nseeds: {analysis: -1}", "seeds.analysis"),
    ("config/scales/demo.yaml", "lr: 1.2e-3", "lr: .inf", "autoencoder.lr"),
    ("config/scales/demo.yaml", "tsne_grid: 2", "tsne_grid: 9", "9 cells a side, but a latent has 8 tokens a side"),
    ("config/scales/demo.yaml", "pr_reference: 1000", "second: {kind: small-cnn, name: digits-cnn, width: 8, steps: 1, batch: 8, lr: 1, seed: 1}\n  pr_reference: 1000", "another extractor has its own"),
    ("config/scales/demo.yaml", "description: 5,000", "description: ５,000", "config/scales/demo.yaml: description: no LaTeX spelling"),
    ("config/scales/demo.yaml", "features: cached", "features: cached\npretrained: ''", "pretrained: '' would be the current folder"),
    ("config/scales/demo.yaml", "  resolution: 32", "  keep_crops: true\n  resolution: 32", "keep_crops: storage array holds the crops already"),
    ("config/scales/demo.yaml", "features: cached", "features: cached\nengine: {profile: 10}", "engine.profile: 10 is no first and last step"),
    ("config/scales/demo.yaml", "400K: 400,", "400Κ: 400,", "milestones.400Κ: no LaTeX spelling"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "says"), MISTAKES, ids=names(MISTAKES))
def test_a_mistake_gets_one_line(file, old, new, says, project):
    assert says in one_line(file, old, new)


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (PretrainedTeacher, {"kind": "timm", "name": "a", "model": "b", "patch": 2}),
        (InceptionExtractor, {"kind": "inception"}),
        (DinoExtractor, {"kind": "dinov2"}),
        (ClipExtractor, {"kind": "clip-l-14-336"}),
    ],
)
def test_a_checksum_is_of_a_file_that_is_named(model, values):
    with pytest.raises(
        ConfigError, match="here: sha256: is the checksum of weights, a local file, and none is named; add weights"
    ):
        validate(model, {**values, "sha256": "0" * 64}, "here")
    assert validate(model, {**values, "sha256": "0" * 64, "weights": "a.pth"}, "here").weights == "a.pth"


@pytest.mark.parametrize(("split", "says"), [("null", "128 of each class, but about 50 are held out"), ("val", "tsne_split")])
def test_figure_1_does_not_ask_for_more_images_of_a_class_than_there_are(split, says, project):
    edit(Path("config/scales/imagenet256.yaml"), "tsne_split: train", f"tsne_split: {split}")
    with pytest.raises(ConfigError, match=says):
        load("imagenet256")


def test_the_classes_of_imagenet100_are_classes_of_imagenet_and_decide_the_id(project):
    from timm.data import ImageNetInfo

    file = Path("config/classes/imagenet100.txt")
    names = list(read_names(file))
    assert len(names) == 100 and names == sorted(names) and set(names) <= set(ImageNetInfo("imagenet-1k").label_names())
    before = Registry(load("imagenet100")).data.id
    file.write_text("# the same\n" + "\n".join(reversed(names)))
    assert Registry(load("imagenet100")).data.id == before
    file.write_text("\n".join(names[:-1]))
    assert Registry(load("imagenet100")).data.id != before
    file.unlink()
    with pytest.raises(ConfigError, match=r"data\.class_list: config/classes/imagenet100\.txt: no such file"):
        Registry(load("imagenet100"))
    edit(Path("config/scales/imagenet100.yaml"), "source: folder", "source: cifar10")
    with pytest.raises(ConfigError, match="class_list: source cifar10 has no class folders"):
        load("imagenet100")
