"""The first minutes on a GPU: does all of it work, how fast is each kind of work, and how much memory does it take?

    python benchmarks/gpu_hour.py [--limit 480] [--out results/gpu_hour.json] [--rates] [--tiny]

Networks and settings are those of the scale imagenet256 at one device's share of its batch (32 of 256), with random weights and
stand-in data: no network and no files are needed. Items come in the order of what they tell; the file is written after each, so
that nothing is lost where `--limit` seconds are over or the job is stopped. What is left out is there with its reason. `--tiny`
does the same on any machine with the networks of the scale smoke, in under a minute. `--rates` prints the rows for
config/rates.yaml.

The plainest loop beside ours is diffusers' DiTTransformer2DModel under autocast with AdamW (fused for both) and an EMA by a loop
over parameters, on one batch that stays on the device. Sampling is timed over a few steps of the sampler; its 250 are as many more
of the same. Peak memory is torch's own; beside it stands what the plan counts.
"""

import argparse
import gc
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from reals import files
from reals.experiment.load import load
from reals.experiment.reading import read_yaml
from reals.experiment.registry import Registry
from reals.method.precision import allow_tf32, autocast
from reals.planning import bench, flops, footprint, rates
from reals.planning.cost import Costs
from reals.planning.selftest.checks import selftest
from reals.planning.supply import Supply
from reals.planning.timings import Timings

SHARE = 32  # images of one GPU in a transformer's step: 256 on eight
AUTOENCODER_SHARES = (8, 16)  # 64 images on eight GPUs and on four
EMA = 0.9999
CLOSING = 5.0  # seconds before the limit after which nothing new begins
GOALS = {"XL": 0.50, "B": 0.35, "sampling": 0.50}  # of 790 TFLOP/s, on an H200, in bf16
GOAL_PEAK = 790.0

Row = dict[str, Any]


class Cut(BaseException):
    """The limit is reached."""


@dataclass(frozen=True)
class Way:
    """How a step is computed."""

    precision: str
    compiled: bool
    deterministic: bool = False


OWN = Way("bf16", True, True)  # as the scale imagenet256 states it
WAYS = (Way("bf16", True), Way("bf16", False), Way("tf32", True), Way("tf32", False), Way("fp32", True), Way("fp32", False))


