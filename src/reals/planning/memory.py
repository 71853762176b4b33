"""Will it fit? GPU memory of the trainings of an experiment, the smallest card that holds each, and the setting that makes it fit.

What a card must hold is counted from the real step (`reals.planning.footprint`), which takes seconds and torch, so it is kept in a
file; then comes what the count cannot see.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from reals import files
from reals.data.cache import BATCH
from reals.experiment.artefact import Artefact
from reals.experiment.registry import Registry
from reals.experiment.specs import RunSpec, SamplesSpec, TrainedAutoencoderSpec, VfSpec
from reals.experiment.stage_table import OF_KIND
from reals.planning.counts import counts
from reals.planning.networks import Networks

STORE = Path("results/planned_memory.json")
CARDS = (24, 32, 40, 48, 80, 96, 141, 192)
"""Classes of cards by their memory in GB, each taken to hold that many times 10^9 bytes; the driver shows a little more or less."""

# What PyTorch's own peak does not show, or a count of tensors cannot. Estimates, on the safe side.
CONTEXT = 0.8  # GB: the CUDA context and loaded kernels (0.4 to 0.6 on data centre cards), cuBLAS' workspaces (32 MiB each)
WORKSPACES = 0.5  # GB: of cuDNN's convolutions and of attention's backward pass, which come and go
NCCL = 0.5  # GB: buffers of its channels, where several GPUs work together
FRAGMENTATION = 0.05  # of the tensors: gaps that the caching allocator cannot use


@dataclass(frozen=True)
class Setting:
    """How a training shares a GPU's memory out in time; the names are those of `engine` in a scale file."""

    accumulate: int = 1
    checkpoint_blocks: bool = False

    def __str__(self) -> str:
        return f"accumulate {self.accumulate}" + (", checkpoint_blocks" if self.checkpoint_blocks else "")


def needed(peak: float, gpus: int) -> float:
    """GB that a card must hold for tensors of ``peak`` bytes at most, in a job of so many GPUs."""
    return peak / 1e9 * (1 + FRAGMENTATION) + CONTEXT + WORKSPACES + (NCCL if gpus > 1 else 0)


def card(gb: float) -> int | None:
    """The smallest class of cards that holds so much; None where none does."""
    return next((size for size in CARDS if size >= gb), None)


