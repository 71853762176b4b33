"""`reals export --to hub` and `reals import`: a network as a folder that the hub and diffusers take, and back."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reals import files
from reals.cli.subcommands import Subcommands
from reals.records import hub

if TYPE_CHECKING:  # torch is imported where it is used: it takes seconds
    from reals.method.checkpoints import Checkpoint

OWN_LICENCE = "apache-2.0"  # of this project, and so of what it trains from nothing


def add(commands: Subcommands) -> None:
    text = "take a network that `reals export --to hub` made: check it, and put it into a folder"
    p = commands.add_parser("import", help=text, description=f"{text}. See docs/artifacts.md.")
    p.add_argument("where", help="a folder, or user/repository on the hub")
    p.add_argument("out", type=Path, help="folder to make")
    p.add_argument("--revision", help="branch, tag or commit of the repository (main)")
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Checks what is there in every way it can be before anything is written: checksums, card, configuration, tensors."""
    from reals.method import checkpoints
    from reals.method.models import autoencoder
    from reals.report.card import checked_head

    folder, source = hub.found(options.where, options.revision)
    manifest = hub.sealed(folder)
    head = checked_head((folder / hub.CARD).read_text(errors="replace"), str(folder / hub.CARD))
    alone = manifest["kind"] == "autoencoder"
    vae = Path() if alone else Path(hub.VAE)
    needed = [str(vae / "config.json"), str(vae / autoencoder.WEIGHTS), *([] if alone else ["config.json", hub.TRANSFORMER])]
    if missing := [name for name in needed if name not in manifest["files"]]:
        raise ValueError(f"{folder / files.MANIFEST}: does not list {missing[0]}; get the folder again")
    channels = autoencoder.load(folder / vae).config["latent_channels"]
    autoencoder.load_align(folder / vae)
    if not alone:
        checkpoint = checkpoints.load(folder / hub.TRANSFORMER)
        _same_config(folder, checkpoint)
        if (own := checkpoint.model.config.latent_channels) != channels:
            raise ValueError(f"{folder}: the network draws {own} latent channels, the autoencoder in {vae}/ has {channels}")
    with hub.new_folder(options.out) as made:
        for name in [*manifest["files"], hub.CARD, files.MANIFEST]:
            hub.copy(folder / name, made / name)
    print(
        f"{options.out}: {manifest['kind']} {manifest['name']} of {source}, licence {head['license']}; checksums, card and tensors fit"
    )
    if manifest["kind"] == "autoencoder":
        digest = manifest["files"][autoencoder.WEIGHTS]["sha256"]
        print("in a scale file, for a row of autoencoders.tsv with init base:")
        print(f"  bases:\n    <row>: {{kind: diffusers, path: {options.out}, sha256: {digest}}}")
    else:
        print(f"draw with: reals sample {options.out / hub.TRANSFORMER} --cfg 1 --grid samples.png")


def _same_config(folder: Path, checkpoint: "Checkpoint") -> None:
    """ValueError where config.json says another network than the weights are."""
    said, is_ = hub.read_object(folder / "config.json"), _transformer_config(checkpoint)
    if differing := [key for key in is_ if said.get(key) != is_[key]]:
        raise ValueError(
            f"{folder / 'config.json'}: {differing[0]} is {said.get(differing[0])}, of the weights {is_[differing[0]]}"
        )


def _transformer_config(checkpoint: "Checkpoint") -> dict[str, Any]:
    from reals.data.latent_scale import FACTOR, MEAN, STD

    facts = checkpoint.facts
    config = {
        key: facts[key] for key in ("family", "step", FACTOR, MEAN, STD, "interpolant", "run", "autoencoder") if key in facts
    }
    return {"_class_name": "reals.method.Transformer", **config, **facts["config"]}


