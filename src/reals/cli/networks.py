"""Options that `reals evaluate` and `reals reference` share: which network, which images, how they are run."""

import argparse
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from reals import files

if TYPE_CHECKING:  # torch is imported where it is used: it takes seconds
    import torch

    from reals.measure.extractor import Extractor

SUFFIXES = (".json", ".npz", ".npy", ".png", ".csv", ".zip", ".tar", ".pt", ".pth", ".ckpt", ".bin", ".safetensors")
SHIPPED = ("inception", "dinov2", "clip", "clip-l-14-336")


def add_shared(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--network", default="inception",
        help="inception (ADM's; default), dinov2 (FD-DINOv2), clip-l-14-336 (CMMD), clip, the folder of a small CNN (an extractors/ folder of a run), "
        "or module:function that returns a reals.measure.extractor.Extractor",
    )  # fmt: skip
    p.add_argument("--weights", type=Path, help="the network's weights file; without it the published weights are downloaded")
    p.add_argument("--sha256", help="checksum that the weights file must have")
    p.add_argument("--range", default="bytes", choices=["bytes", "unit", "signed"], dest="value_range",
                   help="what floating arrays hold: unit ([0, 1]) or signed ([-1, 1]); uint8 needs no word (bytes; default)")  # fmt: skip
    p.add_argument("--pr-reference", type=int, default=10_000, metavar="M",
                   help="reference images behind precision and recall (10000, as ADM; 0 for neither)")  # fmt: skip
    p.add_argument("--allow-fewer", action="store_true", help="go on with fewer images than asked for, and say so everywhere")
    p.add_argument("--batch", type=int, default=64, help="images at a time (64)")
    p.add_argument("--device", help="cuda where there is one, else cpu")
    p.add_argument("--seed", type=int, default=0, help="of random choices: reference images, KID subsets, bootstrap (0)")
    p.add_argument("--shard", metavar="K/N", help="do only part K = 0..N-1; the same command without --shard merges")


def check_shared(options: argparse.Namespace) -> None:
    """ValueError for numbers that cannot be."""
    if options.batch < 1 or options.pr_reference < 0:
        raise ValueError(f"--batch {options.batch}, --pr-reference {options.pr_reference}: expected at least 1 and at least 0")
    from reals.measure.record import ADM_K

    if 0 < options.pr_reference <= ADM_K:
        raise ValueError(
            f"--pr-reference {options.pr_reference}: precision and recall look at the {ADM_K}rd neighbour; give more, or 0"
        )


def misnamed(path: Path, *fitting: str) -> bool:
    """Whether a name says that the file holds something else than one of a ``fitting`` suffix does."""
    return path.suffix.lower() in SUFFIXES and path.suffix.lower() not in fitting


def refuse_suffix(option: str, path: Path, fitting: str) -> None:
    """ValueError where a name says that the file holds something else than what is written, a ``fitting`` file."""
    if misnamed(path, fitting):
        raise ValueError(f"{path}: {option} is a {fitting} file; give it such a name")


def refuse_unwritable(option: str, path: Path | None, *read: Path | None) -> None:
    """ValueError where ``path`` cannot be written, or is one of those that are ``read``, said before hours of work and not after."""
    if path is None:
        return
    if path.exists() and any(other is not None and other.exists() and path.samefile(other) for other in read):
        raise ValueError(f"{path}: is read by this command, which would write over it; give another file with {option}")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; give a file with {option}")
    files.refuse_special(path)
    probe = path.with_name(f".{path.name}.probe")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror}); give another place with {option}") from None


def device_of(name: str | None) -> "torch.device":
    """The torch device that ``name`` is, else a GPU where there is one, with float32 as it is said. ValueError for a device
    that is not here."""
    import torch

    from reals.method.precision import allow_tf32

    allow_tf32(False)
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device


def make_network(options: argparse.Namespace) -> "Extractor":
    """The Extractor that the options name, on its device. ValueError for an unknown network or a wrong file."""
    from reals.measure.extractors.by_kind import make_extractor

    device = device_of(options.device)
    name, weights = options.network, options.weights
    if weights is not None and name not in SHIPPED:
        raise ValueError(f"--weights: {name} brings its own weights; drop it, or take one of {', '.join(SHIPPED)}")
    if options.sha256 is not None and weights is None:
        raise ValueError("--sha256: there is no --weights file to compare it with")
    if name in SHIPPED:
        if weights is None:
            print(f"{name}: no --weights given, so the published ones are taken from the download cache or fetched", flush=True)
            extractor = make_extractor({"kind": name}, None)
        else:
            if not weights.is_file():
                raise ValueError(f"--weights {weights}: no such file; leave it out to have the published weights fetched")
            digest = options.sha256 or files.sha256(weights)
            spec = {"kind": name, "weights": weights.name, "sha256": digest}
            extractor = make_extractor(spec, weights.parent)
    elif Path(name).is_dir():
        folder = Path(name)
        sealed = files.opened(folder).get("name") if (folder / files.MANIFEST).exists() else None
        extractor = make_extractor({"kind": "small-cnn", "name": sealed or folder.resolve().name}, folder)
    elif ":" in name:
        extractor = _called(name)
    else:
        raise ValueError(f"--network {name}: expected {', '.join(SHIPPED)}, a small CNN's folder, or module:function")
    return extractor.to(device)


def _called(name: str) -> "Extractor":
    from reals.experiment.metric_table import ADM_EXTRACTOR
    from reals.measure.extractor import Extractor

    module, function = name.split(":", 1)
    try:
        make = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--network {name}: {error}; expected an importable module:function") from None
    extractor = make()
    if not isinstance(extractor, Extractor):
        raise ValueError(f"--network {name}: gave a {type(extractor).__name__}, expected a reals.measure.extractor.Extractor")
    if extractor.name == ADM_EXTRACTOR:
        raise ValueError(f"--network {name}: calls itself {ADM_EXTRACTOR}, which is ADM's extractor; choose another name")
    return extractor


def shard_of(text: str | None) -> tuple[int, int] | None:
    """(k, n) of "k/n"."""
    if text is None:
        return None
    parts = text.split("/")
    if len(parts) != 2 or not all(x.isdigit() for x in parts) or not int(parts[0]) < int(parts[1]) < 1000:
        raise ValueError(f"--shard {text}: expected K/N with K in 0..N-1 and N below 1000, e.g. 0/4")
    return int(parts[0]), int(parts[1])


def enough(path: Path, have: int, asked: int, what: str, option: str, allow_fewer: bool) -> int:
    """How many to use: what was asked, or all there are if fewer are allowed. ValueError otherwise."""
    if have < asked and not allow_fewer:
        raise ValueError(
            f"{path}: {have} images, {asked} asked for {what}; add images, pass --allow-fewer (the result will say so), "
            f"or set {option}"
        )
    return min(have, asked)
