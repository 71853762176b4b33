"""The autoencoder, a diffusers AutoencoderKL, and what travels beside it."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from reals import rng, tensors
from reals.data.latent_scale import MEAN, SHIFT, STD, LatentScale
from reals.files import read_json, write_atomically, write_json
from reals.method.alignment import AlignNetworks

if TYPE_CHECKING:  # diffusers is imported where it is used: it takes seconds
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

ALIGN_CONFIG, ALIGN_WEIGHTS = "align.json", "align.safetensors"
STEM = "diffusion_pytorch_model"
WEIGHTS = f"{STEM}.safetensors"
LDM_NORM_GROUPS = 32  # fixed in LDM's code
OLD_ATTENTION = {  # diffusers' names until 0.15 -> now
    r"\.query\.": ".to_q.",
    r"\.key\.": ".to_k.",
    r"\.value\.": ".to_v.",
    r"\.proj_attn\.": ".to_out.0.",
}
LDM_NAMES = {
    r"\.mid\.block_1\.": ".mid_block.resnets.0.",
    r"\.mid\.block_2\.": ".mid_block.resnets.1.",
    r"\.mid\.attn_1\.norm\.": ".mid_block.attentions.0.group_norm.",
    r"\.mid\.attn_1\.([qkv])\.": r".mid_block.attentions.0.to_\1.",
    r"\.mid\.attn_1\.proj_out\.": ".mid_block.attentions.0.to_out.0.",
    r"\.attn\.(\d+)\.norm\.": r".attentions.\1.group_norm.",
    r"\.attn\.(\d+)\.([qkv])\.": r".attentions.\1.to_\2.",
    r"\.attn\.(\d+)\.proj_out\.": r".attentions.\1.to_out.0.",
    r"\.down\.(\d+)\.": r".down_blocks.\1.",
    r"\.block\.(\d+)\.": r".resnets.\1.",
    r"\.nin_shortcut\.": ".conv_shortcut.",
    r"\.(down|up)sample\.": r".\1samplers.0.",
    r"\.norm_out\.": ".conv_norm_out.",
}


def build(
    resolution: int, latent_channels: int, block_out_channels: Sequence[int], layers_per_block: int, norm_num_groups: int
) -> "AutoencoderKL":
    """A fresh AutoencoderKL; 2 ** (len(block_out_channels) - 1) is its downsampling factor."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    n = len(block_out_channels)
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=latent_channels, sample_size=resolution,
        block_out_channels=tuple(block_out_channels), layers_per_block=layers_per_block, norm_num_groups=norm_num_groups,
        down_block_types=("DownEncoderBlock2D",) * n, up_block_types=("UpDecoderBlock2D",) * n, scaling_factor=1.0,
    )  # fmt: skip


def initialise(vae: "AutoencoderKL", seed: int) -> None:
    """torch's own initialisation of every layer, as a function of ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.key(seed, "autoencoder weights"))
        for module in vae.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()


def load(source: Path | str, device: torch.device | str = "cpu") -> "AutoencoderKL":
    """The AutoencoderKL in a diffusers folder, a hub name or an original LDM file; float32, frozen, in eval mode.

    A folder may be old (attention named query, key, value, proj_attn; pickled .bin weights) or ours. A file (.ckpt, .pt,
    .safetensors) has LDM's names, bare or below first_stage_model; it states no scaling factor, so it gets the class's
    default, Stable Diffusion's 0.18215. Raises ValueError, one line, for what is missing, damaged, no such network, no
    tensors, not finite, or of latents that cannot be scaled as its config says (`LatentScale`).
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    config, weights = find(source)
    settings, state = _read_diffusers(config, weights) if config else _read_ldm(weights)
    try:
        with torch.device("meta"):
            vae = AutoencoderKL.from_config(settings)
    except Exception as error:  # whatever a damaged value leads to
        raise ValueError(f"{source}: its configuration makes no AutoencoderKL ({' '.join(str(error).split())})") from None
    tensors.check(weights, state, vae.state_dict())
    # A copy, so that the file may change or go while the network is in use.
    vae.load_state_dict({k: v.to(device, torch.float32, copy=True) for k, v in state.items()}, assign=True)
    return vae.eval().requires_grad_(False)


