"""Stage `reference`: the statistics of real images that generated ones are compared with."""

from collections.abc import Iterator

import numpy as np

from reals import files
from reals.arrays import save_npz
from reals.experiment.artefact import Artefact
from reals.experiment.specs import ReferenceSpec
from reals.machine.usage import work
from reals.measure.extractor import Features, extract
from reals.measure.features import BATCH, batches
from reals.measure.metrics.generation import streamed_reference
from reals.measure.references import adm_reference, merged_reference, reference_arrays, reference_rows
from reals.planning import pretrained
from reals.progress import Progress
from reals.stages.context import Context
from reals.stages.inputs import extractor_sha256, load_extractor


def run(context: Context, artefact: Artefact[ReferenceSpec]) -> None:
    """Writes reference.npz: mu, sigma, mu_s, sigma_s (ADM's keys), how many images, pool features for P/R and KID.

    The statistics are of all training images (as ADM's are), or of the chosen ones alone where the spec says so; the features
    those of some of them, which the spec's seed chooses; or everything comes from ADM's own .npz where the scale names one (and the
    features are those of its first images).
    """
    folder, seed = context.begin(artefact), artefact.spec.seed
    needed = artefact.needed("extractor")
    extractor = load_extractor(context, needed)
    config = context.scale.evaluation
    if seed is None:
        path = pretrained.reference(context.scale)
        assert path is not None  # as a spec without a seed says
        found = adm_reference(path, extractor, config.pr_reference, BATCH)
    else:
        images = context.images("train")
        chosen = reference_rows(len(images), config.pr_reference, seed)
        rows = chosen if artefact.spec.chosen else np.arange(len(images))
        progress = Progress(f"reference {artefact.name}", len(rows))
        with work():
            features = (extract(extractor, [batch]) for batch in batches(images, rows))
            kept = np.flatnonzero(np.isin(rows, chosen))
            found = merged_reference([streamed_reference(_counted(features, progress), kept)])
    arrays = reference_arrays(found)
    files.write_atomically(folder / "reference.npz", lambda p: save_npz(p, **arrays))
    facts = {"images": found.pool.n, "pr_reference": len(found.features)}
    files.seal(folder, ["reference.npz"], extractor_sha256=extractor_sha256(context, needed), **facts)


def _counted(batches: Iterator[Features], progress: Progress) -> Iterator[Features]:
    done = 0
    for features in batches:
        done += len(features)
        progress.update(done)
        yield features