class Hour:
    """The items of one device, and what has been found."""

    def __init__(self, tiny: bool, seconds: float, folder: Path):
        self.tiny = tiny
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.experiment = load("smoke" if tiny else "imagenet256")
        self.bench = bench.Bench(self.device, None, seconds)
        self.peaks: dict[str, float] = {}
        self.planned: dict[tuple[str, str, int], Row] = {}
        self.supply = Supply(Registry(self.experiment), folder)
        self.key, self.stated = rates.slug(self.name), {}
        for key, row in read_yaml(Path("config/rates.yaml")).items():
            if self.name.startswith(row["device"].removesuffix(" SXM")):
                self.key, self.stated = (
                    key,
                    {precision: values["peak"] for precision, values in row.items() if precision != "device"},
                )

    @cached_property
    def name(self) -> str:
        return rates.this_device(torch.get_num_threads())

    def items(self) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
        """(name, what makes its rows), the most telling first."""
        ways = [way for way in WAYS if not (self.tiny and way.compiled)]  # compiling takes a CPU longer than all the rest
        own = replace(OWN, compiled=not self.tiny)
        yield "peak", self.peak
        yield "selftest", self.selftest
        for size in ("XL", "B"):
            yield f"transformer {size}, {_said(own)}", partial(self.transformer, size, own, reading=True)
        yield "sampling XL", partial(self.drawn, "sampling", ("bf16", "tf32"))
        for batch in AUTOENCODER_SHARES:
            yield f"autoencoder at {batch}, {_said(own)}", partial(self.autoencoder, batch, own, reading=True)
        yield "encoding", partial(self.drawn, "encoding", ("tf32", "bf16"))
        for way in ways[: 1 if self.tiny else 2]:
            yield f"diffusers XL, {_said(way)}", partial(self.plain, "XL", way)
        for way in ways:
            for size in ("XL", "B"):
                yield f"transformer {size}, {_said(way)}", partial(self.transformer, size, way)
        for way in ways[:2]:
            yield f"diffusers B, {_said(way)}", partial(self.plain, "B", way)
        for way in (replace(own, deterministic=False), replace(own, precision="tf32"), replace(own, precision="fp32")):
            batch = AUTOENCODER_SHARES[0]
            yield f"autoencoder at {batch}, {_said(way)}", partial(self.autoencoder, batch, way)
        yield "sampling XL, fp32", partial(self.drawn, "sampling", ("fp32",))
        yield "encoding, fp32", partial(self.drawn, "encoding", ("fp32",))

    def peak(self) -> list[Row]:
        for precision in ("bf16", "tf32", "fp32") if self.device.type == "cuda" else ("fp32",):
            self.peaks[precision] = bench.peak(self.bench, precision) / 1e12
        return [{"precision": p, "tflops": value, "data_sheet": self.stated.get(p)} for p, value in self.peaks.items()]

    def selftest(self) -> list[Row]:
        rows = []
        for result in selftest(quick=True):
            rows.append({"check": result.what, "mark": result.mark, "said": result.said, "seconds": result.seconds})
            if result.mark == "FAIL":
                print(result, flush=True)
        return rows

    def timings(self, way: Way, batch: int | None = None, reading: bool = False) -> Timings:
        """Those of the experiment in another way; its batches are the scale's share of one device unless given."""
        engine = self.experiment.scale.engine.model_copy(update={"compile": way.compiled, "deterministic": way.deterministic})
        scale = self.experiment.scale.model_copy(update={"engine": engine})
        registry = Registry(replace(self.experiment, scale=scale))
        batch = batch and (4 if self.tiny else batch)
        costs, peak = Costs(registry), self.peaks.get("fp32", 0.05) * 1e12
        return Timings(costs, self.bench, self.supply, peak, batch=batch, reading=reading)

    def run(self, timings: Timings, size: str) -> Any:
        runs = timings.costs.registry.experiment.runs
        return next(run for run in timings.runs() if runs[run.name].size == size and run.spec.repa is None)

    def transformer(self, size: str, way: Way, reading: bool = False) -> list[Row]:
        timings = self.timings(way, SHARE, reading)
        run = self.run(timings, size)
        self._fresh(way)
        timing = timings.transformer(run, f"transformer {size}", way.precision)
        return [self._row(timing, way) | self._planned(timings, run, timing)]

    def autoencoder(self, batch: int, way: Way, reading: bool = False) -> list[Row]:
        """With LPIPS, discriminator and teacher; their weights are random, on which speed and memory do not depend."""
        timings = self.timings(way, batch, reading)
        made = next(a for a in timings.costs.registry.autoencoders.values() if getattr(a.spec, "align", None) is not None)
        self._fresh(way)
        timing = timings.autoencoder(made, made.spec, "autoencoder", way.precision)
        return [self._row(timing, way) | self._planned(timings, made, timing)]

    def drawn(self, kind: str, precisions: tuple[str, ...]) -> list[Row]:
        """A few steps of the sampler in the scale's batch, noise and guidance included; or the encoder and the decoder."""
        rows = []
        for precision in precisions:
            way = Way(precision, compiled=kind == "sampling" and not self.tiny)
            timings = self.timings(way, reading=precision == precisions[0])
            self._fresh(way)
            if kind == "sampling":
                samples = timings.samples("XL")
                assert samples is not None
                rows.append(self._row(timings.sampling(samples, "sampling XL", precision), way))
            else:
                rows += [self._row(timings.encoding("encoding", precision), way)]
                rows += [self._row(timings.decoding("decoding", precision), way)]
        return rows

    def plain(self, size: str, way: Way) -> list[Row]:
        """diffusers' network at the same sizes, on one batch."""
        timings = self.timings(way)
        sizes, batch = self.run(timings, size).spec, 4 if self.tiny else SHARE
        self._fresh(way)
        step = plain_step(sizes, timings.costs.counts.classes, batch, way, self.device)
        seconds = self.bench.median(step, way.compiled)
        each = flops.TRAINED * flops.transformer_flops(timings.costs.networks.transformer(self.run(timings, size)))
        return [self._row(bench.Timing(f"diffusers {size}", way.precision, batch, each, seconds), way)]

    def _fresh(self, way: Way) -> None:
        """Nothing of the item before is left: settings of the whole process, compiled code, memory."""
        gc.collect()
        torch.use_deterministic_algorithms(False)
        torch.compiler.reset()
        allow_tf32(way.precision == "tf32")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def _row(self, timing: bench.Timing, way: Way) -> Row:
        memory = torch.cuda.max_memory_allocated() / 1e9 if self.device.type == "cuda" else None
        tflops, peak = timing.rate / 1e12, self.peaks.get(timing.precision)
        row = {"kind": timing.kind, "precision": timing.precision, "compiled": way.compiled, "deterministic": way.deterministic,
               "batch": timing.batch, **timing.record(), "tflops": tflops, "of_peak": peak and tflops / peak, "peak_gb": memory}  # fmt: skip
        return row | ({"warning": timing.warning} if timing.warning else {})

    def _planned(self, timings: Timings, artefact: Any, timing: bench.Timing) -> Row:
        """What the plan counts for the same step, where there is a GPU to compare with; seconds, so once for each precision."""
        if self.device.type != "cuda":
            return {}
        key = (timing.kind, timing.precision, timing.batch)
        if key not in self.planned:
            precision = None if timing.precision == "fp32" else timing.precision
            asked = replace(artefact, spec=replace(artefact.spec, batch=timing.batch, precision=precision))
            try:
                if artefact.kind == "autoencoder":
                    counted = footprint.autoencoder(timings.costs.registry, asked, 1, 1)
                else:
                    counted = footprint.transformer(timings.costs.registry, asked, 1, 1, False)
                self.planned[key] = {"planned_gb": counted / 1e9}
            except Exception as error:  # what was measured is worth having without it
                self.planned[key] = {"planned": f"not counted ({type(error).__name__}: {error})"}
        return self.planned[key]


