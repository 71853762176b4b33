"""Heads learn what their features hold, published files load for their own backbone alone, and the stage reads latents."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import edit
from scenes import write_depth, write_voc

from reals.data import labelled
from reals.experiment import registry
from reals.experiment.datasets import LabelsConfig
from reals.experiment.load import load
from reals.experiment.reading import ConfigError
from reals.measure import heads as measured
from reals.method.models import heads, moge
from reals.stages import data
from reals.stages.context import Context
from reals.training.tasks.head import HeadSettings, trained_on_labels

SIZE = 32


def colours(x: torch.Tensor) -> torch.Tensor:
    """Features that show what is where: mean colours of 4x4 pixels, and their squares."""
    mean = F.avg_pool2d(x.float() / 255, 4)
    return torch.cat([mean, mean**2], dim=1)


def blind(x: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(x), 6, SIZE // 4, SIZE // 4)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("scenes")
    return write_voc(root / "voc", 64, SIZE), write_depth(root / "depth", 64, SIZE)


def labels(kind: str, folders) -> LabelsConfig:
    more = {"layout": "voc", "classes": 4} if kind == "segmentation" else {"layout": "depth"}
    return LabelsConfig(name="scenes", path=str(folders[kind == "depth"]), **more)


def trained(context, kind: str, reader, folders, steps: int = 150):
    settings = HeadSettings(seed=0, steps=steps, batch=8, lr=1e-2, device=context.device)
    splits = labelled.pairs(labels(kind, folders), kind)
    head = trained_on_labels(kind, splits["train"], reader, 6, "test", SIZE, settings)
    return head, measured.score(labels(kind, folders), measured.predictions(head, reader, splits["held_out"], SIZE, "cpu"))


@pytest.fixture
def context(project) -> Context:
    return Context(registry.Registry(load("smoke")))


@pytest.mark.slow
def test_a_head_finds_classes_and_depth_where_features_hold_them_and_nothing_where_they_hold_nothing(context, folders):
    (_, seen), (_, unseen) = (trained(context, "segmentation", reader, folders) for reader in (colours, blind))
    assert seen["miou"] > 0.6 and unseen["miou"] < 0.25
    (_, seen), (_, unseen) = (trained(context, "depth", reader, folders) for reader in (colours, blind))
    assert seen["absrel"] < 0.7 * unseen["absrel"] and seen["delta1"] > unseen["delta1"]


def test_training_a_head_is_a_function_of_its_spec_and_scores_do_not_depend_on_batches(context, folders, monkeypatch):
    (one, scored), (other, _) = (trained(context, "depth", colours, folders, steps=5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    monkeypatch.setattr(measured, "BATCH", 5)
    held_out = labelled.pairs(labels("depth", folders), "depth")["held_out"]
    again = measured.score(labels("depth", folders), measured.predictions(one, colours, held_out, SIZE, "cpu"))
    assert again == pytest.approx(scored, rel=1e-6)


def test_the_relative_loss_sees_neither_scale_nor_shift():
    truth = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.5
    truth[0, 0] = 0
    known = heads.known_depths(truth)
    assert heads.depth_loss(3 * truth + 2, known, relative=True) < 1e-5
    assert heads.depth_loss(3 * truth + 2, known, relative=False) > 0.5
    assert heads.depth_loss(truth.clamp_min(1e-3), known, relative=False) == 0
    assert heads.depth_loss(truth, heads.known_depths(torch.zeros_like(truth)), relative=False) == 0  # nothing known


DINO = "vit_large_patch14_dinov2.lvd142m"


def write_head(path: Path, dim: int = 16, classes: int = 4) -> heads.SegmentationHead:
    head = heads.SegmentationHead(dim, classes)
    heads.initialise(head, torch.Generator().manual_seed(3))
    torch.save({"state_dict": {f"decode_head.{k}": v for k, v in head.state_dict().items()}}, path)
    return head.eval()


def test_a_published_head_loads_for_its_backbone(tmp_path):
    written = write_head(tmp_path / "head.pth")
    loaded = heads.published(tmp_path / "head.pth", "voc", DINO, 16, 4)
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(loaded(x, 32), written(x, 32))
    by_hand = F.interpolate(written.conv_seg(written.bn(x)), (32, 32), mode="bilinear", align_corners=False)
    assert torch.equal(loaded(x, 32), by_hand)


@pytest.mark.parametrize(
    ("teacher", "dim", "classes", "says"),
    [("vit_large_patch14_reg4_dinov2.lvd142m", 16, 4, "without registers, not for vit_large_patch14_reg4"),
     ("", 16, 4, "not for a teacher trained here; leave head out"), (DINO, 32, 4, r"bn.weight is \(16,\), expected \(32,\)"),
     (DINO, 16, 21, "belongs to another backbone or data set")],
)  # fmt: skip
def test_a_head_for_another_backbone_is_refused_with_the_reason(tmp_path, teacher, dim, classes, says):
    write_head(tmp_path / "head.pth")
    with pytest.raises(ValueError, match=says):
        heads.published(tmp_path / "head.pth", "voc", teacher, dim, classes)


def test_files_that_are_no_heads(tmp_path):
    (tmp_path / "torn.pth").write_bytes(b"PK")
    torch.save({"state_dict": {"decode_head.convs.0.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    torch.save({"code": Path}, tmp_path / "code.pth")
    for name, says in (
        ("torn", "or damaged"),
        ("other", "no linear head of DINOv2"),
        ("code", "or damaged"),
        ("none", "or damaged"),
    ):
        with pytest.raises(ValueError, match=says):
            heads.published(tmp_path / f"{name}.pth", "voc", DINO, 16, 4)


MOGE = {"encoder": "dinov2_vitl14", "remap_output": "exp", "intermediate_layers": 4, "dim_upsample": [256, 128, 64],
        "dim_times_res_block_hidden": 2, "num_res_blocks": 2, "num_tokens_range": [1200, 2500], "last_conv_channels": 32,
        "last_conv_size": 1}  # fmt: skip
SMALL = MOGE | {"dim_proj": 32, "dim_upsample": [32, 32], "num_res_blocks": 1, "dim_times_res_block_hidden": 1}


def write_moge(path: Path, dim: int, model_config: dict = SMALL, **changed) -> moge.MoGeHead:
    torch.manual_seed(4)
    head = moge.MoGeHead(dim, model_config)
    state = {f"head.{k}": v for k, v in head.state_dict().items()} | {"backbone.cls_token": torch.zeros(1, 1, dim)}
    torch.save({"model_config": model_config, "model": state} | changed, path)
    return head.eval()


@pytest.mark.slow
def test_moges_head_at_its_own_sizes():
    head = moge.MoGeHead(1024, MOGE)
    shapes = {name: tuple(value.shape) for name, value in head.state_dict().items()}
    assert shapes["projects.3.weight"] == (512, 1024, 1, 1) and shapes["upsample_blocks.0.0.0.weight"] == (514, 256, 2, 2)
    assert shapes["upsample_blocks.2.2.layers.5.weight"] == (64, 128, 3, 3) and shapes["output_block.0.2.weight"] == (3, 32, 1, 1)
    assert shapes["output_block.1.0.weight"] == (32, 66, 3, 3) and shapes["output_block.1.2.weight"] == (1, 32, 1, 1)
    with torch.no_grad():
        depth = head(torch.randn(1, 1024, 32, 32), 256)
    assert depth.shape == (1, 256, 256) and (depth > 0).all() and depth.std() > 0


def test_moges_view_plane_reaches_one_half_diagonal():
    plane = moge.view_plane(4)
    assert plane.shape == (2, 4, 4) and torch.equal(plane[0], plane[1].T) and torch.equal(plane, -plane.flip(1, 2))
    assert plane[0, 0].tolist() == pytest.approx([c / 2**0.5 for c in (-0.75, -0.25, 0.25, 0.75)])


def test_moges_file_loads_and_what_it_does_not_fit_is_one_line(tmp_path):
    written, x = write_moge(tmp_path / "moge.pt", 16), torch.randn(2, 16, 4, 4)
    assert torch.equal(heads.published(tmp_path / "moge.pt", "depth", "", 16, 0)(x, 32), written(x, 32))
    write_moge(tmp_path / "two.pt", 16, model={"neck.input_blocks.0.weight": torch.zeros(1)})
    write_moge(tmp_path / "bare.pt", 16, model_config=SMALL, model=None)
    write_moge(tmp_path / "other.pt", 16, model={"head.projects.0.weight": torch.zeros(1, 16)})
    (tmp_path / "torn.pt").write_bytes((tmp_path / "moge.pt").read_bytes()[:5000])
    for name, dim, says in (
        ("moge", 32, "reads 16 features, the teacher gives 32"), ("two", 16, "MoGe-2's head is another"), ("torn", 16, "or damaged"),
        ("bare", 16, "no file of MoGe-1"), ("other", 16, "does not fit its own model_config"), ("none", 16, "or damaged"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=says) as raised:
            heads.published(tmp_path / f"{name}.pt", "depth", "", dim, 0)
        assert "\n" not in str(raised.value)


def test_at_dinov2_larges_sizes():
    """1024 x 32 x 32 features, VOC's 21 classes at 256 pixels: one training step of each head."""
    features = torch.randn(1, 1024, 32, 32)
    segmentation, depth = heads.SegmentationHead(1024, 21), heads.DepthHead(1024)
    logits = segmentation(features, 256)
    assert logits.shape == (1, 21, 256, 256)
    assert sum(p.numel() for p in segmentation.parameters()) == 2 * 1024 + 1024 * 21 + 21
    F.cross_entropy(logits, torch.randint(0, 21, (1, 256, 256))).backward()
    predicted = depth(features, 256)
    assert predicted.shape == (1, 256, 256) and (predicted > 0).all()
    heads.depth_loss(predicted, heads.known_depths(torch.rand(1, 256, 256) + 1), relative=False).backward()
    for p in (*segmentation.parameters(), *depth.parameters()):
        assert p.grad.isfinite().all() and p.grad.abs().sum() > 0
    tokens = torch.arange(32 * 32, dtype=torch.float32).view(1, -1, 1)
    assert heads.as_map(tokens)[0, 0, 3, 5] == 3 * 32 + 5


