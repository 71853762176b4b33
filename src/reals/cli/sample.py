"""`reals sample`: images from a DiT, SiT, REPA or own checkpoint, as a picture grid and/or an .npz to be measured."""

import argparse
import hashlib
import json
import math
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from reals.cli.networks import device_of
from reals.experiment.sampler_table import (
    DIFFUSION_FORMS,
    GUIDED_CHANNELS,
    INTERVAL_TIMES,
    LAST_STEPS,
    PATH_NAMES,
    SAMPLERS,
    SDE_SAMPLERS,
    Setting,
    samplers_with,
)

REFERENCE_CLASSES = (207, 360, 387, 974, 88, 979, 417, 279)  # of DiT's and SiT's sample.py
REFERENCE_CFG = 4.0
GRID_MOST = 100
SETTINGS: dict[str, Setting] = {  # option -> the setting of a sampler
    "steps": "steps", "form": "form", "norm": "norm", "last_step": "last", "last_size": "last_size", "eta": "eta",
}  # fmt: skip
FITS = {option: samplers_with(setting) for option, setting in SETTINGS.items()} | {"path": SDE_SAMPLERS}
"""Option -> the samplers it means something to; of the path only the SDE's diffusion and score need to know."""


def add(commands) -> None:
    text = "draw images from a checkpoint: official, of a reference training script, or our own"
    p = commands.add_parser(
        "sample", help=text, description=f"{text}. Run the same command again to go on; see docs/sampling.md."
    )
    p.add_argument(
        "checkpoint", type=Path, help=".pt of DiT, SiT or REPA (raw, or of train.py), .safetensors, our step_<n>.safetensors"
    )
    p.add_argument("--vae", help="AutoencoderKL folder (diffusers) or original LDM file; our own runs find theirs")
    p.add_argument("--family", choices=["sit", "dit", "repa"], help="what the checkpoint is; our own files say it")
    p.add_argument("--weights", choices=["ema", "model"], help="of a training checkpoint (ema)")
    p.add_argument("--heads", type=int, help="attention heads, for widths the papers do not use")
    which = p.add_mutually_exclusive_group()
    which.add_argument("--classes", help="ids or names, separated by commas")
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
    p.add_argument("--path", choices=PATH_NAMES, help="the interpolant the network was trained on (linear)")
    p.add_argument("--eta", type=float, help="DDIM's noise: 0 (default) none, 1 as DDPM")
    p.add_argument("--seed", type=int, default=0, help="image i depends on (seed, i) alone (0)")
    p.add_argument("--batch", type=int, default=16, help="images at a time; changes nothing but speed (16)")
    p.add_argument("--device", help="cuda where there is one, else cpu")
    p.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16: faster where the hardware has it (fp32)")
    p.add_argument("--compile", action="store_true", help="torch.compile the network: pays for itself over many images")
    p.add_argument(
        "--scaling-factor", type=float, help="what latents were multiplied by; otherwise our run's, or the autoencoder's"
    )
    p.add_argument("--shard", metavar="K/N", help="draw only part K = 0..N-1; the same command without --shard merges")
    p.add_argument("--grid", type=Path, help="PNG to write")
    p.add_argument("--npz", type=Path, help=".npz to write: arr_0 uint8 [n, H, W, 3], arr_1 int64 labels (ADM's format)")
    p.add_argument("--parts", type=Path, help="folder of the finished batches (<output>.parts)")
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Draws what is missing in the parts folder, then writes the outputs once all of it is there."""
    import torch

    from reals import files
    from reals.machine import memory
    from reals.method import checkpoints
    from reals.method.sampling import Bf16, decode, draw, shard_range

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
    shard, shards = _shard(options.shard)
    device = device_of(options.device)
    memory.keep_freed()
    family = {"sit": "SiT", "dit": "DiT", "repa": "REPA", None: None}[options.family]
    checkpoint = checkpoints.load(
        options.checkpoint, family, weights=options.weights, heads=options.heads, projector=False, device=device
    )
    model, config = checkpoint.model, checkpoint.model.config
    size = config.latent_size
    print(
        f"{options.checkpoint}: {checkpoint.source if checkpoint.source != 'ours' else 'our ' + checkpoint.family}, width {config.width}, "
        f"depth {config.depth}, {config.heads} heads, patch {config.patch}, latents {config.latent_channels}x{size}x{size}, {config.classes} classes"
    )
    for note in checkpoint.notes:
        print(f"  taken as given: {note}")
    sampling = _sampling(options, checkpoint)
    sampling.check(checkpoint.family, config)
    names = _class_names(options, checkpoint)
    labels, columns = _labels(options, config.classes, names)
    n = len(labels)
    vae, scaling = _autoencoder(options, checkpoint, device)
    print(f"  {_described(sampling)}; seed {options.seed}; latents divided by {scaling:.6g}")
    parts = Parts(options.parts or outputs[0].with_name(outputs[0].name + ".parts"))
    parts.begin({
        "network": _fingerprint(model), "autoencoder": _fingerprint(vae), "family": checkpoint.family, "scaling_factor": scaling,
        "precision": options.precision + (", compiled" if options.compile else ""), "seed": options.seed,
        "labels": _labels_said(options, labels[:columns]), **vars(sampling),
    })  # fmt: skip
    own, there = shard_range(n, shard, shards), parts.covered()
    missing = [i for i in own if i not in there]
    if missing:
        network = Bf16(model) if options.precision == "bf16" else model
        if options.compile:
            network.compile()

        @torch.no_grad()
        def make(indices: list[int], report: Callable):
            y = torch.from_numpy(labels[indices]).to(device)
            z = draw(network, sampling, options.seed, y, indices, device, report) / scaling
            return decode(vae, z, indices, str(options.checkpoint)).permute(0, 2, 3, 1).contiguous().cpu().numpy()

        rounds = 1 if sampling.facts.times is None else sampling.steps
        with files.lock(parts.folder / f".shard_{shard}_of_{shards}.lock", f"shard {shard}/{shards} in {parts.folder}"):
            _fill(parts, missing, len(own), rounds, options.batch, make)
    absent = n - len(parts.covered() & set(range(n)))
    if absent:
        print(f"shard {shard}/{shards} is done; {absent} of {n} images are not in {parts.folder} yet. When all are there (copied")
        print("from other machines, if need be), the same command without --shard writes the outputs")
        return
    facts = {"checkpoint": str(options.checkpoint), **parts.settings(), "n": n, "facts": checkpoint.facts}
    if options.npz:
        _write_npz(options.npz, parts, labels, facts)
    if options.grid:
        _write_grid(options.grid, parts, n, columns)
    if outputs:
        print(f"{parts.folder} is no longer needed, unless you want to draw more")


def _shard(text: str | None) -> tuple[int, int]:
    if text is None:
        return 0, 1
    try:
        shard, shards = (int(part) for part in text.split("/"))
    except ValueError:
        raise ValueError(f"--shard: got {text!r}, expected K/N such as 0/4") from None
    if not 0 <= shard < shards:
        raise ValueError(f"--shard: got {text}, expected K from 0 to N - 1")
    return shard, shards


def _sampling(options: argparse.Namespace, checkpoint):
    """The settings asked for; what is not asked for is as in the papers."""
    from reals.method.sampling import Sampling

    sampler = options.sampler or ("ddpm" if checkpoint.family == "DiT" else "sde")
    repa = checkpoint.source == "REPA" or bool(checkpoint.facts and checkpoint.facts["config"].get("projector_dim"))
    chosen = {"cfg_channels": GUIDED_CHANNELS[options.cfg_channels or ("all" if repa else "3")]}
    for option, fits in FITS.items():
        value = getattr(options, option)
        if value is None:
            continue
        if sampler not in fits:
            raise ValueError(f"--{option.replace('_', '-')} means nothing to the sampler {sampler}; it is for {', '.join(fits)}")
        chosen[SETTINGS.get(option, option)] = value
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


def _described(s) -> str:
    text = s.described
    if s.cfg == 1:
        return text + ", no guidance"
    text += f", cfg {s.cfg:g} on {s.cfg_channels} channels"
    return text + (f" while the {s.interval_time} time is in {list(s.interval)}" if s.interval != (0.0, 1.0) else "")


def _class_names(options: argparse.Namespace, checkpoint) -> list[str] | None:
    """Names by class id: of the file given, or of the data behind one of our own runs."""
    classes = checkpoint.model.config.classes
    if options.class_names is not None:
        if not options.class_names.is_file():
            raise ValueError(f"--class-names {options.class_names}: no such file")
        names = options.class_names.read_text().splitlines()
        if len(names) != classes:
            raise ValueError(
                f"{options.class_names}: {len(names)} names, but {options.checkpoint} has {classes} classes; one name a line"
            )
        return names
    root, run = options.checkpoint.parent.parent.parent, options.checkpoint.parent
    spec = _json(run / "spec.json")
    data = _json(root / "latents" / str(spec.get("latents")) / "spec.json").get("data")
    names = _json(root / "data" / str(data) / "index.json").get("classes")
    return names if checkpoint.source == "ours" and names and len(names) == classes else None


def _json(path: Path) -> dict:
    return json.loads(path.read_text()) if path.is_file() else {}


def _labels(options: argparse.Namespace, classes: int, names: list[str] | None):
    """(class of each image int64 [n], columns of a grid in which they look ordered)."""
    import numpy as np

    from reals.method import sampling

    for option in ("random", "balanced", "n"):
        if getattr(options, option) is not None and getattr(options, option) < 1:
            raise ValueError(f"--{option}: got {getattr(options, option)}, expected at least 1")
    n = options.random or options.balanced
    if n:
        if options.n:
            raise ValueError("--n counts images of each of --classes; --random and --balanced take their own number")
        drawn = sampling.random_labels(options.seed, range(n), classes) if options.random else np.arange(n) % classes
        return drawn, math.ceil(math.sqrt(n))
    if options.classes is not None:
        chosen = [_class(token.strip(), classes, names) for token in options.classes.split(",")]
    else:
        chosen = list(REFERENCE_CLASSES) if classes == 1000 else list(range(min(classes, 10)))
    return np.array(chosen * (options.n or 1)), len(chosen)


def _class(token: str, classes: int, names: list[str] | None) -> int:
    if token.isdigit() and int(token) < classes:
        return int(token)
    if token.isdigit():
        raise ValueError(f"--classes: got {token}, but the checkpoint has classes 0 to {classes - 1}")
    if names is None:
        raise ValueError(f"--classes: '{token}' is a name; give --class-names FILE (one name a line), or ids")
    found = [i for i, name in enumerate(names) if token.lower() in [p.strip().lower() for p in [name, *name.split(",")]]]
    if len(found) != 1:
        ids = f"that is classes {', '.join(map(str, found))}; give the id" if found else "no class has this name"
        raise ValueError(f"--classes: '{token}': {ids}")
    return found[0]


def _labels_said(options: argparse.Namespace, chosen) -> str:
    """What fixes the class of image i for every i, whatever their number."""
    return "random" if options.random else "balanced" if options.balanced else ",".join(map(str, chosen))


def _autoencoder(options: argparse.Namespace, checkpoint, device):
    """(the autoencoder, what to divide latents by)."""
    import torch

    from reals.method.models import autoencoder as models

    facts, folder = checkpoint.facts, options.vae
    own = options.checkpoint.parent.parent.parent / "autoencoders" / str(facts.get("autoencoder"))
    if folder is None and own.is_dir():
        folder = str(own)
        print(f"  autoencoder {own}, which it was trained on")
    if folder is None:
        raise ValueError("--vae: give the AutoencoderKL folder the checkpoint was trained on")
    if facts and Path(folder).name != facts["autoencoder"]:
        print(f"  NOTE: trained on the latents of {facts['autoencoder']}, decoded by {folder}")
    try:
        vae = models.load(folder, device)
    except ValueError as error:
        raise ValueError(f"--vae {error}") from None
    config = checkpoint.model.config
    if vae.config.latent_channels != config.latent_channels:
        raise ValueError(
            f"--vae {folder}: {vae.config.latent_channels} latent channels, but {options.checkpoint} makes {config.latent_channels}"
        )
    if vae.config.get("shift_factor"):
        raise ValueError(f"--vae {folder}: has shift_factor {vae.config.shift_factor}; DiT, SiT and REPA latents are scaled only")
    if options.scaling_factor is not None:
        scaling = options.scaling_factor
    elif facts:
        scaling = facts["scaling_factor"]
    else:
        scaling = vae.config.scaling_factor
        settings = Path(folder) / "config.json"
        if not settings.is_file() or "scaling_factor" not in _json(settings):
            print(f"  scaling factor {scaling}, Stable Diffusion's: {folder} states none")
    if not 0 < scaling < math.inf:
        raise ValueError(f"scaling factor: got {scaling}, expected a positive number")
    return vae.to(memory_format=torch.channels_last), scaling


def _fingerprint(module) -> str:
    """A hash of all weights, whatever file they came in."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


