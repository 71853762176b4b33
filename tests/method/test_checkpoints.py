"""Reference files load as they are, ours go back, and what cannot be right is refused in one line."""

import argparse
import contextlib
import pickle
import random

import pytest
import torch
from safetensors.torch import save_file

from reals import rng
from reals.method import checkpoints
from reals.method.checkpoints import export, load, reverse_time
from reals.method.models.transformer import FULL_SIZES, Transformer, TransformerConfig, initialise

SMALL = {"width": 32, "depth": 2, "heads": 2, "patch": 2, "latent_channels": 4, "latent_size": 8, "classes": 10}
PROJECTOR = {"projector_depth": 1, "projector_dim": 12, "projector_hidden": 16}


def network(seed: int = 0, **changes) -> Transformer:
    """A small network in which every weight matters."""
    model, generator = Transformer(TransformerConfig(**{**SMALL, "learn_sigma": True, **changes})), rng.generator(seed, "weights")
    initialise(model, generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "pos_embed":
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def inputs(model: Transformer, batch: int = 3):
    c = model.config
    x = torch.randn(batch, c.latent_channels, c.latent_size, c.latent_size, generator=rng.generator(0, "x"))
    return x, torch.tensor([0.0, 0.3, 1.0])[:batch], torch.arange(batch)


def raw(path, model: Transformer):
    torch.save(model.state_dict(), path)
    return path


def training(path, raw_weights: Transformer, ema: Transformer, **arguments):
    """A file as the references' train.py write it."""
    optimizer = torch.optim.AdamW(raw_weights.parameters())
    raw_weights(*inputs(raw_weights)).square().mean().backward()
    optimizer.step()
    weights = {"model": raw_weights.state_dict(), "ema": ema.state_dict()}
    torch.save({**weights, "opt": optimizer.state_dict(), "args": argparse.Namespace(**arguments)}, path)
    return path


def same(a: Transformer, b: Transformer) -> bool:
    return a.config == b.config and all(torch.equal(x, b.state_dict()[k]) for k, x in a.state_dict().items())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"learn_sigma": False},
        {"patch": 4},
        {"patch": 1, "latent_channels": 3, "classes": 1},
        {"width": 384, "heads": 6, "depth": 1},
    ],
)
def test_the_configuration_is_read_off_the_tensors(tmp_path, changes):
    model = network(**changes)
    loaded = load(raw(tmp_path / "a.pt", model), "SiT", heads=None if "width" in changes else 2)
    assert same(loaded.model, model)
    assert not loaded.model.training and not any(p.requires_grad for p in loaded.model.parameters())


@pytest.mark.parametrize("size", FULL_SIZES)
def test_heads_of_the_published_sizes_need_no_word(size):
    width, depth, heads = FULL_SIZES[size]
    config = TransformerConfig(**{**SMALL, "width": width, "depth": depth, "heads": heads}, learn_sigma=True)
    with torch.device("meta"):
        state = Transformer(config).state_dict()
    inferred, notes = checkpoints._infer("a.pt", state, None, None, {})
    assert inferred == config and not notes


def test_training_files_hold_two_sets_of_weights(tmp_path):
    model, ema = network(1), network(2)
    path = training(tmp_path / "a.pt", model, ema, num_classes=10, model="SiT-XS/2", lr=1e-4)
    assert same(load(path, "SiT", heads=2).model, ema)
    assert same(load(path, "SiT", heads=2, weights="ema").model, ema)
    assert same(load(path, "SiT", heads=2, weights="model").model, model)


def test_a_table_without_null_row_is_known_by_the_class_count(tmp_path):
    model = network(label_dropout=0.0)
    path = raw(tmp_path / "a.pt", model)
    assert same(load(path, "SiT", heads=2, classes=10).model, model)
    assert load(path, "SiT", heads=2).model.config.classes == 9  # ten rows: by default the last is the null class