class Memory:
    """What the work of one experiment takes on each GPU; what was counted before is read from ``store``."""

    def __init__(self, registry: Registry, store: Path = STORE):
        self.registry, self.scale, self.store = registry, registry.experiment.scale, store
        self.networks = Networks(registry, counts(registry))

    @property
    def setting(self) -> Setting:
        """The scale's own."""
        return Setting(self.scale.engine.accumulate, self.scale.engine.checkpoint_blocks)

    def training(self, artefact: Artefact[Any], gpus: int, setting: Setting) -> float:
        """GB that each of so many GPUs must hold to train a run or an autoencoder in this way."""
        spec = artefact.spec
        largest = self.rows(artefact, gpus)
        if spec.kind == "autoencoder":
            sizes = _autoencoder_sizes(spec) | {"resolution": self.scale.data.resolution, "teacher": self._teacher(artefact),
                                                "held_out": self.scale.autoencoder.held_out_images}  # fmt: skip
            setting = Setting(min(setting.accumulate, largest))
        else:
            sizes = _run_sizes(spec) | {"classes": self.networks.counts.classes, "teacher": self._teacher(artefact)}
            setting = Setting(min(setting.accumulate, largest), setting.checkpoint_blocks or self.scale.engine.checkpoint_blocks)
        asked = {"kind": spec.kind, **sizes, "gpus": gpus, **asdict(setting)}

        def count() -> int:
            from reals.planning import footprint  # imports torch

            if spec.kind == "autoencoder":
                return footprint.autoencoder(self.registry, artefact, gpus, setting.accumulate)
            return footprint.transformer(self.registry, artefact, gpus, setting.accumulate, setting.checkpoint_blocks)

        return needed(self._known(asked, count), gpus)

    def rows(self, artefact: Artefact[Any], gpus: int) -> int:
        """The most shares that a training's batch can be cut into on so many GPUs; an autoencoder's are as many on each."""
        batch = artefact.spec.batch
        return max(1, batch // gpus if artefact.kind == "autoencoder" else -(-batch // gpus))

    def fitting(self, artefact: Artefact[Any], gpus: int, memory_gb: float) -> Setting | None:
        """The setting under which a training fits cards of so many GB: the scale's own where it does, else with a larger
        ``accumulate`` (the smallest power of two), else with ``checkpoint_blocks`` too (a run's alone). None where none does."""
        return next(self.settings(artefact, gpus, memory_gb), None)

    def settings(self, artefact: Artefact[Any], gpus: int, memory_gb: float) -> Iterator[Setting]:
        """Those under which a training fits cards of so many GB, the cheaper first: one as the scale has it, one with
        ``checkpoint_blocks``."""
        kept = self.setting.checkpoint_blocks
        for checkpointed in (kept, True) if artefact.kind == "run" and not kept else (kept,):
            found = self.smallest(artefact, gpus, memory_gb, checkpointed)
            if found is not None:
                yield found

    def smallest(self, artefact: Artefact[Any], gpus: int, memory_gb: float, checkpointed: bool) -> Setting | None:
        """The smallest power of two times the scale's ``accumulate`` that fits, by bisection: more shares never take more memory."""
        rows = self.rows(artefact, gpus)
        tried = [Setting(self.setting.accumulate, checkpointed)]
        while tried[-1].accumulate < rows:
            tried.append(Setting(min(2 * tried[-1].accumulate, rows), checkpointed))
        if self.training(artefact, gpus, tried[0]) <= memory_gb:
            return tried[0]
        low, high = 0, len(tried) - 1
        if self.training(artefact, gpus, tried[high]) > memory_gb:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.training(artefact, gpus, tried[middle]) <= memory_gb else (middle, high)
        return tried[high]

    def sampling(self, samples: Artefact[SamplesSpec], batch: int) -> float:
        """GB that drawing and decoding so many samples at once takes."""
        spec, run = samples.spec, samples.needed("run").spec
        asked = {"kind": "samples", **_run_sizes(run), **_vae_sizes(self.scale), "drawn": batch,
                 "guided": spec.cfg != 1, "precision": spec.precision}  # fmt: skip

        def count() -> int:
            from reals.planning import footprint

            return footprint.sampling(self.registry, samples, batch)

        return needed(self._known(asked, count), 1)

    def encoding(self) -> float:
        """GB that encoding a batch of images for the latents' cache takes."""
        latents = next(iter(self.registry.latents.values()))
        asked = {"kind": "latents", **_vae_sizes(self.scale), "batch": BATCH, "precision": latents.spec.compute}

        def count() -> int:
            from reals.planning import footprint

            return footprint.encoding(self.registry, latents, BATCH)

        return needed(self._known(asked, count), 1)

    def _teacher(self, artefact: Artefact[Any]) -> dict[str, Any] | None:
        teacher = artefact.teacher
        if teacher is None or (artefact.kind == "run" and artefact.spec.repa is None):
            return None
        sizes = {k: v for k, v in asdict(teacher.spec).items() if k in ("model", "grid", "width", "depth", "heads", "patch")}
        return sizes | {"cached": artefact.spec.features is not None}

    def _known(self, asked: dict[str, Any], count: Any) -> int:
        """Bytes that were counted for this before, else counts and keeps them."""
        key = json.dumps(asked, sort_keys=True, default=str)
        if key not in self._kept:
            self._kept[key] = count()
            with suppress(OSError):  # a folder that may not be written: the next plan counts again
                files.write_json(self.store, {"of": self._of, "bytes": self._kept})
        return self._kept[key]

    @cached_property
    def _of(self) -> str:
        """What the counts hold for: this torch, and the code that is followed."""
        digest = hashlib.sha256(version("torch").encode())
        for room in ("method", "planning", "training"):
            for path in sorted((Path(files.__file__).parent / room).rglob("*.py")):
                digest.update(path.read_bytes())
        return digest.hexdigest()[:16]

    @cached_property
    def _kept(self) -> dict[str, int]:
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):  # absent or damaged: counted again
            stored = json.loads(self.store.read_text())
            if stored["of"] == self._of:
                return {key: int(value) for key, value in stored["bytes"].items()}
        return {}

    def distinct(self) -> Iterator[tuple[str, list[Artefact[Any]]]]:
        """(what it is called, the artefacts that it stands for) of each training that differs in memory; the first stands for all.

        Transformers differ by family, size and teacher, autoencoders by whether VA-VAE's loss passes them once more. Of those the one
        whose step is the most work stands for all.
        """
        runs: dict[str, list[Artefact[Any]]] = {}
        for name, run in self.registry.runs.items():
            row = self.registry.experiment.runs[name]
            runs.setdefault(f"{'REPA, ' if row.repa else ''}{row.family}-{row.size}", []).append(run)
        autoencoders: dict[str, list[tuple[int, Artefact[Any]]]] = {}
        for artefact in self.registry.autoencoders.values():
            if isinstance(artefact.spec, TrainedAutoencoderSpec):
                work = self.networks.autoencoder_step_flops(artefact.spec, artefact.teacher)
                what = "autoencoder, VA-VAE's loss" if isinstance(artefact.spec.align, VfSpec) else "autoencoder"
                autoencoders.setdefault(what, []).append((work, artefact))
        for what, trained in autoencoders.items():
            yield what, [artefact for _, artefact in sorted(trained, key=lambda pair: -pair[0])]
        yield from runs.items()