def plain_step(sizes: Any, classes: int, batch: int, way: Way, device: torch.device) -> Callable[[], None]:
    """SiT's training as one writes it first."""
    from diffusers import DiTTransformer2DModel

    network: nn.Module = DiTTransformer2DModel(
        num_attention_heads=sizes.heads, attention_head_dim=sizes.width // sizes.heads, in_channels=sizes.latent_channels,
        out_channels=2 * sizes.latent_channels, num_layers=sizes.depth, sample_size=sizes.latent_size, patch_size=sizes.patch,
        num_embeds_ada_norm=classes,
    ).to(device)  # fmt: skip
    ema = deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
    if way.compiled:
        network.compile()
    x = torch.randn(batch, sizes.latent_channels, sizes.latent_size, sizes.latent_size, device=device)
    y = torch.arange(batch, device=device) % classes

    def step() -> None:
        noise, t = torch.randn_like(x), torch.rand(batch, device=device)
        s = t[:, None, None, None]
        with autocast(device, way.precision):
            out = network(s * x + (1 - s) * noise, timestep=t, class_labels=y).sample
        loss = F.mse_loss(out[:, : x.shape[1]].float(), x - noise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for e, p in zip(ema.parameters(), network.parameters(), strict=True):
                e.mul_(EMA).add_(p, alpha=1 - EMA)

    return step


def _said(way: Way) -> str:
    return f"{way.precision} {'compiled' if way.compiled else 'eager'}{' deterministic' if way.deterministic else ''}"


def measured(hour: Hour, limit: float, out: Path) -> dict[str, Any]:
    """Every item with its rows, or why it was left out; in the file after each."""
    began = time.monotonic()
    record: dict[str, Any] = {
        "device": hour.name, "date": datetime.now(UTC).strftime("%Y-%m-%d"), "tiny": hour.tiny, "limit": limit,
        "versions": {"torch": torch.__version__, "cuda": torch.version.cuda, "code": files.code_version()}, "items": {},
    }  # fmt: skip

    def over(number: int, frame: FrameType | None) -> None:
        raise Cut

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, limit, 1.0)  # again each second: one that comes up in a destructor is lost
    reason = f"the limit of {limit:.0f} s was reached"
    try:
        for name, make in hour.items():
            started, item = time.monotonic(), record["items"].setdefault(name, {})
            if started - began > limit - CLOSING:
                item["skipped"] = reason
                continue
            try:
                item["rows"] = make()
            except Cut:
                signal.setitimer(signal.ITIMER_REAL, 0)
                item["skipped"] = reason
            except Exception as error:  # the others are worth having
                item["skipped"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            item["seconds"] = round(time.monotonic() - started, 1)
            files.write_json(out, record)
            print(*told(name, item), sep="\n", flush=True)
    except Cut:  # between two items
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    files.write_json(out, record)
    return record


def told(name: str, item: Row) -> Iterator[str]:
    """An item as lines of the table."""
    if "skipped" in item:
        yield f"{name}: skipped ({item['skipped']})"
        return
    rows = item["rows"]
    if name == "selftest":
        marks = [row["mark"] for row in rows]
        yield f"selftest: {marks.count('ok')} ok, {marks.count('FAIL')} failed, {marks.count('skip')} skipped ({item['seconds']} s)"
    elif name == "peak":
        for row in rows:
            sheet = f", {row['data_sheet']} by the data sheet" if row["data_sheet"] else ""
            yield f"{'peak of products':<18} {row['precision']:<4} {row['tflops']:8.3g} TFLOP/s{sheet}"
    else:
        for row in rows:
            yield told_row(row)


def told_row(row: Row) -> str:
    way = f"{'compiled' if row['compiled'] else 'eager'}{', deterministic' if row['deterministic'] else ''}"
    share = f" ({row['of_peak']:.0%} of the peak)" if row["of_peak"] else ""
    line = f"{row['kind']:<18} {row['precision']:<4} {way:<23} at {row['batch']:>3}: {row['seconds']:8.3g} s, {row['tflops']:8.3g} TFLOP/s{share}"
    if row["peak_gb"] is not None:
        line += f", {row['peak_gb']:.1f} GB" + (f" ({row['planned_gb']:.1f} planned)" if "planned_gb" in row else "")
    if "waiting" in row:
        line += f", {row['waiting']:.0%} waiting for data"
    if "noise_seconds" in row:
        line += f", noise {row['noise_seconds'] / row['seconds']:.0%} of it beside"
    return line + (f"\n  {row['warning']}" if "warning" in row else "")


def rows_of(record: dict[str, Any]) -> list[Row]:
    return [row for item in record["items"].values() for row in item.get("rows", []) if "kind" in row]


def goals(record: dict[str, Any]) -> Iterator[str]:
    """Each goal beside the best that was found in bf16; goals are an H200's."""
    for what, share in GOALS.items():
        kind = "sampling XL" if what == "sampling" else f"transformer {what}"
        found = [row["tflops"] for row in rows_of(record) if row["kind"] == kind and row["precision"] == "bf16"]
        if found:
            reached = max(found) / GOAL_PEAK
            yield f"{kind}: {reached:.0%} of {GOAL_PEAK:.0f} TFLOP/s, goal {share:.0%}: {'reached' if reached >= share else 'missed'}"


def rates_block(record: dict[str, Any], key: str, stated: dict[str, float]) -> str:
    """The device's rows for config/rates.yaml: the best of each kind; only precisions in which every kind was found."""
    peaks = {row["precision"]: row["tflops"] for row in record["items"].get("peak", {}).get("rows", [])} | stated
    lines = [f"{key}:", f"  device: {record['device']}",
             f"  # measured {record['date']} by benchmarks/gpu_hour.py, torch {record['versions']['torch']}, code {record['versions']['code']}"]  # fmt: skip
    for precision in ("fp32", "tf32", "bf16"):
        best: dict[str, float] = {}
        for row in rows_of(record):
            kind = row["kind"].removesuffix(" XL")
            if row["precision"] == precision and kind in rates.KINDS:
                best[kind] = max(best.get(kind, 0.0), row["tflops"])
        if precision in peaks:
            best["peak"] = peaks[precision]
        if missing := [kind for kind in (*rates.KINDS, "peak") if kind not in best]:
            lines.append(f"  # {precision}: no rate of {', '.join(missing)}")
            continue
        values = ", ".join(f"{kind}: {best[kind]:.4g}" for kind in (*rates.KINDS, "peak"))
        lines.append(f"  {precision}: {{{values}}}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=480.0, help="seconds after which nothing goes on (480)")
    parser.add_argument("--out", type=Path, default=Path("results/gpu_hour.json"))
    parser.add_argument("--seconds", type=float, default=1.0, help="of measuring, per network and way (1)")
    parser.add_argument("--tiny", action="store_true", help="the smallest networks, on any machine")
    parser.add_argument("--rates", action="store_true", help="print the rows for config/rates.yaml")
    options = parser.parse_args(arguments)
    if not options.tiny and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU here; `reals check` says why. --tiny tries the script on the CPU")
    with tempfile.TemporaryDirectory(prefix="reals-gpu-hour-") as folder:
        hour = Hour(options.tiny, 0.001 if options.tiny else options.seconds, Path(folder))
        print(f"{hour.name}, PyTorch {torch.__version__}", flush=True)
        record = measured(hour, options.limit, options.out)
    if not options.tiny:
        print(*goals(record), sep="\n")
    if options.rates:
        print(rates_block(record, hour.key, hour.stated))
    print(options.out)


if __name__ == "__main__":
    main()