def test_safetensors_and_half_precision(tmp_path):
    from safetensors.torch import save_file

    model = network()
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    assert same(load(tmp_path / "a.safetensors", "DiT", heads=2).model, model)
    torch.save({k: v.bfloat16() for k, v in model.state_dict().items()}, tmp_path / "b.pt")
    loaded = load(tmp_path / "b.pt", "DiT", heads=2).model
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded.blocks[1].mlp.fc1.weight, model.blocks[1].mlp.fc1.weight, rtol=2**-8, atol=0)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_names_of_wrapped_networks_are_unwrapped(tmp_path, prefix):
    model = network()
    torch.save({"ema": {prefix + name: value for name, value in model.state_dict().items()}}, tmp_path / "w.pt")
    assert same(load(tmp_path / "w.pt", "SiT", heads=2).model, model)
    state = {name.replace("blocks.0.", "blocks.0._orig_mod."): value for name, value in model.state_dict().items()}
    torch.save(state, tmp_path / "b.pt")
    assert same(load(tmp_path / "b.pt", "SiT", heads=2).model, model)


@pytest.mark.parametrize(
    ("arguments", "family", "says"),
    [
        ({"model": "DiT-XL/2"}, "SiT", "arguments are those of a DiT, got family SiT; give DiT"),
        ({"model": "SiT-XL/2", "train_eps": None}, "DiT", "arguments are those of a SiT, got family DiT"),
        ({"model": "SiT-XL/2", "train_eps": None}, "REPA", "arguments are those of a SiT, got family REPA"),
        ({"model": "SiT-XL/2", "proj_coeff": 0.5}, "SiT", "arguments are those of a REPA, got family SiT"),
        (
            {"model": "SiT-XL/2", "prediction": "noise"},
            "SiT",
            "trained to predict the noise; only networks that predict the velocity",
        ),
        ({"model": "SiT-XL/2", "path_type": "spiral"}, "SiT", "trained on the path spiral, expected one of linear, gvp, vp"),
    ],
)
def test_what_a_training_script_says_is_not_passed_over(tmp_path, arguments, family, says):
    """Such weights have the same names and shapes, and would draw other images without a word."""
    path = training(tmp_path / "a.pt", network(), network(1), **arguments)
    with pytest.raises(ValueError, match=says):
        load(path, family, heads=2)


@pytest.mark.parametrize(
    ("arguments", "family", "interpolant"),
    [
        ({"model": "SiT-XL/2", "path_type": "GVP", "prediction": "velocity", "train_eps": None}, "SiT", "gvp"),
        ({"model": "SiT-XL/2", "path_type": "VP", "train_eps": None}, "SiT", "vp"),
        ({"model": "SiT-XL/2", "path_type": "cosine", "prediction": "v", "proj_coeff": 0.5}, "REPA", "gvp"),
        ({"model": "SiT-XL/2", "path_type": "linear", "proj_coeff": 0.5}, "REPA", "linear"),
        ({"model": "SiT-B/2"}, "REPA", None),
        ({"model": "DiT-XL/2"}, "DiT", None),
        ({"model": "mine"}, "DiT", None),
    ],
)
def test_the_path_is_that_of_the_training_script(tmp_path, arguments, family, interpolant):
    path = training(tmp_path / "a.pt", network(), network(1, learn_sigma=family != "REPA"), **arguments)
    assert load(path, family, heads=2).interpolant == interpolant


def test_a_file_is_what_its_bytes_are_whatever_it_is_called(tmp_path):
    model = network()
    save_file(model.state_dict(), tmp_path / "a.pt")
    torch.save(model.state_dict(), tmp_path / "a.safetensors")
    assert same(load(tmp_path / "a.pt", "SiT", heads=2).model, model)
    with pytest.raises(ValueError, match=r"is no safetensors file but one of torch\.save; call it a\.pt"):
        load(tmp_path / "a.safetensors", "SiT")
    for suffix in (".pt", ".bin", ".safetensors"):
        (tmp_path / f"b{suffix}").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 334643276\n")
        with pytest.raises(ValueError, match=r"\(71 bytes\), not the weights themselves; run `git lfs pull`"):
            load(tmp_path / f"b{suffix}", "SiT")
        (tmp_path / f"c{suffix}").write_text("<!doctype html><html></html>")
        with pytest.raises(ValueError, match=r"is a web page .* fetch it again, by its direct link"):
            load(tmp_path / f"c{suffix}", "SiT")


