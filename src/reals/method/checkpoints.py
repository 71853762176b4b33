"""Checkpoints of DiT, SiT, REPA and our own runs: read without running what they hold, checked, and written back."""

import argparse
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reals import files, tensors
from reals.experiment.sampler_table import PathName
from reals.method.models.transformer import FULL_SIZES, TIME_FREQUENCIES, Transformer, TransformerConfig, time_frequencies

FAMILIES = ("SiT", "DiT", "REPA")
WEIGHTS = ("ema", "model")
LAYOUTS = ("training", "raw")
HEADS = {width: heads for width, _, heads in FULL_SIZES.values()}
REPA_DEPTHS = {(width, depth): 4 if size == "B" else 8 for size, (width, depth, _) in FULL_SIZES.items()}
LABEL_DROPOUT = 0.1  # of all reference training scripts; a file only shows whether it was above 0

VELOCITY = ("velocity", "v")  # what `prediction` says in SiT's and REPA's arguments of a network that can be sampled here
INTERPOLANTS: dict[str, PathName] = {"linear": "linear", "gvp": "gvp", "vp": "vp", "cosine": "gvp"}
"""What `path_type` says there; REPA's cosine is SiT's gvp, in its own time."""

State = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A network that is ready to sample.

    `model` is in eval mode, frozen, float32, and runs in SiT's time and sign whatever the file did. `family` is SiT or
    DiT and says which samplers fit. `source` says who wrote the file: SiT, DiT, REPA or ours. `facts` is the metadata
    of our own files, else empty. `notes` are one line for each thing the file does not say and we took as given. `interpolant`
    is what a training script of others says in the file of the path that the network was trained on (`paths.PATHS`).
    """

    model: Transformer
    family: str
    source: str
    facts: dict
    notes: tuple[str, ...] = ()
    interpolant: PathName | None = None


def load(
    path: Path,
    family: str | None = None,
    *,
    weights: str | None = None,
    heads: int | None = None,
    classes: int | None = None,
    latent_shape: tuple[int, int, int] | None = None,
    projector: bool = True,
    device: torch.device | str = "cpu",
) -> Checkpoint:
    """The network in a raw state dict, a reference training checkpoint (.pt) or a .safetensors file.

    `family` (SiT, DiT or REPA) must be given unless the file is our own: weights do not say it. `weights` picks "ema" or
    "model" where the file holds both (default ema). `heads` must be given for widths the papers do not use. `classes`
    and `latent_shape` (C, H, W) are what the caller expects; None takes what the file has. Without `projector` REPA's
    projectors are left out, as sampling needs none.

    REPA's networks v(x, tau) are converted (`reverse_time`). Raises ValueError, one line, for anything that does not
    fit: a damaged file, objects other than tensors and argparse.Namespace, missing or unknown keys, wrong shapes, values
    that are not finite, another family or another prediction than the file's training arguments say.
    """
    if family is not None and family not in FAMILIES:
        raise ValueError(f"family: got {family!r}, expected one of {', '.join(FAMILIES)}")
    state, facts, arguments = _read(path, weights)
    notes: list[str] = []
    interpolant = None
    if facts:
        if family is not None and family != facts["family"]:
            raise ValueError(
                f"{path}: our own file says it is a {facts['family']} (in SiT's time), got family {family}; leave it out"
            )
        try:
            config = TransformerConfig(**facts["config"])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: its metadata make no transformer ({error}); fetch or make it again") from None
        if heads is not None and heads != config.heads:
            raise ValueError(f"{path}: our own file says it has {config.heads} heads, got {heads}; leave them out")
        family, source = facts["family"], "ours"
    else:
        if family is None:
            raise ValueError(f"{path}: weights do not say whether they are a SiT, a DiT or a REPA; give the family")
        if family != "REPA" and any(name.startswith("projectors.") for name in state):
            raise ValueError(f"{path}: has REPA's projectors, got family {family}; REPA's time runs the other way: give REPA")
        interpolant = _trained_as(path, family, arguments)
        if family == "REPA":
            state = _joined_blocks(state)
        config, notes = _infer(path, state, heads, classes, arguments)
        source = family
    _check_expected(path, config, classes, latent_shape)
    if not projector:
        state = {name: value for name, value in state.items() if not name.startswith("projectors.")}
        config = replace(config, projector_depth=None, projector_dim=None)
    with torch.device("meta"):
        model = Transformer(config)
    tensors.check(path, state, model.state_dict())
    # A copy, so that the file may change or go while the network is in use.
    state = {name: value.to(device, torch.float32, copy=True) for name, value in state.items()}
    if source == "REPA":
        state, family = reverse_time(state), "SiT"
    model.load_state_dict(state, assign=True)
    return Checkpoint(model.eval().requires_grad_(False), family, source, facts, tuple(notes), interpolant)


def homes(path: Path) -> list[Path]:
    """The folders that a file is in: as it was named, and where its links lead. What a run's file was made from lies about the one or
    the other: a run may be linked to from elsewhere, and its own folder may lie on another disk."""
    return list(dict.fromkeys((Path(os.path.abspath(path)).parent, path.resolve().parent)))


def reverse_time(state: State) -> State:
    """The state dict of the network -v(x, 1 - t), given that of v(x, t): REPA's convention to SiT's, and back.

    With frequency f, cos f(1 - t) = cos f cos ft + sin f sin ft and sin f(1 - t) = sin f cos ft - cos f sin ft. So the
    time MLP's first layer takes up the reversal and the output layer the sign: exact, but for rounding.
    """
    # At t = 1 the embedding is cos f, then sin f.
    cos, sin = time_frequencies(torch.ones(1)).double()[0].split(TIME_FREQUENCIES)
    name = "t_embedder.mlp.0.weight"
    weight = state[name]
    of_cos, of_sin = weight.double().cpu().split(TIME_FREQUENCIES, dim=1)
    reversed_weight = torch.cat([of_cos * cos + of_sin * sin, of_cos * sin - of_sin * cos], dim=1)
    output = {key: -state[key] for key in ("final_layer.linear.weight", "final_layer.linear.bias")}
    return state | {name: reversed_weight.to(weight)} | output


def without_variance(state: State, config: TransformerConfig) -> State:
    """The state dict without the variance channels, which SiT's and REPA's losses never train."""
    kept = {}
    for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
        rows = state[name].unflatten(0, (config.patch**2, config.out_channels))
        kept[name] = rows[:, : config.latent_channels].flatten(0, 1).contiguous()
    return state | kept


def export(
    path: Path,
    checkpoint: Checkpoint,
    family: str,
    *,
    layout: str = "training",
    variance: bool = True,
    model: State | None = None,
) -> None:
    """Writes a checkpoint as the reference code of `family` loads it, strictly.

    Layout "training" is a dict with `ema` (the checkpoint's weights) and, where given, `model` (our state dict of the raw
    weights at the same step); "raw" is the state dict alone, as the official downloads. REPA files are in REPA's time,
    keep projectors and never have variance channels; SiT and DiT files have no projectors. `variance` False leaves the
    variance channels of a SiT out, which is what SiT's sample.py expects of a --ckpt. Raises ValueError where the family
    does not fit the network.
    """
    config = checkpoint.model.config
    if family not in FAMILIES or (family == "DiT") != (checkpoint.family == "DiT"):
        fitting = "DiT" if checkpoint.family == "DiT" else "SiT or REPA"
        raise ValueError(f"export: a {checkpoint.family} network cannot be written as {family!r}; expected {fitting}")
    if layout not in LAYOUTS:
        raise ValueError(f"export layout: got {layout!r}, expected one of {', '.join(LAYOUTS)}")
    if family == "DiT" and not variance:
        raise ValueError("export: DiT samples with its variance channels; leave them in")

    def written(state: State) -> State:
        if family == "REPA":
            state = reverse_time(state)
        else:
            state = {name: value for name, value in state.items() if not name.startswith("projectors.")}
        if config.learn_sigma and (family == "REPA" or not variance):
            state = without_variance(state, config)
        return {name: value.detach().cpu().clone() for name, value in state.items()}

    ema = written(checkpoint.model.state_dict())
    content = ema if layout == "raw" else {**({"model": written(model)} if model is not None else {}), "ema": ema}
    files.write_atomically(path, lambda partial: torch.save(content, partial))


def _read(path: Path, weights: str | None) -> tuple[State, dict, dict]:
    """(tensors by name, the metadata of our own files, the arguments of a reference's training script)."""
    if weights is not None and weights not in WEIGHTS:
        raise ValueError(f"weights: got {weights!r}, expected ema or model")
    content, metadata = tensors.read(path)
    facts = _facts(path, metadata.get("reals", "{}"))
    arguments: dict[str, Any] = {}
    held = [key for key in WEIGHTS if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)]
    if isinstance(content, Mapping) and held:
        if weights is not None and weights not in held:
            raise ValueError(f"{path}: has no {weights} weights, only {held[0]}")
        if isinstance(content.get("args"), argparse.Namespace):
            arguments = dict(vars(content["args"]))
        content = content[weights or held[0]]
    elif weights is not None:
        raise ValueError(f"{path}: holds one set of weights, got a choice of {weights}; leave it out")
    named = tensors.named(path, content)
    state = {_unwrapped(name): value for name, value in named.items()}
    if len(state) < len(named):
        twice = next(name for name in named if _unwrapped(name) != name and _unwrapped(name) in named)
        raise ValueError(f"{path}: holds {_unwrapped(twice)} twice, also as {twice}; which one is it? Save one network alone")
    return state, facts, arguments