def labelled_scale(project: Path, folders, extra: str = "") -> None:
    voc, depth = folders
    edit(
        project / "config/scales/smoke.yaml", "downstream: {target: ink,",
        f"downstream: {{target: labelled, segmentation: {{name: scenes, layout: voc, path: {voc}, classes: 4{extra}}}, "
        f"depth: {{name: scenes, layout: depth, path: {depth}}},",
    )  # fmt: skip


def test_labels_are_part_of_the_identity_by_name_not_by_path(project, folders):
    def identity() -> dict:
        [made] = {a.id: a for a in registry.Registry(load("smoke")).downstream.values()}.values()
        return made.identity

    before = identity()
    assert "segmentation" not in before and "autoencoder" not in before
    labelled_scale(project, folders)
    with_labels = identity()
    assert with_labels["segmentation"] == {"name": "scenes", "layout": "voc", "version": 1, "classes": 4}
    edit(project / "config/scales/smoke.yaml", str(folders[0]), "/elsewhere")
    assert identity() == with_labels


def test_labels_stay_when_other_photographs_are_trained_on(project, folders):
    assert load("smoke", data="/photos/birds").scale.downstream.target == "foreground"
    labelled_scale(project, folders)
    downstream = load("smoke", data="/photos/birds").scale.downstream
    assert downstream.target == "labelled" and downstream.segmentation.classes == 4


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [("layout: voc", "layout: depth", "classes means nothing to the depth layout"), ("target: labelled", "target: ink", "is for target labelled"),
     ("layout: depth", "layout: voc", "depth.layout voc: expected depth"),
     ("layout: depth", "layout: depth, head: moge.pt", "MoGe's depth head reads four layers of a backbone without registers"),
     ("layout: depth", "layout: depth, head: moge.pt, experimental: true", "scale and shift alone; add relative: true"),
     ("layout: voc", "layout: voc, experimental: true", "experimental means nothing to the voc layout")],
)  # fmt: skip
def test_labels_in_the_wrong_place_are_one_line(project, folders, old, new, says):
    labelled_scale(project, folders)
    edit(project / "config/scales/smoke.yaml", old, new)
    with pytest.raises(ConfigError, match=says):
        load("smoke")