def channels_last(vae: "AutoencoderKL", device: torch.device | str = "cpu") -> "AutoencoderKL":
    """``vae`` itself on ``device``, its convolutions' weights channels last."""
    return vae.to(device, memory_format=torch.channels_last)  # type: ignore[arg-type] # diffusers' wrapper of `to` loses self


def find(source: Path | str) -> tuple[Path | None, Path]:
    """(config.json, weights) of a folder or hub name; (None, the file) of a file. ValueError where they are not there."""
    folder = Path(source)
    if folder.is_file():
        return None, folder
    if not folder.is_dir():
        folder = _from_hub(str(source))
    config = folder / "config.json"
    if not config.is_file():
        hint = f"; is it {folder / 'vae'}?" if (folder / "vae" / "config.json").is_file() else ""
        raise ValueError(f"{folder}: no config.json there; expected the folder of a diffusers AutoencoderKL{hint}")
    for name in (WEIGHTS, f"{STEM}.bin"):
        if (folder / name).is_file():
            return config, folder / name
    raise ValueError(f"{folder}: has neither {WEIGHTS} nor {STEM}.bin{_instead(folder)}")


def _instead(folder: Path) -> str:
    """What weights a folder has in place of those that are read, and what to do."""
    if links := [path.name for path in folder.iterdir() if path.is_symlink() and not path.exists()]:
        return f"; {links[0]} is a link that leads nowhere: fetch it again"
    others = sorted(path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    if any(re.search(r"-\d+-of-\d+\.", name) for name in others):
        return f"; {others[0]} is a part: load it by diffusers and save it with save_pretrained(max_shard_size='10GB')"
    if others:
        return f"; if {others[0]} are its weights, which are read as float32, name it {STEM}{Path(others[0]).suffix}"
    return ""


def _from_hub(name: str) -> Path:
    """The folder of a hub name, owner/name, from the cache or the network."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(f"{name}: no such file or folder")
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=["config.json", WEIGHTS]))
        if not (folder / WEIGHTS).is_file():  # of before there was safetensors; never both, which are as large as each other
            folder = Path(snapshot_download(name, allow_patterns=["config.json", f"{STEM}.bin"]))
        return folder
    except Exception as error:  # of many kinds (no network, no such repository), all of them about this name
        reason = " ".join(str(error).split())
        raise ValueError(f"{name}: no such file or folder, and not on the hub or in its cache ({reason[:150]})") from None


def _read_diffusers(config: Path, weights: Path) -> tuple[dict, dict[str, Tensor]]:
    try:
        settings = json.loads(config.read_text(encoding="utf-8-sig"))
        made = settings.get("_class_name", "AutoencoderKL")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        raise ValueError(f"{config}: damaged (not a JSON object); fetch or make it again") from None
    if made != "AutoencoderKL":
        raise ValueError(f"{config}: is of a {made}, expected an AutoencoderKL")
    latent_scale(config, settings)
    state = tensors.named(weights, tensors.read(weights)[0])
    return settings, {_renamed(name, OLD_ATTENTION): value for name, value in state.items()}


def latent_scale(config: Path, settings: Mapping[str, Any]) -> LatentScale:
    """How an autoencoder's config.json has its users scale latents; ValueError, with the file's name, where none could be."""
    try:
        return LatentScale.of_config(settings)
    except ValueError as error:
        raise ValueError(f"{config}: {error}") from None


def _read_ldm(path: Path) -> tuple[dict, dict[str, Tensor]]:
    content, _ = tensors.read(path)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    state = tensors.named(path, content)
    if any(name.startswith("first_stage_model.") for name in state):  # a whole latent diffusion model
        state = {k.removeprefix("first_stage_model."): v for k, v in state.items() if k.startswith("first_stage_model.")}
    state = {k: v for k, v in state.items() if k.startswith(("encoder.", "decoder.", "quant_conv.", "post_quant_conv."))}
    if any(name.startswith("encoder.down_blocks.") for name in state):
        raise ValueError(f"{path}: weights in diffusers' format; give the folder that holds their config.json too")
    levels = sorted({int(name.split(".")[2]) for name in state if name.startswith("encoder.down.")})
    needed = ["quant_conv.weight", "post_quant_conv.weight", *(f"encoder.down.{i}.block.0.conv2.weight" for i in levels)]
    missing = [name for name in needed if name not in state]
    if missing or not levels:
        raise ValueError(f"{path}: no {missing[0] if missing else 'encoder.down.0'}, so no autoencoder of LDM's kl family")
    n = len(levels)
    settings = {
        "in_channels": 3, "out_channels": 3, "latent_channels": len(state["post_quant_conv.weight"]), "sample_size": 256,
        "block_out_channels": [len(state[f"encoder.down.{i}.block.0.conv2.weight"]) for i in levels],
        "layers_per_block": len({name.split(".")[4] for name in state if name.startswith("encoder.down.0.block.")}),
        "norm_num_groups": LDM_NORM_GROUPS,
        "down_block_types": ["AttnDownEncoderBlock2D" if f"encoder.down.{i}.attn.0.q.weight" in state else "DownEncoderBlock2D"
                             for i in range(n)],
        "up_block_types": ["AttnUpDecoderBlock2D" if f"decoder.up.{i}.attn.0.q.weight" in state else "UpDecoderBlock2D"
                           for i in reversed(range(n))],
    }  # fmt: skip

    def named(name: str) -> str:
        name = re.sub(r"decoder\.up\.(\d+)\.", lambda found: f"decoder.up_blocks.{n - 1 - int(found[1])}.", name)
        return _renamed(name, LDM_NAMES)

    # LDM's attention is 1x1 convolutions, diffusers' linear layers.
    flat = {named(k): v.flatten(1) if ".attn" in k and v.ndim == 4 else v for k, v in state.items()}
    return settings, flat


def _renamed(name: str, renames: dict[str, str]) -> str:
    for pattern, replacement in renames.items():
        name = re.sub(pattern, replacement, name)
    return name


def save(vae: "AutoencoderKL", scale: LatentScale | float | None, folder: Path) -> list[str]:
    """Writes a diffusers folder, atomically per file, weights first; returns the file names.

    Its config says how latents are to be scaled: ``scale``, or one factor; None leaves what it says.
    """
    from safetensors.torch import save_file

    if scale is not None:
        scale = scale if isinstance(scale, LatentScale) else LatentScale(scale)
        vae.register_to_config(**{MEAN: None, STD: None, SHIFT: None} | scale.facts())
    state = {k: v.detach().cpu().contiguous() for k, v in vae.state_dict().items()}
    write_atomically(folder / WEIGHTS, lambda partial: save_file(state, partial, metadata={"format": "pt"}))
    write_atomically(folder / "config.json", lambda partial: partial.write_text(vae.to_json_string()))
    return ["config.json", WEIGHTS]


@torch.no_grad()
def rescale_latents(vae: "AutoencoderKL", factor: float) -> None:
    """Makes ``vae`` the same autoencoder with latents ``factor`` times as large, exactly but for rounding; ValueError where it cannot.

    The posterior's mean is scaled and its log-variance shifted in quant_conv, and post_quant_conv undoes it. Outside the
    clamp of the log-variance to [-30, 20] reconstructions are the same. Its scaling factor is divided by ``factor``.
    """
    into, out_of = vae.quant_conv, vae.post_quant_conv
    if into is None or into.bias is None or out_of is None:
        raise ValueError("rescale_latents: the autoencoder has no quant_conv and post_quant_conv to scale")
    if LatentScale.of_config(vae.config).mean is not None:
        raise ValueError("rescale_latents: each channel of these latents has a mean and std of its own; there is no one factor")
    c = vae.config["latent_channels"]
    into.weight[:c] *= factor
    into.bias[:c] *= factor
    into.bias[c:] += 2 * math.log(factor)
    out_of.weight /= factor
    vae.register_to_config(scaling_factor=vae.config["scaling_factor"] / factor)


class LatentStatistics:
    """Mean and variance of sampled latents, from posterior moments: E[z^2] = mean^2 + var, without sampling. float64."""

    def __init__(self) -> None:
        self.total = self.square = torch.zeros((), dtype=torch.float64)  # from the first batch on per channel
        self.count = 0
        self.images = 0  # how many they are of, where who adds them says so: a mirrored one is none of its own

    def add(self, mean: Tensor, logvar: Tensor) -> None:
        """Moments [B, C, h, w]."""
        m, v = mean.double(), logvar.double().exp()
        self.total = self.total + m.sum(dim=(0, 2, 3)).cpu()
        self.square = self.square + (m.square() + v).sum(dim=(0, 2, 3)).cpu()
        self.count += m.numel() // m.shape[1]

    @property
    def channel_mean(self) -> Tensor:
        return self.total / self.count

    @property
    def channel_std(self) -> Tensor:
        return (self.square / self.count - self.channel_mean.square()).sqrt()

    @property
    def std(self) -> float:
        """Over all elements, whatever their channel: what 1 / scaling_factor is."""
        return float((self.square.mean() / self.count - self.channel_mean.mean().square()).sqrt())


def save_align(networks: AlignNetworks, folder: Path) -> list[str]:
    from safetensors.torch import save_file

    state = {k: v.detach().cpu().contiguous() for k, v in networks.state_dict().items()}
    write_atomically(folder / ALIGN_WEIGHTS, lambda partial: save_file(state, partial))
    write_json(folder / ALIGN_CONFIG, networks.settings)
    return [ALIGN_CONFIG, ALIGN_WEIGHTS]


def load_align(folder: Path, device: torch.device | str = "cpu") -> AlignNetworks | None:
    """The align networks beside an autoencoder, frozen; None where it was not aligned."""
    if not (folder / ALIGN_CONFIG).exists():
        return None
    try:
        networks = AlignNetworks(**read_json(folder / ALIGN_CONFIG))
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{folder / ALIGN_CONFIG}: makes no align networks ({' '.join(str(error).split())})") from None
    state = tensors.named(folder / ALIGN_WEIGHTS, tensors.read(folder / ALIGN_WEIGHTS)[0])
    tensors.check(folder / ALIGN_WEIGHTS, state, networks.state_dict())
    networks.load_state_dict(state)
    return networks.to(device).eval().requires_grad_(False)


def to_input(images: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def moments(vae: "AutoencoderKL", x: Tensor) -> tuple[Tensor, Tensor]:
    """x [B, 3, H, W] in [-1, 1] -> posterior (mean, logvar), each [B, C, h, w]; logvar clamped to [-30, 20]."""
    posterior = vae.encode(x).latent_dist
    return posterior.mean, posterior.logvar


def kl_per_image(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(q(z|x) || N(0, I)) in nats, summed over C, h, w: [B]. Zero for mean 0 and logvar 0."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3))


def to_uint8(images: Tensor) -> Tensor:
    """Bytes (same shape, uint8) of images in [-1, 1]: trunc(clamp(127.5 x + 128, 0, 255)).

    That is (x + 1) 127.5 rounded half up, the conversion of DiT, SiT and ADM. ValueError if an image has NaN.
    """
    if torch.isnan(images).any():
        raise ValueError("to_uint8: images contain NaN; look at the sampler or the decoder, a byte would hide it")
    return (127.5 * images + 128).clamp(0, 255).to(torch.uint8)
