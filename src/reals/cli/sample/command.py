"""`reals sample`: from a checkpoint to files."""

import argparse

from reals.cli.sample.options import add_options, check_options
from reals.cli.subcommands import Subcommands


def add(commands: Subcommands) -> None:
    text = "draw images from a checkpoint: official, of a reference training script, or our own"
    p = commands.add_parser(
        "sample", help=text, description=f"{text}. Run the same command again to go on; see docs/sampling.md."
    )
    add_options(p)
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Draws what is missing in the parts folder, then writes the outputs once all of it is there."""
    outputs = check_options(options)
    # These bring torch, which `reals --help` and other commands do without.
    from reals import files
    from reals.cli.networks import device_of, refuse_unwritable
    from reals.cli.sample import decoder, labels, settings
    from reals.cli.sample.drawing import maker
    from reals.cli.sample.outputs import write_grid, write_npz
    from reals.cli.sample.parts import Parts, fill
    from reals.machine import compiler, memory
    from reals.method import checkpoints
    from reals.method.sampling import shard_range

    shard, shards = settings.shard_of(options.shard)
    for output in outputs:
        refuse_unwritable(f"--{output.suffix.removeprefix('.').replace('png', 'grid')}", output)
    device = device_of(options.device)
    if options.compile:
        compiler.require(device.type == "cuda", "--compile")
    memory.keep_freed()
    family = {"sit": "SiT", "dit": "DiT", "repa": "REPA", None: None}[options.family]
    checkpoint = checkpoints.load(
        options.checkpoint, family, weights=options.weights, heads=options.heads, projector=False, device=device
    )
    print(settings.checkpoint_described(options.checkpoint, checkpoint))
    sampling = settings.sampling_of(options, checkpoint)
    sampling.check(checkpoint.family, checkpoint.model.config)
    if note := settings.without_effect(options, sampling):
        print(f"  NOTE: {note}")
    names = labels.class_names(options, checkpoint)
    classes, columns = labels.labels_of(options, checkpoint.model.config.classes, names)
    n = len(classes)
    print(f"  classes {labels.printed(classes, names)}")
    vae, scale = decoder.decoder_of(options, checkpoint, device)
    print(f"  {settings.described(sampling)}; seed {options.seed}; latents divided by {scale}")
    parts = Parts(options.parts or outputs[0].with_name(outputs[0].name + ".parts"))
    parts.begin({
        "network": decoder.fingerprint(checkpoint.model), "autoencoder": decoder.fingerprint(vae), "family": checkpoint.family,
        **scale.facts(), "precision": options.precision + (", compiled" if options.compile else ""),
        "seed": options.seed, "labels": labels.described(options, classes[:columns]), **vars(sampling),
        **({} if sampling.end == 1 else {"end": sampling.end}),
    })  # fmt: skip
    own, there = shard_range(n, shard, shards), parts.covered()
    if missing := [i for i in own if i not in there]:
        make = maker(options, checkpoint.model, sampling, classes, vae, scale, device)
        rounds = 1 if sampling.facts.times is None else sampling.steps
        with files.lock(parts.folder / f".shard_{shard}_of_{shards}.lock", f"shard {shard}/{shards} in {parts.folder}"):
            fill(parts, missing, len(own), rounds, options.batch, make)
    if absent := n - len(parts.covered() & set(range(n))):
        print(f"shard {shard}/{shards} is done; {absent} of {n} images are not in {parts.folder} yet. When all are there (copied")
        print("from other machines, if need be), the same command without --shard writes the outputs")
        return
    facts = {"checkpoint": str(options.checkpoint), **parts.settings(), "n": n, "facts": checkpoint.facts}
    if options.npz:
        write_npz(options.npz, parts, classes, facts)
    if options.grid:
        write_grid(options.grid, parts, n, columns)
    if outputs:
        print(f"{parts.folder} is no longer needed, unless you want to draw more")
