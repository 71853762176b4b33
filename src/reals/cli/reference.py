"""`reals reference`: statistics of real images in one file, made once and read by every `reals evaluate`."""

import argparse
from pathlib import Path

from reals.cli.networks import add_shared, check_shared, enough, make_network, refuse_unwritable, shard_of
from reals.cli.subcommands import Subcommands


def add(commands: Subcommands) -> None:
    text = "make a reference file for `reals evaluate` from real images or ADM's .npz"
    p = commands.add_parser("reference", help=text, description=f"{text}. See docs/evaluation.md.")
    p.add_argument("images", type=Path, help="folder, zip, tar, .npz, .npy or shards of real images, or ADM's reference .npz")
    p.add_argument("--out", type=Path, required=True, help=".npz to write")
    add_shared(p)
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Writes the reference (or one part of it) and says what is in it."""
    check_shared(options)
    if options.out.suffix != ".npz":
        raise ValueError(f"--out {options.out}: expected a name ending in .npz")
    refuse_unwritable("--out", options.out, options.images, options.weights)
    from reals.experiment.metric_table import ADM_EXTRACTOR
    from reals.machine import memory
    from reals.measure.references import (
        adm_reference,
        has_statistics,
        made_reference,
        reference_arrays,
        reference_facts,
        reference_of_parts,
        reference_of_shard,
        refuse_few,
    )
    from reals.measure.sources.by_path import open_source
    from reals.measure.stored import parts_of, save_arrays
    from reals.progress import Progress

    shard = shard_of(options.shard)
    source = open_source(options.images, options.value_range)
    stored = has_statistics(options.images)
    refuse_few(options.images, len(source), options.pr_reference, computed=not stored)
    count = enough(
        options.images, len(source), options.pr_reference, "precision and recall", "--pr-reference", options.allow_fewer
    )
    memory.keep_freed()
    extractor = make_network(options)
    if stored and extractor.name == ADM_EXTRACTOR:
        if shard is not None:
            raise ValueError(f"{options.images}: has its statistics inside; there is nothing to shard")
        progress = Progress("reference", count)
        reference = adm_reference(options.images, extractor, count, options.batch, progress.update)
        facts = reference_facts(extractor, source, "stored in the file", None, options.seed, options.value_range)
    else:
        facts = reference_facts(extractor, source, "computed", len(source), options.seed, options.value_range)
        if shard is not None:
            reference_of_shard(source, extractor, count, options.seed, options.batch, options.out, facts, shard)
            return
        if parts := parts_of(options.out):
            reference = reference_of_parts(parts, len(source), count, facts)
        else:
            progress = Progress("reference", len(source))
            reference = made_reference(source, extractor, count, options.seed, options.batch, progress.update)
    facts["pr_reference"] = count
    save_arrays(options.out, facts, reference_arrays(reference))
    images = "statistics stored in the file" if facts["images"] is None else f"{facts['images']} images"
    notes = "".join(f"; {note}" for note in source.notes)
    print(
        f"{options.out}: {images}, {count} for precision and recall, {extractor.name}, {source.size[1]}x{source.size[0]}{notes}"
    )