def _trained_as(path: Path, family: str, arguments: Mapping[str, Any]) -> PathName | None:
    """The path that the arguments of a training script name, None where they name none.

    ValueError where they are of another family, or of a network that predicts no velocity: its weights would load all the same.
    """
    called = str(arguments.get("model", "")).partition("-")[0]  # REPA calls its networks SiT too
    said = "REPA" if "proj_coeff" in arguments else "SiT" if "train_eps" in arguments else called
    fits = {"REPA": ("REPA",), "DiT": ("DiT",), "SiT": ("SiT",) if "train_eps" in arguments else ("SiT", "REPA")}
    if family not in fits.get(said, FAMILIES):
        raise ValueError(f"{path}: its training arguments are those of a {said}, got family {family}; give {fits[said][0]}")
    if (prediction := str(arguments.get("prediction", VELOCITY[0]))) not in VELOCITY:
        raise ValueError(f"{path}: trained to predict the {prediction}; only networks that predict the velocity are sampled here")
    stated = arguments.get("path_type")
    if stated is None:
        return None
    if str(stated).lower() not in INTERPOLANTS:
        raise ValueError(f"{path}: trained on the path {stated}, expected one of {', '.join(INTERPOLANTS)}")
    return INTERPOLANTS[str(stated).lower()]