class Parts:
    """A folder of finished batches, <first>_<count>.npz, that belong to one set of settings.

    A part is renamed into place, so one that exists is whole, and it is named by the samples it holds, so that batches
    and shards of any size go together.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def settings(self) -> dict:
        from reals import files

        return files.read_json(self.folder / "settings.json")

    def begin(self, settings: dict) -> None:
        """Marks the folder with its settings; ValueError where it holds parts of others."""
        from reals import files

        path, settings = self.folder / "settings.json", json.loads(json.dumps(settings))
        if not path.exists():
            files.write_json(path, settings)
        made = self.settings()
        for key in [*settings, *made]:
            if made.get(key) != settings.get(key):
                raise ValueError(
                    f"{self.folder} holds images made with {key} {made.get(key)}, now it is {settings.get(key)}; "
                    "give other outputs, or --parts another folder, or delete this one"
                )

    def _listed(self) -> list[tuple[int, int, Path]]:
        found = ((*(int(x) for x in p.stem.split("_")), p) for p in self.folder.glob("[0-9]*_*.npz"))
        return sorted(found)

    def covered(self) -> set[int]:
        return {i for first, count, _ in self._listed() for i in range(first, first + count)}

    def save(self, first: int, images) -> None:
        """images uint8 [k, H, W, 3] of the samples first, first + 1, ..."""
        from reals import files
        from reals.arrays import save_npz

        files.write_atomically(self.folder / f"{first:07d}_{len(images)}.npz", lambda p: save_npz(p, images=images))

    def images(self, n: int) -> Iterator:
        """The images of samples 0..n-1 in order, as uint8 [k, H, W, 3] arrays."""
        import numpy as np

        next_one = 0
        for first, count, path in self._listed():
            if next_one >= min(first + count, n):
                continue
            assert first <= next_one, f"sample {next_one} is in no part"
            try:
                with np.load(path) as saved:
                    images = saved["images"]
            except (zipfile.BadZipFile, ValueError, KeyError, EOFError) as error:
                raise ValueError(f"{path}: damaged ({error}); delete it and run again") from None
            yield images[next_one - first : n - first]
            next_one = min(first + count, n)


def _fill(parts: Parts, missing: list[int], share: int, rounds: int, batch: int, make: Callable) -> None:
    """Draws the missing samples of a share, a batch of neighbours at a time, each kept as soon as it is done.

    ``make(indices, report)`` draws one batch, calling ``report(step, steps)``; ``rounds`` is how many steps to count an
    image as.
    """
    from reals.progress import Progress

    done = share - len(missing)
    what = "images" if rounds == 1 else f"images x {rounds} steps"
    progress = Progress(f"{parts.folder.stem} ({what})", share * rounds, done * rounds)
    for indices in _batches(missing, batch):
        parts.save(indices[0], make(indices, partial(_report, progress, done, len(indices), rounds)))
        done += len(indices)


def _report(progress, done: int, size: int, rounds: int, step: int, steps: int) -> None:
    progress.update(round((done + size * step / steps) * rounds))


def _batches(indices: list[int], size: int) -> Iterator[list[int]]:
    """Runs of consecutive indices, none longer than ``size``."""
    batch: list[int] = []
    for i in indices:
        if batch and (i != batch[-1] + 1 or len(batch) == size):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _write_npz(path: Path, parts: Parts, labels, facts: dict) -> None:
    """ADM's .npz, streamed: 50,000 images of 256 x 256 are 9.8 GB; and what made it, beside it as .json."""
    import numpy as np

    from reals import files

    def write(partial: Path) -> None:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            with archive.open("arr_0.npy", "w", force_zip64=True) as file:
                for number, images in enumerate(parts.images(len(labels))):
                    if number == 0:
                        header = {"descr": "|u1", "fortran_order": False, "shape": (len(labels), *images.shape[1:])}
                        np.lib.format.write_array_header_2_0(file, header)
                    file.write(images.tobytes())
            with archive.open("arr_1.npy", "w") as file:
                np.lib.format.write_array(file, labels.astype(np.int64))

    files.write_atomically(path, write)
    files.write_json(path.with_name(path.name + ".json"), {**facts, "code": files.code_version()})
    print(f"{path}: {len(labels)} images")


def _write_grid(path: Path, parts: Parts, n: int, columns: int) -> None:
    import numpy as np
    from PIL import Image

    from reals import files

    shown = min(n, GRID_MOST)
    columns = min(columns, math.ceil(math.sqrt(GRID_MOST)) if shown < n else columns)
    images = np.concatenate(list(parts.images(shown)))
    rows = math.ceil(shown / columns)
    height, width = images.shape[1:3]
    page = np.full((rows * columns, height, width, 3), 255, np.uint8)
    page[:shown] = images
    page = page.reshape(rows, columns, height, width, 3).transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)
    files.write_atomically(path, lambda partial: Image.fromarray(page).save(partial, format="PNG"))
    print(f"{path}: {shown}{f' of {n}' if shown < n else ''} images in {columns} columns")
