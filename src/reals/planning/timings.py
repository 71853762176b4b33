"""Every kind of an experiment's work, timed as its stage does it: training, sampling, encoding, decoding and the teacher."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from reals.data.cache import BATCH
from reals.experiment.artefact import Artefact
from reals.experiment.engine import Resources
from reals.experiment.specs import AutoencoderSpec, RunSpec, SamplesSpec, TrainedAutoencoderSpec
from reals.machine.cores import THREADS, cores
from reals.method import samplers
from reals.method.models import autoencoder
from reals.method.precision import running
from reals.method.sampling import decode, draw
from reals.planning import flops
from reals.planning.bench import MOST_STEPS, STEP_SECONDS, Bench, Feeding, Timing
from reals.planning.cost import Costs
from reals.planning.network_calls import network_calls
from reals.planning.supply import Supply
from reals.planning.workload import Workload
from reals.training.batches import Ahead
from reals.training.processes import Processes
from reals.training.tasks.autoencoder import AutoencoderTask
from reals.training.tasks.transformer import TransformerTask

QUICK_PARAMETERS = 2e8  # of the largest transformer that --quick measures
SAMPLING_STEPS = 4  # of the sampler, in place of hundreds of the same

Trained = TransformerTask | AutoencoderTask
Batch = TypeVar("Batch")


class Ready(Ahead[Batch]):
    """In place of a task's batches: two of them, made before, again and again."""

    def __init__(self, make: Callable[[int], Batch], first: int):
        super().__init__(make)
        self.held = [make(first), make(first + 1)]

    def __call__(self, step: int) -> Batch:
        return self.held[step % 2]