def _facts(path: Path, text: str) -> dict[str, Any]:
    """What our own files say of themselves, {} where nothing; ValueError where that is damaged."""
    try:
        facts = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: its metadata are damaged ({error}); fetch or make it again") from None
    if facts == {} or (isinstance(facts, dict) and facts.get("family") in FAMILIES and "config" in facts):
        return dict(facts)
    raise ValueError(f"{path}: its metadata do not say family and config; fetch or make it again")


def _unwrapped(name: str) -> str:
    """A parameter's name without what DistributedDataParallel and torch.compile put before it."""
    return name.removeprefix("_orig_mod.").removeprefix("module.").replace("_orig_mod.", "")


def _infer(
    path: Path, state: State, heads: int | None, classes: int | None, arguments: dict
) -> tuple[TransformerConfig, list[str]]:
    """The configuration that the tensors' shapes show, and notes on what they do not."""
    shapes = {}
    for name, axes in (
        ("pos_embed", 3), ("x_embedder.proj.weight", 4), ("y_embedder.embedding_table.weight", 2), ("final_layer.linear.weight", 2),
    ):  # fmt: skip
        if name not in state:
            raise ValueError(f"{path}: no {name}, so no DiT, SiT or REPA; it holds {tensors.some(state)}")
        shapes[name] = tuple(state[name].shape)
        if len(shapes[name]) != axes:
            raise ValueError(f"{path}: {name} has shape {shapes[name]}, expected {axes} axes")
    width, channels, patch, _ = shapes["x_embedder.proj.weight"]
    tokens = shapes["pos_embed"][1]
    side = math.isqrt(tokens)
    if side**2 != tokens:
        raise ValueError(f"{path}: pos_embed has {tokens} tokens, expected a square latent's")
    rows = shapes["final_layer.linear.weight"][0]
    if rows not in (patch**2 * channels, 2 * patch**2 * channels):
        raise ValueError(
            f"{path}: final_layer.linear.weight has {rows} rows, expected {patch**2 * channels} ({channels} channels, patch {patch}) "
            f"or {2 * patch**2 * channels} (with variances)"
        )
    depth = 1 + max((int(n.split(".")[1]) for n in state if re.match(r"blocks\.\d+\.", n)), default=-1)
    notes = []
    heads = heads or HEADS.get(width)
    if heads is None:
        raise ValueError(f"{path}: width {width} is none of the papers' ({', '.join(map(str, HEADS))}); give the number of heads")
    if (width, depth) not in REPA_DEPTHS:
        notes.append(f"{heads} heads (weights do not say; depth {depth} at width {width} is none of the papers' sizes)")
    table = shapes["y_embedder.embedding_table.weight"][0]
    classes = classes or arguments.get("num_classes") or table - 1
    if table not in (classes, classes + 1):
        raise ValueError(
            f"{path}: its class table has {table} rows, that is {table - 1} classes and the null class; {classes} classes expected"
        )
    last = sorted((int(n.split(".")[1]), n) for n in state if re.fullmatch(r"projectors\.\d+\.4\.weight", n))
    repa: dict[str, Any] = {}
    if last:
        passed = arguments.get("encoder_depth") or REPA_DEPTHS.get((width, depth))
        if passed is None:
            passed = min(8, depth)
            notes.append(f"projector after block {passed} (REPA's default; weights do not say)")
        dims = tuple(len(state[n]) for _, n in last)
        repa = {
            "projector_depth": passed,
            "projector_dim": dims[0] if len(dims) == 1 else dims,
            "projector_hidden": len(state[last[0][1]].T),
        }
    config = TransformerConfig(
        width=width, depth=depth, heads=heads, patch=patch, latent_channels=channels, latent_size=side * patch, classes=classes,
        learn_sigma=rows == 2 * patch**2 * channels, label_dropout=LABEL_DROPOUT if table == classes + 1 else 0.0, **repa,
    )  # fmt: skip
    return config, notes


def _joined_blocks(state: State) -> State:
    """REPA's early files count the blocks after its projector anew, as decoder_blocks; here they follow the others."""
    before = len({name.split(".")[1] for name in state if name.startswith("blocks.")})

    def joined(name: str) -> str:
        head, _, rest = name.partition(".")
        number, _, rest = rest.partition(".")
        return f"blocks.{before + int(number)}.{rest}" if head == "decoder_blocks" else name

    return {joined(name): value for name, value in state.items()}


def _check_expected(
    path: Path, config: TransformerConfig, classes: int | None, latent_shape: tuple[int, int, int] | None
) -> None:
    if classes is not None and classes != config.classes:
        raise ValueError(f"{path}: has {config.classes} classes, {classes} expected")
    own = (config.latent_channels, config.latent_size, config.latent_size)
    if latent_shape is not None and latent_shape[0] != own[0]:
        raise ValueError(
            f"{path}: made for {own[0]} latent channels, {latent_shape[0]} expected; use the autoencoder it was trained on"
        )
    if latent_shape is not None and tuple(latent_shape) != own:
        raise ValueError(f"{path}: made for latents {own}, {tuple(latent_shape)} expected")
