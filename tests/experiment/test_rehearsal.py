"""A rehearsal is the same DAG at sizes that cost nothing, apart from every other result and marked in every table."""

import json
from pathlib import Path

import pytest
from conftest import REPOSITORY

from reals.data.dataset import Images
from reals.data.prepare import prepare
from reals.experiment.load import load
from reals.experiment.reading import ConfigError, read_names
from reals.experiment.registry import Registry
from reals.experiment.rehearsal import rehearse, wanted
from reals.planning.cost import Costs

SCALES = ["imagenet256", "imagenet100", "cifar10", "demo", "smoke"]


def registry(scale: str, rehearsed: bool = True) -> Registry:
    return Registry(load(scale, folder=REPOSITORY / "config", rehearse=rehearse if rehearsed else None))


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_rehearses_its_own_artefacts(scale):
    real, small = registry(scale, False), registry(scale)
    assert small.root == Path(f"results/{scale}_rehearsal") and not small.experiment.scale.paper
    for group in ("autoencoders", "latents", "runs", "samples", "evaluations", "analyses", "downstream", "teachers", "features"):
        assert getattr(small, group).keys() == getattr(real, group).keys()
    assert [small.shards(s) for s in small.samples.values()] == [real.shards(s) for s in real.samples.values()]
    for rule, asked in real.experiment.scale.resources.items():
        assert small.experiment.scale.resources[rule] == asked.model_copy(update={"threads": 1})


def test_judges_are_other_networks_than_the_first_extractor():
    small = registry("cifar10")
    judges = [judge.spec for judge in small.judges.values()]
    assert judges and all(judge.seed != small.extractor.spec.seed for judge in judges)


def test_networks_are_not_compiled():
    assert registry("imagenet256", False).experiment.scale.engine.compile
    assert not registry("imagenet256").experiment.scale.engine.compile


def test_it_costs_nothing():
    costs = Costs(registry("imagenet256"))
    assert sum(job.flops for job in costs.jobs.values()) < 1e12
    assert sum(job.bytes for job in costs.jobs.values()) < 1e8


@pytest.mark.slow
def test_painted_pictures_are_an_image_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scale = registry("imagenet256").experiment.scale
    prepare(scale.data, 0, Path("one"))
    prepare(scale.data, 0, Path("other"))
    one, other = (Images(Path(name), "train") for name in ("one", "other"))
    assert len(one) == 24 * 12 and len(one.classes) == 12 and one.batch([0, 100, 200]).shape == (3, 3, 32, 32)
    assert (one.batch([5, 77]) == other.batch([5, 77])).all()
    assert (one.batch([0]) != one.batch([30])).any()


def test_data_that_are_there_are_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/imagenet").mkdir(parents=True)
    data = registry("imagenet256").experiment.scale.data
    assert (data.source, data.name, data.expected_images) == ("folder", "imagenet", None)


@pytest.mark.parametrize(("value", "means"), [(True, True), ("true", True), ("True", True), (False, False), ("false", False)])
def test_how_it_is_asked_for(value, means):
    assert wanted(value) is means


def test_anything_else_is_refused():
    with pytest.raises(ConfigError, match="rehearsal=yes: expected true or false"):
        wanted("yes")


def test_a_small_teacher_answers_on_repa_s_grid_too():
    import torch

    from reals.method.models import teacher

    config = teacher.TeacherConfig("", 8, 4, (0.5,) * 3, (0.5,) * 3, width=16, depth=1, heads=2)
    patches, _ = teacher.Teacher(config, teacher.build(config)).features(torch.rand(2, 3, 32, 32), grid=2)
    assert patches.shape == (2, 4, 16)


def test_a_list_of_classes_holds_of_data_that_are_there_alone(tmp_path, monkeypatch):
    listed = "config/classes/imagenet100.txt"
    assert registry("imagenet100").experiment.scale.data.class_list is None  # painted patterns have no WordNet ids
    (tmp_path / "data/imagenet").mkdir(parents=True)
    (tmp_path / "config").symlink_to(REPOSITORY / "config")
    monkeypatch.chdir(tmp_path)
    assert registry("imagenet100").experiment.scale.data.class_list == listed


@pytest.mark.workflow
def test_the_same_jobs_are_planned(project):
    from conftest import planned

    real = planned(project, "--config", "scale=imagenet256")
    assert planned(project, "--config", "scale=imagenet256", "rehearsal=true") == real


@pytest.mark.workflow
def test_one_evaluation_from_nothing(project):
    """REPA with its teacher online, on an aligned autoencoder: painted pictures to metrics."""
    from conftest import snakemake

    small = registry("imagenet256")
    target = small.folder(small.evaluations["repa-b2-reals_400K"]) / "metrics.json"
    snakemake(project, str(target), "--config", "scale=imagenet256", "rehearsal=true")
    result = json.loads((project / target).read_text())
    assert result["values"]["fid"] > 0 and result["protocol"]["scale"] == "imagenet256_rehearsal"


@pytest.mark.extra
def test_all_of_the_day_on_one_gpu(project):
    """From a folder with more classes than are listed, of which those are taken."""
    from conftest import snakemake
    from photos import folder

    listed = list(read_names(project / "config/classes/imagenet100.txt"))[:12]
    (project / "config/classes/imagenet100.txt").write_text("\n".join(listed))
    for split, images in (("train", 8), ("val", 4)):
        folder(project / "data/imagenet" / split, images, [*listed, "n00000001", "n00000002"])
    snakemake(project, "--config", "scale=imagenet100", "rehearsal=true")
    root = project / "results/imagenet100_rehearsal"
    for name in ("arms", "table02", "table08"):
        text = (root / f"tables/{name}.md").read_text()
        assert "rehearsal" in text and "…" not in text and "imagenet100 32x32" in text
    (manifest,) = root.glob("data/*/index.json")
    assert json.loads(manifest.read_text())["classes"] == listed


@pytest.mark.extra
def test_all_of_the_paper(project):
    from conftest import snakemake

    snakemake(project, "--config", "scale=imagenet256", "rehearsal=true")
    root = project / "results/imagenet256_rehearsal"
    for n in range(1, 15):
        text = (root / f"tables/table{n:02d}.md").read_text()
        assert "rehearsal" in text and "…" not in text