def export(options: argparse.Namespace) -> None:
    """Writes the folder; pushes it where ``options.push`` names a repository."""
    if options.private and options.push is None:
        raise ValueError("--private: is of the repository that --push makes; give --push too, or leave it out")
    if options.push is not None:
        hub.check_name(options.push, "--push")
    source: Path = options.checkpoint
    with hub.new_folder(options.out) as folder:
        if source.is_dir():
            _autoencoder(source.resolve(), folder, options)
        else:
            _transformer(source, folder, options)
    print(f"{options.out}: {', '.join(sorted(path.name for path in options.out.iterdir()))}")
    if options.push is not None:
        print(f"{options.out}: pushed to {hub.push(options.out, options.push, options.private)}")


def _autoencoder(source: Path, folder: Path, options: argparse.Namespace) -> None:
    from reals.method.models import autoencoder

    names = _copy_autoencoder(source, folder)
    config = files.read_json(folder / "config.json")
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    what = [
        f"A diffusers AutoencoderKL: {factor}-fold downsampling, {config['latent_channels']} latent channels.",
        "The transformers here are trained on its latents scaled as below." if "align.json" not in names else
        f"Its latents predict the features of a frozen vision transformer ({_method(folder)}); `align.*` are the networks that do.",
    ]  # fmt: skip
    use = (
        "```python\nfrom diffusers import AutoencoderKL\n\n"
        f'vae = AutoencoderKL.from_pretrained("{_called(options)}")\n'
        f"z = vae.encode(images).latent_dist.sample()  # images [B, 3, H, W] in [-1, 1]\n{_scaling(config)}\n```"
    )
    record = source / "made" / f"{files.MANIFEST}.json"
    _finish(folder, "autoencoder", source, names, source / autoencoder.WEIGHTS, what, use, record, _licence(options, source))


def _called(options: argparse.Namespace) -> str:
    """What the card's examples call the folder: by its repository, else its own name, for where it lies here is no one's business."""
    return str(options.push or options.out.resolve().name)


def _scaling(config: Mapping[str, Any]) -> str:
    """What a transformer's latents are, as Python of an autoencoder's latents z: as `LatentScale` reads the config."""
    from reals.data.latent_scale import MEAN, SHIFT, STD

    if config.get(MEAN):
        channels = f'(z.new_tensor(vae.config[key])[:, None, None] for key in ("{MEAN}", "{STD}"))'
        return f"mean, std = {channels}\nz = (z - mean) / std * vae.config.scaling_factor"
    return (
        f"z = (z - vae.config.{SHIFT}) * vae.config.scaling_factor" if config.get(SHIFT) else "z = z * vae.config.scaling_factor"
    )


def _method(folder: Path) -> str:
    """Whose loss trained the align networks of a folder: VA-VAE's are a linear map without bias."""
    linear = files.read_json(folder / "align.json").get("bias") is False
    return "VA-VAE's loss, arXiv:2501.01423" if linear else "ReaLS, arXiv:2502.00359"


def _copy_autoencoder(source: Path, folder: Path) -> list[str]:
    """The autoencoder of a folder in today's format, and its align networks; the names of the files."""
    from reals.data.latent_scale import MEAN, STD, LatentScale
    from reals.method.models import autoencoder
    from reals.records.published import clean

    if (source / files.MANIFEST).is_file():
        files.verified(source)
    vae, align = autoencoder.load(source), autoencoder.load_align(source)
    per_channel = vae.config.get(MEAN) or vae.config.get(STD)  # with both of them written, if only one was
    names = autoencoder.save(vae, LatentScale.of_config(vae.config) if per_channel else None, folder)
    files.write_json(folder / "config.json", clean(files.read_json(folder / "config.json")))  # diffusers notes whence it loaded
    return names + (autoencoder.save_align(align, folder) if align is not None else [])