def test_weights_that_would_be_lost_on_the_way_are_refused(tmp_path):
    state = network().state_dict()
    torch.save(state | {f"module.{name}": value * 2 for name, value in state.items()}, tmp_path / "two.pt")
    with pytest.raises(ValueError, match=r"holds (\S+) twice, also as module\.\1; which one is it"):
        load(tmp_path / "two.pt", "SiT", heads=2)
    name = "final_layer.linear.bias"
    torch.save(state | {name: torch.full_like(state[name], 1e300, dtype=torch.float64)}, tmp_path / "large.pt")
    with pytest.raises(ValueError, match=r"final_layer\.linear\.bias has \d+ values that are NaN or infinite"):
        load(tmp_path / "large.pt", "SiT", heads=2)


def test_repa_with_several_teachers_loads_and_goes_back(tmp_path):
    model = network(learn_sigma=False, **{**PROJECTOR, "projector_dim": (12, 20)})
    path = training(tmp_path / "r.pt", model, model, encoder_depth=1)
    checkpoint = load(path, "REPA", heads=2)
    assert checkpoint.model.config == model.config
    _, projected = checkpoint.model(*inputs(model), project=True)
    assert [p.shape[2] for p in projected] == [12, 20]
    export(tmp_path / "out.pt", checkpoint, "REPA", layout="raw")
    written = torch.load(tmp_path / "out.pt", weights_only=True)
    assert written.keys() == model.state_dict().keys()
    assert torch.equal(written["projectors.1.4.weight"], model.state_dict()["projectors.1.4.weight"])


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_no_damage_ends_in_a_traceback(tmp_path, kind):
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    state = network(depth=1).state_dict()
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    whole, draw = path.read_bytes(), random.Random(0)
    for _ in range(30):
        path.write_bytes(whole[: draw.choice([draw.randrange(40), draw.randrange(len(whole))])])
        with pytest.raises(ValueError, match=r"^[^\n]*\Z"):
            load(path, "SiT", heads=2)
        flipped = bytearray(whole)
        for _ in range(3):
            flipped[draw.randrange(3000)] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        with contextlib.suppress(ValueError):  # a bit of a weight may flip unseen
            load(path, "SiT", heads=2)


