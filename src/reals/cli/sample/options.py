"""The options of `reals sample`."""

import argparse
from pathlib import Path

from reals.experiment.sampler_table import DIFFUSION_FORMS, GUIDED_CHANNELS, INTERVAL_TIMES, LAST_STEPS, PATH_NAMES, SAMPLERS

REFERENCE_CFG = 4.0  # of DiT's and SiT's sample.py


def add_options(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "checkpoint", type=Path, help=".pt of DiT, SiT or REPA (raw, or of train.py), .safetensors, our step_<n>.safetensors"
    )
    p.add_argument("--vae", help="AutoencoderKL folder (diffusers) or original LDM file; our own runs find theirs")
    p.add_argument("--family", choices=["sit", "dit", "repa"], help="what the checkpoint is; our own files say it")
    p.add_argument("--weights", choices=["ema", "model"], help="of a training checkpoint (ema)")
    p.add_argument("--heads", type=int, help="attention heads, for widths the papers do not use")
    which = p.add_mutually_exclusive_group()
    which.add_argument(
        "--classes", help="names or ids, separated by commas; #5 is always an id, 5 only where no name is a number"
    )
    which.add_argument("--random", type=int, metavar="N", help="N images of uniformly drawn classes (the papers' FID-50K)")
    which.add_argument("--balanced", type=int, metavar="N", help="N images, class i mod the number of classes")
    p.add_argument("--n", type=int, help="images of each of --classes (1)")
    p.add_argument("--class-names", type=Path, help="file with one class name a line; our own runs know theirs")
    p.add_argument("--cfg", type=float, help=f"guidance scale, 1 for none ({REFERENCE_CFG:g}; must be given with --npz)")
    p.add_argument("--cfg-channels", choices=list(GUIDED_CHANNELS), help="guided latent channels (DiT and SiT: 3, REPA: all)")
    p.add_argument("--interval", metavar="LO,HI", help="guide only while the time is in this range (0,1)")
    p.add_argument(
        "--interval-time", choices=INTERVAL_TIMES, help="how --interval counts: 1 is noise (REPA; default) or 1 is data"
    )
    p.add_argument("--sampler", choices=list(SAMPLERS), help="sde (SiT, REPA) or ddpm (DiT) unless given")
    p.add_argument("--steps", type=int, help="250; network evaluations, but 2 n - 1 of them for heun-sde")
    default, *forms = DIFFUSION_FORMS
    p.add_argument("--form", help=f"diffusion of the SDE: {default} (default), {', '.join(forms)}")
    p.add_argument("--norm", type=float, help="its factor (1)")
    p.add_argument("--last-step", choices=LAST_STEPS, help="last step of the SDE (mean)")
    p.add_argument("--last-size", type=float, help="and its size (0.04; 0 for none)")
    p.add_argument(
        "--path", choices=PATH_NAMES, help="the interpolant the network was trained on (linear); our own runs say theirs"
    )
    p.add_argument("--eta", type=float, help="DDIM's noise: 0 (default) none, 1 as DDPM")
    p.add_argument("--seed", type=int, default=0, help="image i depends on (seed, i) alone (0)")
    p.add_argument("--batch", type=int, default=16, help="images at a time; changes nothing but speed (16)")
    p.add_argument("--device", help="cuda where there is one, else cpu")
    p.add_argument(
        "--precision",
        choices=["fp32", "tf32", "bf16"],
        default="fp32",
        help="of products; tf32 and bf16 are faster where the hardware has them (fp32)",
    )
    p.add_argument("--compile", action="store_true", help="torch.compile the network: pays for itself over many images")
    p.add_argument(
        "--scaling-factor", type=float, help="what latents were multiplied by; otherwise our run's, or the autoencoder's"
    )
    p.add_argument("--shard", metavar="K/N", help="draw only part K = 0..N-1; the same command without --shard merges")
    p.add_argument("--grid", type=Path, help="PNG to write")
    p.add_argument("--npz", type=Path, help=".npz to write: arr_0 uint8 [n, H, W, 3], arr_1 int64 labels (ADM's format)")
    p.add_argument("--parts", type=Path, help="folder of the finished batches (<output>.parts)")


def check_options(options: argparse.Namespace) -> list[Path]:
    """The files to write; ValueError for options that cannot be meant, said before anything is read."""
    outputs = [path for path in (options.npz, options.grid) if path is not None]
    if not outputs and not (options.shard and options.parts):
        raise ValueError("nothing to write: give --grid out.png and/or --npz out.npz")
    for path, suffix in ((options.npz, ".npz"), (options.grid, ".png")):
        if path is not None and path.suffix != suffix:
            raise ValueError(f"{path}: expected a name that ends in {suffix}")
    if options.npz and options.cfg is None:
        raise ValueError(
            "--npz is for measuring, and every figure depends on the guidance: give --cfg (1 for none, as in Table 3)"
        )
    if options.batch < 1:
        raise ValueError(f"--batch: got {options.batch}, expected at least 1")
    return outputs
