"""What `reals sample` was asked for: how to sample, and which share; what is not asked for is as in the papers."""

import argparse
from pathlib import Path
from typing import Any

from reals import files
from reals.cli.sample.options import REFERENCE_CFG
from reals.experiment.sampler_table import GUIDED_CHANNELS, SamplerName, Setting, samplers_of, samplers_with
from reals.method import checkpoints
from reals.method.checkpoints import Checkpoint
from reals.method.sampling import Sampling

SETTINGS: dict[str, Setting] = {  # option -> the setting of a sampler
    "steps": "steps", "form": "form", "norm": "norm", "last_step": "last", "last_size": "last_size", "eta": "eta",
}  # fmt: skip
FITS = {option: samplers_with(setting) for option, setting in SETTINGS.items()} | {"path": samplers_of("SiT")}
"""Option -> the samplers it means something to."""


def shard_of(text: str | None) -> tuple[int, int]:
    """(K, N) of "K/N"; (0, 1) where nothing is said."""
    if text is None:
        return 0, 1
    try:
        shard, shards = (int(part) for part in text.split("/"))
    except ValueError:
        raise ValueError(f"--shard: got {text!r}, expected K/N such as 0/4") from None
    if not 0 <= shard < shards:
        raise ValueError(f"--shard: got {text}, expected K from 0 to N - 1")
    return shard, shards


def sampling_of(options: argparse.Namespace, checkpoint: Checkpoint) -> Sampling:
    """The settings asked for; what is not asked for is as in the papers."""
    sampler: SamplerName = options.sampler or ("ddpm" if checkpoint.family == "DiT" else "sde")
    repa = checkpoint.source == "REPA" or bool(checkpoint.facts and checkpoint.facts["config"].get("projector_dim"))
    chosen: dict[str, Any] = {"cfg_channels": GUIDED_CHANNELS[options.cfg_channels or ("all" if repa else "3")]}
    for option, fits in FITS.items():
        value = getattr(options, option)
        if value is None:
            continue
        if sampler not in fits:
            raise ValueError(f"--{option.replace('_', '-')} means nothing to the sampler {sampler}; it is for {', '.join(fits)}")
        chosen[SETTINGS.get(option, option)] = value
    if own := trained_path(options.checkpoint, checkpoint):
        if chosen.setdefault("path", own) != own:
            raise ValueError(f"--path {options.path}: {options.checkpoint} was trained on the {own} path; leave it out")
    if options.interval is not None:
        try:
            low, high = (float(part) for part in options.interval.split(","))
        except ValueError:
            raise ValueError(f"--interval: got {options.interval!r}, expected two numbers such as 0,0.75") from None
        chosen["interval"] = (low, high)
    if options.interval_time is not None:
        if options.interval is None:
            raise ValueError("--interval-time: says how --interval counts; give both")
        chosen["interval_time"] = options.interval_time
    if options.last_step == "none" and options.last_size is None:
        chosen["last_size"] = 0.0
    return Sampling(sampler=sampler, cfg=REFERENCE_CFG if options.cfg is None else options.cfg, **chosen)


def without_effect(options: argparse.Namespace, sampling: Sampling) -> str | None:
    """The options that were given and change nothing: those of guidance, where there is none; None where there are none."""
    given = [option for option in ("interval", "interval_time", "cfg_channels") if getattr(options, option) is not None]
    if sampling.cfg != 1 or not given:
        return None
    return f"without guidance (--cfg 1) {', '.join('--' + option.replace('_', '-') for option in given)} changes nothing"


def trained_path(path: Path, checkpoint: Checkpoint) -> str | None:
    """The interpolant that a SiT was trained on, where its file says it; our files of before they did lie beside their spec."""
    if checkpoint.source != "ours" or checkpoint.family != "SiT":
        return checkpoint.interpolant
    spec = next((home / "spec.json" for home in checkpoints.homes(path) if (home / "spec.json").is_file()), None)
    return checkpoint.facts.get("interpolant") or (files.read_json(spec).get("path") or "linear" if spec else None)


def described(s: Sampling) -> str:
    """The settings in words, guidance included."""
    text = s.described
    if s.cfg == 1:
        return text + ", no guidance"
    text += f", cfg {s.cfg:g} on {s.cfg_channels} channels"
    return text + (f" while the {s.interval_time} time is in {list(s.interval)}" if s.interval != (0.0, 1.0) else "")


def checkpoint_described(path: Path, checkpoint: Checkpoint) -> str:
    """Lines that say what a checkpoint is, and what was taken as given of it."""
    config, size = checkpoint.model.config, checkpoint.model.config.latent_size
    whose = checkpoint.source if checkpoint.source != "ours" else "our " + checkpoint.family
    return "\n".join([
        f"{path}: {whose}, width {config.width}, depth {config.depth}, {config.heads} heads, patch {config.patch}, "
        f"latents {config.latent_channels}x{size}x{size}, {config.classes} classes",
        *(f"  taken as given: {note}" for note in checkpoint.notes),
    ])  # fmt: skip