@dataclass(frozen=True)
class Timings:
    """Times the work of an experiment, one network in memory at a time.

    ``precisions`` in place of the scale's own; ``peaks`` is FLOP/s of matrix products, by which a CPU's batches are cut;
    ``quick`` leaves out the largest transformers. ``batch`` is that of every step, in place of one device's share of the scale's;
    without ``reading`` no step reads its own data.
    """

    costs: Costs
    bench: Bench
    supply: Supply
    peak: float
    precisions: tuple[str, ...] = ()
    quick: bool = False
    batch: int | None = None
    reading: bool = True

    def __iter__(self) -> Iterator[Timing | str]:
        """Each kind of work as it is timed; a line in place of one that does not fit in the device's memory."""
        for kind, precision, time_it in self._all():
            torch.use_deterministic_algorithms(False)  # trainings ask for them, and are the only ones
            try:
                yield time_it(kind, precision)
            except torch.OutOfMemoryError:
                yield f"{kind} {precision}: out of memory at the batch of one device"
            if self.bench.device.type == "cuda":
                torch.cuda.empty_cache()

    def _all(self) -> Iterator[tuple[str, str, Callable[[str, str], Timing]]]:
        registry = self.costs.registry
        for run in self.runs():
            size, repa = registry.experiment.runs[run.name].size, run.spec.repa is not None
            for precision in self._precisions(run.spec.precision):
                yield f"{'repa' if repa else 'transformer'} {size}", precision, partial(self.transformer, run)
            drawn = None if repa else self.samples(size)
            if drawn is not None:
                for precision in self._precisions(drawn.spec.precision):
                    yield f"sampling {size}", precision, partial(self.sampling, drawn)
        trained = {a.spec: a for a in registry.autoencoders.values() if isinstance(a.spec, TrainedAutoencoderSpec)}
        for spec in sorted(trained, key=lambda spec: spec.align is None)[:1]:
            for precision in self._precisions(spec.precision):
                yield "autoencoder", precision, partial(self.autoencoder, trained[spec], spec)
        for precision in self._precisions(self.costs.scale.encoding.precision):
            yield "encoding", precision, self.encoding
            yield "sampling teacher", precision, self.teacher
        for precision in self._precisions(self.costs.scale.sampling.precision):
            yield "decoding", precision, self.decoding

    def _precisions(self, own: str | None) -> tuple[str, ...]:
        return self.precisions or (own or "fp32",)

    def runs(self) -> list[Artefact[RunSpec]]:
        """The first of each size, with and without REPA."""
        registry = self.costs.registry
        found: dict[tuple[str, bool], Artefact[RunSpec]] = {}
        for row in registry.experiment.runs.values():
            run = registry.runs[row.name]
            parameters = flops.transformer_parameters(self.costs.networks.transformer(run), self.costs.counts.classes)
            if not (self.quick and parameters > QUICK_PARAMETERS):
                found.setdefault((row.size, row.repa), run)
        return list(found.values())

    def samples(self, size: str) -> Artefact[SamplesSpec] | None:
        """Some of a transformer of that size, best without guidance, by a sampler whose steps are counted."""
        runs = self.costs.registry.experiment.runs
        drawn = [s for s in self.costs.registry.samples.values() if runs[s.needed("run").name].size == size and s.spec.steps]
        return min(drawn, key=lambda s: s.spec.cfg != 1, default=None)

    def _batch(self, batch: int, each: float, rule: str | None = None) -> int:
        """The batch of one device; on a CPU no more than should take two seconds a step at a third of the peak."""
        if self.batch is not None:
            return self.batch
        if self.bench.device.type == "cuda":
            return max(1, batch // self._devices(rule)[0])
        return max(1, min(batch, int(STEP_SECONDS * self.peak / 3 / each)))

    def _devices(self, rule: str | None) -> tuple[int, int]:
        """(GPUs of a job, CPU cores of each of its processes)."""
        asked = self.costs.scale.resources_of(rule) if rule else Resources()
        return max(1, asked.gpu * asked.nodes), max(1, asked.threads // max(1, asked.gpu))

    def _workload(self, precision: str, batch: int, sources_of: Artefact[RunSpec] | Artefact[AutoencoderSpec]) -> Workload:
        engine = self.costs.scale.engine
        processes = Processes(precision, min(engine.accumulate, batch), engine.compile, engine.deterministic)
        return Workload(self.costs.registry, processes, self.supply.sources(sources_of))

    def transformer(self, run: Artefact[RunSpec], kind: str, precision: str) -> Timing:
        sizes, teacher = self.costs.networks.transformer(run), run.teacher
        each = flops.TRAINED * flops.transformer_flops(sizes)
        if teacher is not None and run.spec.teacher is not None:  # itself, and not its cache
            each += flops.FROZEN * self.costs.networks.teacher_flops(teacher, sizes.latent_size // sizes.patch)
        batch = self._batch(run.spec.batch, each, "transformer")
        with _cores(self._devices("transformer")[1]):
            task = self._workload(precision, batch, run).transformer(run, batch)
            return self._training(task, kind, precision, batch, each, first=0)

    def autoencoder(self, artefact: Artefact[AutoencoderSpec], spec: TrainedAutoencoderSpec, kind: str, precision: str) -> Timing:
        each = self.costs.networks.autoencoder_step_flops(spec, artefact.teacher)
        batch = self._batch(spec.batch, each, "autoencoder")
        with _cores(self._devices("autoencoder")[1]):
            task = self._workload(precision, batch, artefact).autoencoder(artefact, batch)
            first = spec.gan.start + spec.gan.ramp if spec.gan.start < spec.steps else 0  # with the discriminator, if it ever is
            return self._training(task, kind, precision, batch, each, first)

    def _training(self, task: Trained, kind: str, precision: str, batch: int, each: float, first: int) -> Timing:
        """The task's own steps from ``first`` on: with two batches again and again, then with those it reads."""
        make, steps = task.batches.make, count(first)
        task.batches = Ready(make, first)  # type: ignore[assignment] # of the task's own kind of batch
        seconds = self.bench.median(lambda: task.update(next(steps)), task.processes.compiled)
        if not self.reading:
            return Timing(kind, precision, batch, each, seconds)
        reading: Ahead = Ahead(make)
        task.batches = reading
        task.update(next(steps))
        self.bench.wait()
        began, waited = time.perf_counter(), reading.waited
        number = max(2 * reading.threads, min(MOST_STEPS, round(self.bench.seconds / seconds)))
        for _ in range(number):
            task.update(next(steps))
        self.bench.wait()
        elapsed = time.perf_counter() - began
        reading.close()
        fed = Feeding(elapsed / number, (reading.waited - waited) / elapsed, batch * self._loaded(make, first), cores())
        return Timing(kind, precision, batch, each, seconds, fed)

    def _loaded(self, make: Callable[[int], object], first: int) -> float:
        """Batches a second that the loader makes while nobody else works."""
        alone, made = Ahead(make), 0
        alone(first)
        began = time.perf_counter()
        while made < 2 * alone.threads or (made < MOST_STEPS and time.perf_counter() - began < self.bench.seconds):
            made += 1
            alone(first + made)
        rate = made / (time.perf_counter() - began)
        alone.close()
        return rate

    @torch.no_grad()
    def sampling(self, samples: Artefact[SamplesSpec], kind: str, precision: str) -> Timing:
        spec = replace(samples.spec, steps=SAMPLING_STEPS)
        calls, device = network_calls(spec), self.bench.device
        each = flops.without_projector(self.costs.networks.transformer(samples.needed("run")))
        batch = self._batch(self.costs.scale.sampling.batch, each * calls)
        work = Workload(self.costs.registry, Processes("fp32", 1, self.costs.scale.engine.compile))
        network, sampling = work.drawing(replace(samples, spec=spec), precision)
        config, indices = network.config, list(range(batch))
        y = torch.arange(batch, device=device) % config.classes
        step = partial(draw, network, sampling, 0, y, indices, device)
        seconds = self.bench.median(step, work.processes.compiled)
        shape = (config.latent_channels, config.latent_size, config.latent_size)
        noise = self.bench.median(partial(samplers.start_noise, 0, indices, shape, "sample noise", device))
        evaluations = sampling.evaluations or SAMPLING_STEPS
        return Timing(kind, precision, batch, each * calls / evaluations, seconds / evaluations, noise=noise)

    @torch.no_grad()
    def decoding(self, kind: str, precision: str) -> Timing:
        each, scale = flops.vae_decoder_flops(self.costs.networks.vae), self.costs.scale
        batch = self._batch(scale.sampling.batch, each)
        vae = Workload(self.costs.registry, Processes()).frozen_vae()
        z = torch.randn(batch, scale.latent.channels, scale.latent_size, scale.latent_size, device=self.bench.device)
        seconds = self.bench.median(lambda: decode(vae, z, list(range(batch)), kind, precision).cpu())
        return Timing(kind, precision, batch, each, seconds)

    @torch.no_grad()
    def encoding(self, kind: str, precision: str) -> Timing:
        """Both flips of each image, as stage `latents` encodes."""
        each = 2 * flops.vae_encoder_flops(self.costs.networks.vae)
        batch = self._batch(BATCH, each)
        vae, images = Workload(self.costs.registry, Processes()).frozen_vae(), self.supply.images("train")

        def encode(pixels: np.ndarray) -> Tensor:
            x = autoencoder.to_input(torch.from_numpy(pixels).to(self.bench.device)).contiguous(memory_format=torch.channels_last)
            with running(self.bench.device, precision):
                rows = [torch.cat(autoencoder.moments(vae, view), dim=1) for view in (x, x.flip(-1))]
            return torch.stack([row.half() for row in rows], dim=1).cpu()

        held = images.batch(np.arange(batch) % len(images))
        seconds = self.bench.median(lambda: encode(held))
        return Timing(kind, precision, batch, each, seconds, self._read(encode, batch, seconds) if self.reading else None)

    def _read(self, work: Callable[[np.ndarray], object], batch: int, seconds: float) -> Feeding:
        """Work on batches of images that are read ahead, as the stages that pass over all images do."""
        number = max(3, min(MOST_STEPS, round(self.bench.seconds / seconds)))
        with _cores(self._devices("latents")[1]):
            images = self.supply.images("train")
            found = (np.arange(k * batch, (k + 1) * batch) % len(images) for k in range(number + 1))
            reading, waited = images.ahead(found), 0.0
            next(reading)
            began = time.perf_counter()
            for _ in range(number):
                asked = time.perf_counter()
                _, pixels = next(reading)
                waited += time.perf_counter() - asked
                work(pixels)
            elapsed = time.perf_counter() - began
            alone = time.perf_counter()
            for k in range(number):
                images.batch(np.arange(k * batch, (k + 1) * batch) % len(images))
            return Feeding(elapsed / number, waited / elapsed, batch * number / (time.perf_counter() - alone), cores())

    @torch.no_grad()
    def teacher(self, kind: str, precision: str) -> Timing:
        """The larger teacher; the plan takes its rate for both."""
        scale, artefact = self.costs.scale, self.costs.registry.teachers["large"]
        each = self.costs.networks.teacher_flops(artefact, scale.teacher_grid)
        batch = self._batch(scale.autoencoder.batch, each, "autoencoder")
        teacher = Workload(self.costs.registry, Processes()).teacher(artefact)
        side = scale.teacher_grid * teacher.config.patch
        pixels = torch.rand(batch, 3, side, side, device=self.bench.device)

        def features() -> object:
            with running(self.bench.device, precision):
                return teacher.features(pixels)

        return Timing(kind, precision, batch, each, self.bench.median(features))


@contextmanager
def _cores(number: int) -> Iterator[None]:
    """As a process of a job that is given so many CPU cores, at most what there is."""
    before = os.environ.get(THREADS)
    os.environ[THREADS] = str(min(number, cores()))
    try:
        yield
    finally:
        if before is None:
            del os.environ[THREADS]
        else:
            os.environ[THREADS] = before