def _transformer(source: Path, folder: Path, options: argparse.Namespace) -> None:
    from reals.cli.sample.labels import own_names
    from reals.method import checkpoints
    from reals.records import provenance

    provenance.refuse_damaged(source.resolve())
    checkpoint = checkpoints.load(source)
    if checkpoint.source != "ours":
        raise ValueError(f"{source}: is not of our own training, so its makers share it; nothing to export")
    homes = checkpoints.homes(source)
    decoder_of = lambda home: home.parent.parent / "autoencoders" / checkpoint.facts["autoencoder"]  # noqa: E731
    home = next((home for home in homes if decoder_of(home).is_dir()), homes[-1])
    decoder, source = decoder_of(home), source.resolve()
    if not decoder.is_dir():
        raise ValueError(f"{decoder}: not here, and without its autoencoder the network draws nothing; pull or make it")
    hub.copy(source, folder / hub.TRANSFORMER)
    files.write_json(folder / "config.json", _transformer_config(checkpoint))
    names = [hub.TRANSFORMER, "config.json", *(f"{hub.VAE}/{name}" for name in _copy_autoencoder(decoder, folder / hub.VAE))]
    labels = own_names(options.checkpoint, checkpoint)
    if labels is not None:
        files.write_text(folder / hub.NAMES, "\n".join(labels) + "\n")
        names.append(hub.NAMES)
    c = checkpoint.model.config
    what = [
        f"A {checkpoint.family} (width {c.width}, depth {c.depth}, patch {c.patch}) on latents {c.latent_channels}x{c.latent_size}x{c.latent_size} "
        f"of {checkpoint.facts['autoencoder']}, which is in `{hub.VAE}/`; {c.classes} classes; EMA weights of step {checkpoint.facts['step']:,}."
    ]  # fmt: skip
    use = (
        f"```bash\nreals import {_called(options)} model\nreals sample model/{hub.TRANSFORMER} --cfg 1 --grid samples.png\n```\n\n"
        "```python\nfrom pathlib import Path\n\nfrom reals.method import checkpoints\n\n"
        f'model = checkpoints.load(Path("model/{hub.TRANSFORMER}")).model  # in SiT\'s time for SiT: 0 is noise, 1 is data\n```'
    )
    record = provenance.path_of(source)
    _finish(folder, "transformer", home, names, source, what, use, record, _licence(options, decoder))


def _finish(
    folder: Path, kind: str, home: Path, names: list[str], weights: Path, what: list[str], use: str, record: Path, licence: str
) -> None:  # fmt: skip
    """Adds metrics, card and, last, the manifest. ``home`` is the artefact's folder, whose name is its id."""
    from reals.records import provenance
    from reals.records.published import clean
    from reals.report import results
    from reals.report.card import card

    measured = [clean(results.read(path)) for path in hub.measured_on(home.parent.parent, weights)]
    for result in measured:
        result.pop("curve", None)
    files.write_json(folder / "metrics.json", {"measured": measured})
    made = clean(provenance.read(record)) if record.is_file() else {}
    files.write_text(folder / hub.CARD, card(kind, home.name, licence, [*what, *_of_data(made)], use, made, measured))
    files.seal(folder, sorted([*names, "metrics.json"]), kind=kind, name=home.name, command=made.get("command"))


def _of_data(made: dict[str, Any]) -> list[str]:
    scale = made.get("scale")
    return [f"Made at scale {scale} of reals-repro; the data's own terms hold for what is done with it."] if scale else []


def _licence(options: argparse.Namespace, autoencoder: Path) -> str:
    """What --licence says, else this project's own. ValueError where others' weights are behind ``autoencoder``, or may be."""
    if options.licence:
        return str(options.licence)
    spec = files.read_json(autoencoder / "spec.json") if (autoencoder / "spec.json").is_file() else {}
    if not spec or "pretrained" in spec:
        raise ValueError(f"{autoencoder}: trained elsewhere, under terms that nothing here says; give --licence")
    return _licence(options, autoencoder.parent / spec["init"]) if spec.get("init") else OWN_LICENCE
