"""Numbers about images: feature extractors, ADM's metrics and the paper's, references, and the record of a measurement.

What ``__all__`` names is for other people's code, and stays (docs/library.md).
"""

from typing import TYPE_CHECKING

from reals import lazy

if TYPE_CHECKING:
    from reals.measure.extractor import Extractor, Features, extract
    from reals.measure.extractors.by_kind import make_extractor
    from reals.measure.extractors.inception import inception
    from reals.measure.metrics.frechet import Moments, Statistics, frechet_distance, read_adm_statistics
    from reals.measure.metrics.generation import Reference, generation_metrics, reference_of
    from reals.measure.metrics.inception_score import inception_score
    from reals.measure.metrics.kernel import kernel_distance
    from reals.measure.metrics.manifold import precision_recall
    from reals.measure.metrics.reconstruction import psnr, ssim
    from reals.measure.metrics.semantics import ViewSettings, knn_accuracy, semantic_consistency
    from reals.measure.references import adm_reference
    from reals.measure.source import Source
    from reals.measure.sources.by_path import open_source
else:
    __getattr__, __dir__ = lazy.imports_of(__name__, __file__)

__all__ = [
    "Extractor",
    "Features",
    "Moments",
    "Reference",
    "Source",
    "Statistics",
    "ViewSettings",
    "adm_reference",
    "extract",
    "frechet_distance",
    "generation_metrics",
    "inception",
    "inception_score",
    "kernel_distance",
    "knn_accuracy",
    "make_extractor",
    "open_source",
    "precision_recall",
    "psnr",
    "read_adm_statistics",
    "reference_of",
    "semantic_consistency",
    "ssim",
]