def rows(memory: Memory, devices: int, memory_gb: float | None) -> Iterator[dict[str, Any]]:
    """For each training and for sampling and encoding, as plain numbers: what it takes on each GPU and which card holds it.

    ``devices`` bounds the GPUs that a job gets. With ``memory_gb``, the memory of the cards planned for, also whether it fits and the
    settings of `engine` that make it fit, the cheaper first.
    """
    scale, own = memory.scale, memory.setting
    for what, artefacts in memory.distinct():
        artefact, stage = artefacts[0], OF_KIND[artefacts[0].kind].command
        asked = scale.resources_of(stage)
        gpus = max(1, min(asked.gpu * asked.nodes, devices))
        gb = memory.training(artefact, gpus, own)
        fits = None if memory_gb is None else gb <= memory_gb
        remedies: list[Setting] = []
        if memory_gb is not None and not fits:
            remedies = list(memory.settings(artefact, gpus, memory_gb))
        spec = artefact.spec
        yield {
            "stage": stage, "what": what, "artefacts": [a.name for a in artefacts], "gpus": gpus, "batch": spec.batch,
            "of_each": -(-spec.batch // gpus), "precision": spec.precision or "fp32", **asdict(own), "gb": gb, "card": card(gb),
            "fits": fits, "remedies": [asdict(setting) for setting in remedies],
        }  # fmt: skip
    for stage, what, batch, gb in _inference(memory):
        yield {
            "stage": stage, "what": what, "artefacts": [], "gpus": 1, "batch": batch, "of_each": batch, "precision": "",
            "accumulate": 1, "checkpoint_blocks": False, "gb": gb, "card": card(gb),
            "fits": None if memory_gb is None else gb <= memory_gb, "remedies": [],
        }  # fmt: skip


def _inference(memory: Memory) -> Iterable[tuple[str, str, int, float]]:
    if memory.registry.samples:
        batch = memory.scale.sampling.batch
        largest = max(memory.registry.samples.values(), key=lambda s: (s.needed("run").spec.width, s.spec.cfg))
        yield "sample", f"drawing, {largest.name}", batch, memory.sampling(largest, batch)
    if memory.registry.latents:
        yield "latents", "encoding", BATCH, memory.encoding()


def _run_sizes(spec: RunSpec) -> dict[str, Any]:
    names = ("family", "patch", "width", "depth", "heads", "latent_channels", "latent_size", "learn_sigma", "batch", "precision")
    repa = spec.repa and {"repa_depth": spec.repa.depth, "repa_hidden": spec.repa.hidden}
    return {name: getattr(spec, name) for name in names} | (repa or {})


def _autoencoder_sizes(spec: TrainedAutoencoderSpec) -> dict[str, Any]:
    names = ("latent_channels", "block_out_channels", "layers_per_block", "batch", "precision", "gan_weight")
    align = spec.align and {name: getattr(spec.align, name, None) for name in ("patch", "cls", "layers", "hidden", "balance")}
    return {name: getattr(spec, name) for name in names} | {
        "align": align, "lpips": spec.lambda_p > 0 and spec.lpips.net, "gan": spec.lambda_g > 0 and asdict(spec.gan),
        "ema": spec.ema is not None,
    }  # fmt: skip


def _vae_sizes(scale: Any) -> dict[str, Any]:
    a = scale.autoencoder
    return {
        "resolution": scale.data.resolution,
        "channels": scale.latent.channels,
        "vae": [a.block_out_channels, a.layers_per_block],
    }
