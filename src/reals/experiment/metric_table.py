"""The metrics that tables can show, one line of facts each; everything that is a matter of a metric's name is looked up here.

To add a metric, write its value into a metrics file (`measure` or a stage) and its `Metric` here.
"""

from dataclasses import dataclass
from typing import Literal

ADM_EXTRACTOR = "inception-v3-compat"
"""The extractor of ADM's evaluator: metrics on its features bear their plain names, as in the literature."""

DINOV2_EXTRACTOR, CLIP_EXTRACTOR = "dinov2-vit-l-14-pil", "clip-vit-l-14-336"
"""The extractors that FD-DINOv2 and CMMD are defined on, by their names here."""

Source = Literal["evaluation", "autoencoder", "settings"]
"""What the rows of a table name: an evaluation's samples, an autoencoder, or a group of settings."""

SETTINGS_ROWS = ("autoencoder", "transformer")
"""The groups of settings that a row may name."""


@dataclass(frozen=True)
class Metric:
    """How a metric is printed, and what measures it."""

    printed: str
    source: Source
    better: Literal["lower", "higher"] | None = None  # None: a setting, a cost, or the width of an interval
    decimals: int = 2  # as the paper prints it
    distance: bool = False  # shown with at least three significant digits below 1: distances are small on small images
    of_extractor: bool = False  # on the features of the scale's extractor, which is named beside it unless it is ADM's
    counted: bool = False  # from the networks' sizes, by the plan; in no metrics file
    judge: str | None = None  # the scale's key of the further extractor whose features it is on; None: not such a metric
    network: str | None = None  # of that metric: the extractor that its name stands for in the literature

    @property
    def arrow(self) -> str:
        """An arrow towards better; "" where there is none."""
        return {"lower": "↓", "higher": "↑", None: ""}[self.better]


def _fidelity(printed: str, source: Source = "evaluation") -> Metric:
    return Metric(printed, source, "lower", distance=True, of_extractor=True)


METRICS: dict[str, Metric] = {
    "fid": _fidelity("FID"),
    "fid_interval": Metric("FID ±", "evaluation", distance=True, of_extractor=True),
    "fid_second": Metric("FID (second extractor)", "evaluation", "lower", judge="second"),
    "fd_dinov2": Metric("FD-DINOv2", "evaluation", "lower", distance=True, judge="fd_dinov2", network=DINOV2_EXTRACTOR),
    "cmmd": Metric("CMMD", "evaluation", "lower", decimals=3, judge="cmmd", network=CLIP_EXTRACTOR),
    "sfid": _fidelity("sFID"),
    "is": Metric("IS", "evaluation", "higher", of_extractor=True),
    "precision": Metric("Precision", "evaluation", "higher", of_extractor=True),
    "recall": Metric("Recall", "evaluation", "higher", of_extractor=True),
    "kid": _fidelity("KID"),
    "rfid": _fidelity("rFID", "autoencoder"),
    "psnr": Metric("PSNR (dB)", "autoencoder", "higher"),
    "ssim_paper": Metric("SSIM", "autoencoder", "higher", decimals=3),
    "ssim": Metric("SSIM (standard)", "autoencoder", "higher", decimals=3),
    "lpips": Metric("LPIPS", "autoencoder", "lower", decimals=3),
    "sc_crop": Metric("Crop", "autoencoder", "higher"),
    "sc_flip": Metric("Flip", "autoencoder", "higher"),
    "sc_blur": Metric("Gaussian blur", "autoencoder", "higher"),
    "sc_grayscale": Metric("Grayscale", "autoencoder", "higher"),
    "sc_all": Metric("All", "autoencoder", "higher"),
    "sc_centred_all": Metric("All, centred", "autoencoder", "higher"),
    "knn": Metric("k-NN", "autoencoder", "higher", decimals=3),
    "fine_tuning": Metric("Fine-tuning (TFLOP)", "autoencoder", decimals=1, distance=True, counted=True),
    "optimizer": Metric("Optimizer", "settings"),
    "lr": Metric("Learning rate", "settings"),
    "schedule": Metric("Schedule", "settings"),
    "min_lr": Metric("Final learning rate", "settings"),
    "batch": Metric("Batch size", "settings"),
    "epochs": Metric("Epochs", "settings"),
}
"""Name in metrics files and tables.yaml -> the metric."""

JUDGES = {name: metric.judge for name, metric in METRICS.items() if metric.judge is not None}
"""The metrics on further extractors' features -> their keys in `evaluation` of a scale."""

OF_EXTRACTOR = tuple(name for name, metric in METRICS.items() if metric.of_extractor)


def metrics_of(source: Source) -> tuple[str, ...]:
    """The metrics that a table of this source can show."""
    return tuple(name for name, metric in METRICS.items() if metric.source == source)


def metric_name(metric: str, extractor: str) -> str:
    """How a metric on an extractor's features is printed: "FID" with ADM's extractor, else with its name, "FID (digits-cnn)"."""
    if metric not in OF_EXTRACTOR:
        raise ValueError(f"metric: got {metric!r}, expected one of {', '.join(OF_EXTRACTOR)}")
    if metric == "fid" and extractor == DINOV2_EXTRACTOR:
        return METRICS["fd_dinov2"].printed
    return named(METRICS[metric].printed, extractor, ADM_EXTRACTOR)


def named(printed: str, extractor: str, usual: str) -> str:
    """A metric's name: plain on the features of the extractor that it stands for in the literature, else with the extractor's."""
    return printed if extractor == usual else f"{printed} ({extractor})"