def test_old_files_without_a_zip_load(tmp_path):
    model = network()
    torch.save(model.state_dict(), tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert same(load(tmp_path / "a.pt", "SiT", heads=2).model, model)


def test_the_file_may_go_while_the_network_is_used(tmp_path):
    model = network()
    path = raw(tmp_path / "a.pt", model)
    loaded = load(path, "SiT", heads=2).model
    path.write_bytes(b"\0" * path.stat().st_size)
    assert same(loaded, model)


def test_repa_runs_the_other_way(tmp_path):
    repa = network(learn_sigma=False, **PROJECTOR)
    loaded = load(training(tmp_path / "a.pt", network(1, learn_sigma=False, **PROJECTOR), repa, encoder_depth=1), "REPA", heads=2)
    assert (loaded.family, loaded.source) == ("SiT", "REPA")
    x, t, y = inputs(repa)
    (v, projected), (u, expected) = loaded.model(x, t, y, project=True), repa(x, 1 - t, y, project=True)
    torch.testing.assert_close(v, -u, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(projected, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(v, -repa(x, t, y), rtol=1e-2, atol=1e-2)
    lean = load(tmp_path / "a.pt", "REPA", heads=2, projector=False).model
    assert lean.config.projector_dim is None
    assert torch.equal(lean(x, t, y), loaded.model(x, t, y))


def test_early_repa_files_name_the_later_blocks_otherwise(tmp_path):
    model = network(learn_sigma=False)
    state = {name.replace("blocks.1.", "decoder_blocks.0."): value for name, value in model.state_dict().items()}
    torch.save(state, tmp_path / "a.pt")
    assert same(load(tmp_path / "a.pt", "REPA", heads=2).model, load(raw(tmp_path / "b.pt", model), "REPA", heads=2).model)
    with pytest.raises(ValueError, match="decoder_blocks"):
        load(tmp_path / "a.pt", "SiT", heads=2)


def test_reversing_twice_changes_nothing():
    state = network().state_dict()
    twice = reverse_time(reverse_time(state))
    for name, value in state.items():
        torch.testing.assert_close(twice[name], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("layout", ["training", "raw"])
@pytest.mark.parametrize(("family", "changes"), [("SiT", {}), ("DiT", {}), ("REPA", {"learn_sigma": False, **PROJECTOR})])
def test_what_is_exported_is_what_was_loaded(tmp_path, family, changes, layout):
    model = network(**changes)
    first = load(raw(tmp_path / "a.pt", model), family, heads=2)
    export(tmp_path / "b.pt", first, family, layout=layout, model=first.model.state_dict() if layout == "training" else None)
    content = torch.load(tmp_path / "b.pt", weights_only=True)
    assert layout == "raw" or content.keys() == {"model", "ema"}
    state = content if layout == "raw" else content["ema"]
    tolerance = {"rtol": 1e-6, "atol": 1e-7} if family == "REPA" else {"rtol": 0, "atol": 0}
    for name, value in model.state_dict().items():
        torch.testing.assert_close(state.pop(name), value, **tolerance)
    assert not state


@torch.no_grad()  # on both sides: a CPU's GELU takes another way to the same value where nothing is to be differentiated
def test_own_files_say_what_they_are_and_export_to_both_flow_formats(tmp_path):
    import json
    from dataclasses import asdict

    from safetensors.torch import save_file

    model = network(**PROJECTOR)
    facts = {"family": "SiT", "config": asdict(model.config), "scaling_factor": 1.5}
    save_file(model.state_dict(), tmp_path / "step_7.safetensors", metadata={"reals": json.dumps(facts)})
    own = load(tmp_path / "step_7.safetensors")
    assert same(own.model, model) and own.facts == facts and own.source == "ours"
    x, t, y = inputs(model)
    velocity = model(x, t, y)[:, :4]

    export(tmp_path / "sit.pt", own, "SiT")
    sit = load(tmp_path / "sit.pt", "SiT", heads=2).model
    assert sit.config.projector_dim is None and torch.equal(sit(x, t, y)[:, :4], velocity)
    export(tmp_path / "four.pt", own, "SiT", variance=False)
    four = load(tmp_path / "four.pt", "SiT", heads=2).model
    torch.testing.assert_close(four(x, t, y), velocity)
    assert four.config.out_channels == 4
    export(tmp_path / "repa.pt", own, "REPA")
    foreign = torch.load(tmp_path / "repa.pt", weights_only=True)["ema"]
    assert foreign["final_layer.linear.weight"].shape == (16, 32)
    repa = network(learn_sigma=False, **PROJECTOR)
    repa.load_state_dict(foreign, strict=True)
    torch.testing.assert_close(repa(x, 1 - t, y), -velocity, rtol=1e-5, atol=1e-5)

    for written, says in (
        ("{", "are damaged"),
        ("[1]", "do not say family and config"),
        ('{"family": "SiT"}', "do not say family and config"),
        (json.dumps(facts | {"config": {"width": 32}}), "make no transformer"),
    ):
        save_file(model.state_dict(), tmp_path / "odd.safetensors", metadata={"reals": written})
        with pytest.raises(ValueError, match=rf"odd\.safetensors: its metadata {says}"):
            load(tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match="our own file says it is a SiT"):
        load(tmp_path / "step_7.safetensors", "DiT")
    with pytest.raises(ValueError, match="cannot be written as 'DiT'"):
        export(tmp_path / "dit.pt", own, "DiT")


class Malicious:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_objects_are_refused_and_never_run(tmp_path, zipped):
    content = {"ema": network().state_dict(), "args": argparse.Namespace(x=Malicious(tmp_path / "ran"))}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"a\.pt: holds the object .*open, which could run code; not loaded"):
        load(tmp_path / "a.pt", "SiT")
    with (tmp_path / "b.pt").open("wb") as file:
        pickle.dump(Malicious(tmp_path / "ran"), file)
    with pytest.raises(ValueError, match=r"b\.pt: "):
        load(tmp_path / "b.pt", "SiT")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.999])
def test_truncated_files_are_named(tmp_path, kind, share):
    from safetensors.torch import save_file

    path = tmp_path / f"a.{kind}"
    torch.save(network().state_dict(), path) if kind == "pt" else save_file(network().state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=rf"a\.{kind}: (damaged or )?truncated") as caught:
        load(path, "SiT", heads=2)
    assert "\n" not in str(caught.value)


def changed(change):
    state = network().state_dict()
    change(state)
    return state


def set_nan(state):
    state["blocks.1.mlp.fc1.bias"][3] = float("nan")


@pytest.mark.parametrize(
    ("state", "settings", "message"),
    [
        (changed(set_nan), {}, r"blocks\.1\.mlp\.fc1\.bias has 1 values that are NaN"),
        (changed(lambda s: s.pop("blocks.0.attn.qkv.bias")), {}, r"missing blocks\.0\.attn\.qkv\.bias"),
        (changed(lambda s: s.update(extra=torch.ones(1))), {}, "unknown extra"),
        (changed(lambda s: s.update(step=3)), {}, "'step' is a int, expected a tensor"),
        (changed(lambda s: s.update({"blocks.0.attn.proj.bias": torch.ones(31)})), {}, r"has shape \(31,\), expected \(32,\)"),
        (changed(lambda s: s.update(pos_embed=torch.ones(1, 15, 32))), {}, "15 tokens, expected a square"),
        (changed(lambda s: s.update({"final_layer.linear.weight": torch.ones(48, 32)})), {}, r"48 rows, expected 16 .* or 32"),
        (changed(lambda s: s.update({"final_layer.linear.bias": torch.ones(32, dtype=torch.int64)})), {}, "expected floating point"),
        (changed(lambda s: s.update({"projectors.0.0.weight": torch.ones(1)})), {}, "has REPA's projectors, got family SiT"),
        (changed(lambda s: None), {"classes": 1000}, "11 rows, that is 10 classes and the null class; 1000 classes expected"),
        (changed(lambda s: None), {"latent_shape": (16, 8, 8)}, "made for 4 latent channels, 16 expected"),
        (changed(lambda s: None), {"latent_shape": (4, 32, 32)}, r"made for latents \(4, 8, 8\), \(4, 32, 32\) expected"),
        (changed(lambda s: None), {"heads": None}, r"width 32 is none of the papers'.*give the number of heads"),
        (changed(lambda s: None), {"heads": 5}, r"multiple of heads"),
        (changed(lambda s: None), {"weights": "model"}, "holds one set of weights"),
        (changed(lambda s: None), {"weights": "best"}, "expected ema or model"),
        (changed(lambda s: None), {"family": None}, "give the family"),
        (changed(lambda s: None), {"family": "sit"}, "expected one of SiT, DiT, REPA"),
        ({"weight": torch.ones(1)}, {}, r"no pos_embed, so no DiT, SiT or REPA; it holds weight"),
        ({"ema": network().state_dict()}, {"weights": "model"}, "has no model weights, only ema"),
        ([torch.ones(1)], {}, "expected tensors by name, found list"),
        ({}, {}, "expected tensors by name"),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_one_line(tmp_path, state, settings, message):
    torch.save(state, tmp_path / "a.pt")
    settings = {"family": "SiT", "heads": 2, **settings}
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path / "a.pt", settings.pop("family"), **settings)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"a\.pt: no such file"):
        load(tmp_path / "a.pt", "SiT")
