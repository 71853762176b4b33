"""The teacher equals timm's own forward on the latent grid, each token sees its own patch, and wrong files get one line."""

import hashlib
import pickle
import sys
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import edit
from safetensors.torch import save_file

from reals.experiment import registry
from reals.experiment.load import load
from reals.experiment.reading import ConfigError
from reals.method.models import teacher as teachers
from reals.method.models.teacher import Teacher
from reals.stages import teacher as teacher_stage
from reals.stages.context import Context

REGISTERS, PLAIN = "vit_small_patch14_reg4_dinov2.lvd142m", "vit_small_patch14_dinov2.lvd142m"


@cache
def _built(model: str, patch: int, grid: int) -> Teacher:
    how = teachers.published(model, patch, grid)
    torch.manual_seed(0)
    return Teacher(how, teachers.build(how))


def built(model: str, patch: int, grid: int = 4) -> Teacher:
    return deepcopy(_built(model, patch, grid))


def blank(teacher: Teacher) -> Teacher:
    """The same architecture with nothing in it."""
    other = deepcopy(teacher)
    for value in other.network.state_dict().values():
        value.zero_()
    return other


@pytest.fixture(scope="module")
def small() -> Teacher:
    return built(REGISTERS, 14)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "patch", "prefix"),
    [(REGISTERS, 14, 5), (PLAIN, 14, 1), ("vit_tiny_patch16_224", 16, 1), ("vit_xsmall_patch16_clip_224", 16, 1)],
)  # fmt: skip
def test_features_are_timms_own_at_the_size_of_the_grid(model, patch, prefix):
    teacher = built(model, patch)
    with torch.device("meta"):
        reference = timm.create_model(model, pretrained=False, num_classes=0, img_size=4 * patch).eval()
    reference.load_state_dict(teachers_state(teacher, reference), assign=True)
    images = torch.rand(2, 3, 4 * patch, 4 * patch)
    data = timm.data.resolve_model_data_config(reference)
    mean, std = (torch.tensor(data[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        tokens = reference.forward_features((images - mean) / std)
        if isinstance(reference.norm, torch.nn.Identity):
            tokens = reference.fc_norm(tokens)
    patches, cls = teacher.features(images)
    assert patches.shape == (2, 16, teacher.dim)
    torch.testing.assert_close(patches, tokens[:, prefix:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(cls, tokens[:, 0], rtol=1e-4, atol=1e-4)


def teachers_state(teacher: Teacher, reference) -> dict:
    """The teacher's weights, positions resampled once by timm's loader for a network of a fixed size."""
    state = {k: v.clone() for k, v in teacher.network.state_dict().items()}
    return sys.modules[type(reference).__module__].checkpoint_filter_fn(state, reference)


def test_each_token_answers_to_its_own_patch(small):
    """Through the patch embedding alone (blocks switched off) a changed image patch (i, j) moves token i * grid + j only."""
    network = small.network
    blocks, network.blocks = network.blocks, torch.nn.Sequential()
    try:
        grey = torch.full((1, 3, 56, 56), 0.5)
        for i, j in [(0, 0), (0, 3), (2, 1), (3, 3)]:
            image = grey.clone()
            image[..., 14 * i : 14 * (i + 1), 14 * j : 14 * (j + 1)] = torch.rand(3, 14, 14)
            moved = (small.features(image)[0] - small.features(grey)[0]).abs().amax(-1)[0]
            assert moved.nonzero().flatten().tolist() == [4 * i + j]
    finally:
        network.blocks = blocks


def test_other_grids_and_sizes_of_image(small):
    images = torch.rand(1, 3, 32, 32)
    for grid in (2, 6):
        patches, cls = small.features(images, grid)
        assert (patches.shape, cls.shape) == ((1, grid**2, 384), (1, 384))
        resized = F.interpolate(images, (14 * grid, 14 * grid), mode="bicubic")
        torch.testing.assert_close(small.features(resized, grid)[0], patches)


def test_a_network_without_a_cls_token_gives_the_mean_of_its_patches():
    teacher = built("vit_wee_patch16_reg1_gap_256.sbb_in1k", 16)  # one register, no cls token
    patches, cls = teacher.features(torch.rand(1, 3, 32, 32))
    assert patches.shape == (1, 16, 256)
    torch.testing.assert_close(cls, patches.mean(1))
    assert teachers.published("vit_base_patch16_siglip_224.webli", 16, 4).mean == (0.5, 0.5, 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["resnet18", "convnext_atto", "swin_tiny_patch4_window7_224"])
def test_a_network_without_a_patch_grid_is_refused_in_one_line(pooling):
    with pytest.raises(ValueError, match="is no plain vision transformer with a patch grid") as caught:
        built(pooling, 16)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_unknown_names_and_wrong_patches_are_refused_in_one_line():
    with pytest.raises(ValueError, match=r"no model 'vit_small_patch14_reg4_dinov3\.lvd142m'; did you mean 'vit_small_patch"):
        teachers.published("vit_small_patch14_reg4_dinov3.lvd142m", 14, 4)
    with pytest.raises(ValueError, match="has 14x14 patches; set patch to that, not 16"):
        built(REGISTERS, 16)


def published_file(network, registers: bool) -> dict:
    """The network's weights as facebookresearch/dinov2 publishes them: cls inside the position table, mask token, own names."""
    state = {k: v.clone() for k, v in network.state_dict().items()}
    if registers:
        state["register_tokens"] = state.pop("reg_token")
        own = 1e-6 * torch.randn(1, 1, state["pos_embed"].shape[-1])
        state["cls_token"] -= own
        state["pos_embed"] = torch.cat([own, state["pos_embed"]], dim=1)
    state["mask_token"] = torch.zeros(1, state["pos_embed"].shape[-1])
    return state


@pytest.mark.slow
@pytest.mark.parametrize("model", [REGISTERS, PLAIN])
@pytest.mark.parametrize("form", ["pth", "safetensors", "official"])
def test_local_files_of_each_form_give_the_same_network(tmp_path, model, form):
    teacher = built(model, 14)
    empty = blank(teacher)
    path = tmp_path / f"dinov2_vits14_pretrain.{'safetensors' if form == 'safetensors' else 'pth'}"
    if form == "safetensors":
        save_file(teacher.network.state_dict(), path)
    else:
        torch.save(
            published_file(teacher.network, model == REGISTERS) if form == "official" else teacher.network.state_dict(), path
        )
    teachers.load_weights(empty.network, path)
    images = torch.rand(1, 3, 56, 56)
    for a, b in zip(teacher.features(images), empty.features(images), strict=True):
        torch.testing.assert_close(a, b)


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/reals-was-here"),))


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda p, s: p.write_bytes(b"<!DOCTYPE html>"), "is no .safetensors file or .pth of tensors alone"),
        (lambda p, s: p.write_bytes(b""), "is no .safetensors file or .pth of tensors alone"),
        (lambda p, s: p.write_bytes(pickle.dumps(Harmful())), "is no .safetensors file or .pth of tensors alone"),
        (lambda p, s: torch.save({"model": Harmful()}, p), "is no .safetensors file or .pth of tensors alone"),
        (lambda p, s: torch.save({k: v for k, v in s.items() if k != "blocks.3.attn.qkv.weight"}, p), "lacks blocks.3.attn.qkv.weight"),
        (lambda p, s: torch.save(s | {"other": torch.zeros(1)}, p), "has other, which the model lacks"),
        (lambda p, s: torch.save(s | {"norm.weight": torch.zeros(7)}, p), "does not fit the model"),
        (lambda p, s: torch.save([1, 2], p), "does not fit the model"),
    ],
)  # fmt: skip
def test_a_wrong_file_gets_one_line_and_runs_no_code(small, tmp_path, write, says):
    path = tmp_path / "weights.pth"
    write(path, small.network.state_dict())
    with pytest.raises(ValueError, match=says) as caught:
        teachers.load_weights(blank(small).network, path)
    assert "\n" not in str(caught.value)
    assert not Path("/tmp/reals-was-here").exists()


@pytest.mark.slow
def test_the_stage_checks_the_sha256_before_use_and_keeps_native_positions(project, small, monkeypatch):
    path = Path("weights.pth")
    torch.save(small.network.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    sheet = project / "config/scales/smoke.yaml"
    old = next(line for line in sheet.read_text().splitlines() if line.strip().startswith("large: {kind"))
    new = f"  large: {{kind: timm, name: dino, model: {REGISTERS}, patch: 14, weights: weights.pth, sha256: {digest}}}"
    edit(sheet, old, new)
    context = Context(registry.Registry(load("smoke")))
    artefact = context.registry.teachers["large"]
    teacher_stage.run(context, artefact)
    loaded = teachers.load(context.folder(artefact))
    assert loaded.network.pos_embed.shape == (1, 37 * 37, 384)
    images = torch.rand(1, 3, 32, 32)
    again = Teacher(replace(small.config, grid=8), small.network)
    torch.testing.assert_close(loaded.features(images), again.features(images))
    path.write_bytes(b"something else, which must not even be opened")
    edit(sheet, f"sha256: {digest}", "sha256: " + "f" * 64)
    context = Context(registry.Registry(load("smoke")))
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(ValueError, match=r"weights\.pth: its sha256 is [0-9a-f]{64}, not f{64}"):
        teacher_stage.run(context, context.registry.teachers["large"])


def test_weights_neither_cached_nor_to_be_had_are_said_before_anything_runs(monkeypatch):
    import huggingface_hub

    from reals.planning.preflight import weights

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ConfigError, match=r"teachers\.large: timm/nowhere is not in the hub's cache .* give weights: a local file"
    ):
        weights.hub_weights("teachers.large", "timm/nowhere", "model.safetensors")


@pytest.mark.extra
def test_dinov2_large_with_registers_at_448_pixels():
    teacher = built("vit_large_patch14_reg4_dinov2.lvd142m", 14, grid=32)
    assert sum(p.numel() for p in teacher.network.parameters()) == 304_370_688
    reference = timm.create_model("vit_large_patch14_reg4_dinov2.lvd142m", pretrained=False, img_size=448).eval()
    reference.load_state_dict(teachers_state(teacher, reference))
    images = torch.rand(1, 3, 448, 448)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (teachers.IMAGENET_MEAN, teachers.IMAGENET_STD))
    with torch.no_grad():
        tokens = reference.forward_features((images - mean) / std)
    patches, cls = teacher.features(images)
    assert (patches.shape, cls.shape) == ((1, 1024, 1024), (1, 1024))
    torch.testing.assert_close(patches, tokens[:, 5:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(cls, tokens[:, 0], rtol=1e-4, atol=1e-4)
