"""`reals evaluate`: FID, sFID, IS, precision, recall and KID of any images against any reference, on its own."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from reals.cli.networks import add_shared, check_shared, enough, make_network, refuse_suffix, refuse_unwritable, shard_of
from reals.cli.subcommands import Subcommands

if TYPE_CHECKING:  # numpy and torch are imported where they are used: they take seconds
    import numpy as np

    from reals.measure.source import Source


def add(commands: Subcommands) -> None:
    text = "measure images: FID, sFID, IS, precision and recall as ADM does"
    p = commands.add_parser("evaluate", help=text, description=f"{text}. Needs nothing else of ours; see docs/evaluation.md.")
    p.add_argument("samples", type=Path, help="ADM's .npz, a folder, zip or tar of images, .npy, a list of arrays, or our shards")
    p.add_argument("--reference", type=Path, help="ADM's reference .npz, a file of `reals reference`, or real images")
    p.add_argument("--n", type=int, default=50_000, help="how many samples, the first of the file (50000)")
    p.add_argument("--out", type=Path, help="JSON to write (<samples>.metrics.json)")
    p.add_argument("--kid", action="store_true", help="Kernel Inception Distance as well")
    p.add_argument("--bootstrap", type=int, default=0, metavar="B", help="95%% intervals from B resamples (0: none)")
    p.add_argument("--per-class", action="store_true", help="each class's share of the FID; needs labels or class folders")
    p.add_argument("--labels", type=Path, help=".npy of integer class labels, where the samples have none inside")
    p.add_argument("--features", type=Path, help=".npz to keep features in, and to read them from if it is there")
    add_shared(p)
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Cheap refusals first, then features, then metrics; writes the JSON and prints one line."""
    _check(options)

    from reals import files
    from reals.experiment.metric_table import CLIP_EXTRACTOR
    from reals.machine import memory
    from reals.measure.features import Clock, features_of, features_of_shard
    from reals.measure.metrics.generation import KID_SUBSETS, measured
    from reals.measure.metrics.kernel import subset_size
    from reals.measure.record import ADM_K, ADM_SPLIT, Counts, bootstrap, named, per_class, record, summary
    from reals.measure.references import any_reference, range_facts
    from reals.measure.sources.by_path import open_source

    shard = shard_of(options.shard)
    source = open_source(options.samples, options.value_range)
    n = enough(options.samples, len(source), options.n, "samples", "--n", options.allow_fewer)
    if n < 2:
        raise ValueError(f"{options.samples}: {n} image, at least 2 are needed for a covariance")
    if options.pr_reference and n <= ADM_K:
        raise ValueError(f"{options.samples}: {n} images, too few for precision and recall; add some, or --pr-reference 0")
    labels = _labels(options, source, n)
    place = options.samples.resolve()  # '.' has no name of its own
    out = options.out or place.with_name(place.name + ".metrics.json")
    refuse_unwritable("--out", out, options.samples, options.reference, options.labels, options.weights)
    refuse_suffix("--out", out, ".json")
    refuse_unwritable("--features", options.features)
    memory.keep_freed()
    extractor = make_network(options)
    facts = {"samples_sha256": source.sha256, "network": extractor.name, "network_sha256": extractor.sha256, "n": n}
    facts |= range_facts(options.value_range)
    if shard is not None:
        features_of_shard(source, extractor, n, options.batch, options.features, facts, shard)
        return
    reference, real = any_reference(
        options.reference, extractor, source.size, options.pr_reference, options.seed, options.batch, options.value_range,
        options.allow_fewer,
    )  # fmt: skip
    clock = Clock()
    samples = features_of(source, extractor, n, options.batch, options.features, facts, clock)
    pr = min(options.pr_reference, len(reference.features))
    kid_subset = subset_size(n, pr)
    found = measured(
        samples, reference, k=ADM_K, pr_reference=pr, split_size=ADM_SPLIT,
        kid_subsets=KID_SUBSETS if options.kid else 0, kid_subset_size=kid_subset, seed=options.seed,
        with_cmmd=extractor.name == CLIP_EXTRACTOR,
    )  # fmt: skip
    counts = Counts(n, options.n, pr, options.pr_reference, kid_subset)
    written = record(source, extractor, reference, real, found, counts, options.seed)
    written["samples"] |= range_facts(options.value_range)
    if options.bootstrap:
        spread = bootstrap(samples, reference, found, ADM_SPLIT, options.bootstrap, options.seed)
        written["intervals"] = {
            "what": f"95%, {options.bootstrap} resamples of the samples, centred at the measured value; "
            "reference and balls stay as they are",
            **named(spread, extractor.name),
        }
    if labels is not None:
        written["per_class"] = per_class(samples, labels, None if options.labels else source.classes, reference)
    if clock.total:
        written["extraction"] = clock.facts(n)
    files.write_json(out, written)
    print(f"{summary(written)}  -> {out}")


def _check(options: argparse.Namespace) -> None:
    check_shared(options)
    if options.reference is None and options.shard is None:
        raise ValueError("--reference: nothing to compare with; give ADM's .npz, a file of `reals reference`, or real images")
    if options.shard is not None and options.features is None:
        raise ValueError("--shard: needs --features FILE.npz, beside which its part is written")
    if options.features is not None and options.features.suffix != ".npz":
        raise ValueError(f"--features {options.features}: expected a name ending in .npz")
    if options.n < 2:
        raise ValueError(f"--n {options.n}: at least 2 images are needed for a covariance")
    if options.labels is not None and not options.per_class:
        raise ValueError("--labels: says the classes of --per-class; give both")
    if options.bootstrap < 0 or options.bootstrap == 1:
        raise ValueError(f"--bootstrap {options.bootstrap}: expected 0, or at least 2 (100 gives a fair idea)")
    if options.kid and options.pr_reference == 0:
        raise ValueError("--kid: compares with the reference images of --pr-reference, of which there are 0; raise it")
    if options.reference is not None and not options.reference.exists():
        raise ValueError(f"--reference {options.reference}: no such file or folder")


def _labels(options: argparse.Namespace, source: "Source", n: int) -> "np.ndarray | None":
    """int64 [n] where --per-class asks for them."""
    import numpy as np

    from reals.measure.sources.arrays import class_labels

    if not options.per_class:
        return None
    if options.labels is not None:
        if not options.labels.is_file():
            raise ValueError(f"--labels {options.labels}: no such file")
        try:
            given = np.lib.format.open_memmap(options.labels, mode="r")
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"--labels {options.labels}: not a whole .npy of numbers ({error})") from None
        labels = class_labels(given) if given.shape[:1] == (len(source),) else None
        if labels is None or labels.min() < 0:
            raise ValueError(
                f"--labels {options.labels}: {given.dtype} {given.shape}, expected {len(source)} integers from 0 up, one an image"
            )
        return labels[:n]
    if source.labels is None:
        raise ValueError(
            f"--per-class: {options.samples} has no labels; put images in class folders, add arr_1, or give --labels"
        )
    if source.labels.min() < 0:
        raise ValueError(f"--per-class: {options.samples} has labels below 0; give --labels")
    return source.labels[:n]