def test_missing_labels_are_said_before_the_first_job(project, folders):
    from reals.planning.preflight import checks

    labelled_scale(project, ("/no/such/folder", folders[1]))
    with pytest.raises(ConfigError, match=r"downstream.segmentation.path: /no/such/folder is not a folder"):
        checks.at_start(registry.Registry(load("smoke")))


def test_heads_that_do_not_fit_the_teacher_are_said_before_the_first_job(project, folders, tmp_path):
    from reals.planning.preflight import checks

    labelled_scale(project, folders)
    scale = project / "config/scales/smoke.yaml"
    dim = load("smoke").scale.teachers["large"].width
    write_moge(tmp_path / "moge.pt", dim)
    edit(scale, "layout: depth", f"layout: depth, head: {tmp_path / 'moge.pt'}, experimental: true, relative: true")
    checks.at_start(registry.Registry(load("smoke")))
    write_moge(tmp_path / "moge.pt", dim + 1)
    with pytest.raises(ConfigError, match=f"reads {dim + 1} features, the teacher gives {dim}"):
        checks.at_start(registry.Registry(load("smoke")))
    write_moge(tmp_path / "moge.pt", dim)
    write_head(tmp_path / "head.pth")
    edit(scale, "layout: voc", f"layout: voc, head: {tmp_path / 'head.pth'}")
    with pytest.raises(ConfigError, match="not for a teacher trained here; leave head out"):
        checks.at_start(registry.Registry(load("smoke")))


@pytest.mark.slow
def test_check_reads_some_pairs(project, folders):
    from reals.planning.preflight import data as looks

    labelled_scale(project, folders)
    r = registry.Registry(load("smoke"))
    data.run(Context(r), r.data)
    said = looks.labels(r, "downstream.segmentation", r.experiment.scale.downstream.segmentation)
    assert "48 pairs to train on, 16 held out; 32 read" in said
