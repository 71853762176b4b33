"""`reals export`: a checkpoint as the reference code of SiT, DiT or REPA loads it, or a folder for the hub."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from reals.cli import hub
from reals.cli.networks import misnamed, refuse_unwritable
from reals.cli.subcommands import Subcommands

if TYPE_CHECKING:  # torch is imported where it is used: it takes seconds
    from torch import Tensor

    from reals.method.checkpoints import Checkpoint


REPA_PATHS = {"linear": "linear", "gvp": "cosine"}  # what REPA's code calls our paths


def add(commands: Subcommands) -> None:
    text = "write a network for others: a checkpoint of SiT's, DiT's or REPA's own code, or a folder for the hub"
    p = commands.add_parser("export", help=text, description=text)
    p.add_argument(
        "checkpoint",
        type=Path,
        help="our step_<n>.safetensors, any checkpoint `reals sample` takes; for the hub also an autoencoder's folder",
    )
    p.add_argument("out", type=Path, help=".pt file to write; for the hub a folder to make")
    p.add_argument("--to", choices=["sit", "dit", "repa", "hub"], help="whose code will load it (as it is)")
    p.add_argument(
        "--layout",
        choices=["training", "raw"],
        default="training",
        help="dict with ema (and model, for our runs), or the state dict alone (training)",
    )
    p.add_argument("--no-variance", action="store_true", help="4 output channels, which SiT's sample.py expects of a --ckpt")
    p.add_argument("--family", choices=["sit", "dit", "repa"], help="what the checkpoint is; our own files say it")
    p.add_argument("--weights", choices=["ema", "model"], help="of a training checkpoint (ema)")
    p.add_argument("--heads", type=int, help="attention heads, for widths the papers do not use")
    shared = p.add_argument_group("--to hub", "a folder with safetensors, config, metrics and model card (docs/artifacts.md)")
    shared.add_argument("--licence", "--license", help=f"of the weights; {hub.OWN_LICENCE} unless others' are behind them")
    shared.add_argument("--push", metavar="USER/REPO", help="upload it there too; without this nothing leaves the machine")
    shared.add_argument("--private", action="store_true", help="make that repository private, where it is new")
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    of_files = {"--layout": options.layout != "training", "--no-variance": options.no_variance, "--family": options.family,
                "--weights": options.weights, "--heads": options.heads}  # fmt: skip
    of_hub = {"--licence": options.licence, "--push": options.push, "--private": options.private}
    for option, given in (of_files if options.to == "hub" else of_hub).items():
        if given:
            raise ValueError(
                f"{option}: {'means nothing to --to hub' if options.to == 'hub' else 'goes with --to hub alone'}; leave it out"
            )
    if options.to == "hub":
        hub.export(options)
        return
    if misnamed(options.out, ".pt", ".pth", ".ckpt", ".bin"):
        raise ValueError(f"{options.out}: what is written is a file of torch.save, as the references' code loads it; call it .pt")
    refuse_unwritable("OUT", options.out, options.checkpoint)
    from reals.cli.sample.settings import trained_path
    from reals.data.latent_scale import CLASS_FACTOR, FACTOR, LatentScale
    from reals.method import checkpoints

    families = {"sit": "SiT", "dit": "DiT", "repa": "REPA", None: None}
    checkpoint = checkpoints.load(options.checkpoint, families[options.family], weights=options.weights, heads=options.heads)
    source = checkpoint.family if checkpoint.source == "ours" else checkpoint.source
    family = families[options.to] or source
    path = trained_path(options.checkpoint, checkpoint) or "linear"
    if family == "REPA" and path not in REPA_PATHS:
        raise ValueError(f"{options.checkpoint}: was trained on the {path} path, which REPA's code has not; write it --to sit")
    raw = _raw_weights(options.checkpoint, checkpoint) if options.layout == "training" else None
    checkpoints.export(options.out, checkpoint, family, layout=options.layout, variance=not options.no_variance, model=raw)
    held = "state dict" if options.layout == "raw" else "ema" if raw is None else "model and ema"
    print(f"{options.out}: {family}, {held}")
    if path != "linear":
        print(
            f"  trained on the {path} path: give {family}'s code --path-type {REPA_PATHS[path] if family == 'REPA' else path.upper()}"
        )
    if FACTOR in checkpoint.facts:
        scale = LatentScale.of(checkpoint.facts)
        print(f"  its latents are divided by {scale} and decoded by {checkpoint.facts['autoencoder']}; the references' scripts divide by "
              f"{CLASS_FACTOR} and decode by Stable Diffusion's")  # fmt: skip


def _raw_weights(path: Path, checkpoint: "Checkpoint") -> "dict[str, Tensor] | None":
    """The weights that our run's EMA averages, where the training state of the same step is still there."""
    from reals.method import checkpoints
    from reals.training.states import States

    step = checkpoint.facts.get("step")
    for home in checkpoints.homes(path):
        states = States(home.parent.parent / "states" / home.name)
        if step is not None and states.path(step).is_file():
            return states.read(step)["task"]["model"]
    return None
