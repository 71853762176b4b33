"""How long FID + sFID + precision/recall take, ours beside torch-fidelity and a plain numpy version of ADM's evaluator.

    python benchmarks/bench_metrics.py                               # 50,000 x 2,048 against 10,000; some ten minutes
    python benchmarks/bench_metrics.py --samples 8000 --reference 4000

Seconds are wall (CPU); on a machine shared with other work, with one thread, CPU is the fairer. Every implementation runs in a process of its own on the same features (non-negative, low-rank plus noise, like pool
features), so that its peak memory is its own; making the features is not timed. The last lines are feature extraction
with Inception (random weights: the same arithmetic): the share of time outside the network.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

POOL, SPATIAL, RANK = 2048, 2023, 120
CONTENDERS = ("ours", "torch-fidelity", "numpy")


def features(n: int, width: int, seed: int, shift: float) -> torch.Tensor:
    basis = torch.randn(RANK, width, generator=torch.Generator().manual_seed(1000 + width)) / RANK**0.5
    draw = torch.Generator().manual_seed(seed)
    out = torch.empty(n, width)
    for rows in out.split(4096):
        z = torch.randn(len(rows), RANK, generator=draw) * torch.linspace(2, 0.1, RANK)
        rows.copy_((0.4 + shift + 0.5 * z @ basis + 0.15 * torch.randn(len(rows), width, generator=draw)).relu())
    return out


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def since(began: tuple[float, float]) -> tuple[float, float]:
    """(seconds of wall time, seconds of CPU time)."""
    return time.perf_counter() - began[0], time.process_time() - began[1]


def ours(real, fake, real_s, fake_s) -> dict[str, float]:
    from reals.measure.metrics.frechet import Moments, frechet_distance
    from reals.measure.metrics.manifold import precision_recall

    times, values = {}, {}
    for name, a, b in (("fid", real, fake), ("sfid", real_s, fake_s)):
        began = clocks()
        (mu1, sigma1, _), (mu2, sigma2, _) = (Moments.of(x).finalize() for x in (a, b))
        values[name] = frechet_distance(mu1, sigma1, mu2, sigma2)
        times[name] = since(began)
    began = clocks()
    values["precision"], values["recall"] = precision_recall(real, fake)
    times["precision/recall"] = since(began)
    return {"times": times, "values": values}


def torch_fidelity(real, fake, real_s, fake_s) -> dict[str, float]:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_prc import calculate_precision_recall_part

    times, values = {}, {}
    for name, a, b in (("fid", real, fake), ("sfid", real_s, fake_s)):
        began = clocks()
        statistics = [fid_features_to_statistics(x) for x in (a, b)]
        for s in statistics:
            s["mu"] = s["mu"].astype(np.float64)
        values[name] = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
        times[name] = since(began)
    began = clocks()
    values["precision"], values["recall"] = calculate_precision_recall_part(fake, real)
    times["precision/recall"] = since(began)
    return {"times": times, "values": values}


def plain_numpy(real, fake, real_s, fake_s) -> dict[str, float]:
    """ADM's definitions as they are usually rewritten: np.cov, scipy's sqrtm, float32 distances in 10,000 x 10,000 blocks."""
    from scipy.linalg import sqrtm

    real, fake, real_s, fake_s = (x.numpy() for x in (real, fake, real_s, fake_s))
    times, values = {}, {}
    for name, a, b in (("fid", real, fake), ("sfid", real_s, fake_s)):
        began = clocks()
        (mu1, sigma1), (mu2, sigma2) = ((x.mean(axis=0), np.cov(x, rowvar=False)) for x in (a, b))
        root = np.trace(sqrtm(sigma1 @ sigma2)).real
        values[name] = float(((mu1 - mu2) ** 2).sum() + np.trace(sigma1) + np.trace(sigma2) - 2 * root)
        times[name] = since(began)

    def distances(a, b):
        squared = (a**2).sum(axis=1)[:, None] - 2 * (a @ b.T) + (b**2).sum(axis=1)
        return np.maximum(squared, 0)

    def radii(x, block=10_000):
        found = []
        for i in range(0, len(x), block):
            rows = np.empty((len(x[i : i + block]), len(x)), np.float32)
            for j in range(0, len(x), block):
                rows[:, j : j + block] = distances(x[i : i + block], x[j : j + block])
            found.append(np.partition(rows, np.arange(4), axis=1)[:, 3])
        return np.concatenate(found)

    began = clocks()
    real_radii, fake_radii = radii(real), radii(fake)
    real_in, fake_in = np.zeros(len(real), bool), np.zeros(len(fake), bool)
    for j in range(0, len(fake), 10_000):
        d = distances(real, fake[j : j + 10_000])
        real_in |= (d <= fake_radii[j : j + 10_000]).any(axis=1)
        fake_in[j : j + 10_000] = (d <= real_radii[:, None]).any(axis=0)
    values["precision"], values["recall"] = float(fake_in.mean()), float(real_in.mean())
    times["precision/recall"] = since(began)
    return {"times": times, "values": values}


def child(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    sets = (
        features(options.reference, POOL, 0, 0.0), features(options.samples, POOL, 1, 0.02),
        features(options.reference, SPATIAL, 2, 0.0), features(options.samples, SPATIAL, 3, 0.02),
    )  # fmt: skip
    run = {"ours": ours, "torch-fidelity": torch_fidelity, "numpy": plain_numpy}[options.only]
    result = run(*sets)
    print(json.dumps(result | {"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))


def extraction(threads: int, n: int, size: int = 256) -> None:
    from PIL import Image
    from torch_fidelity import feature_extractor_inceptionv3 as published

    from reals.measure.extractors.inception import inception
    from reals.measure.features import Clock, feature_batches
    from reals.measure.sources.by_path import open_source

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        # The published class builds its layers only together with loading: an idle load gives their names.
        load, published.load_state_dict_from_url = published.load_state_dict_from_url, lambda *a, **k: {}
        strict, published.FeatureExtractorInceptionV3.load_state_dict = (
            published.FeatureExtractorInceptionV3.load_state_dict, lambda self, state: None,
        )  # fmt: skip
        torch.save(published.FeatureExtractorInceptionV3("x", ["2048"]).state_dict(), here / "w.pth")
        published.load_state_dict_from_url, published.FeatureExtractorInceptionV3.load_state_dict = load, strict
        images = np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
        np.savez(here / "samples.npz", images)
        (here / "png").mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(here / f"png/{i:05d}.png")
        network = inception(here / "w.pth")
        for name in ("samples.npz", "png"):
            clock, began = Clock(), time.perf_counter()
            for _ in feature_batches(open_source(here / name), clock.around(network), 0, n, 32):
                pass
            clock.total = time.perf_counter() - began
            facts = clock.facts(n)
            print(
                f"extraction from {name:12} {facts['images_per_second']:6.1f} images/s at {size}x{size}, "
                f"{100 * facts['share_outside_network']:.1f}% of the time outside the network"
            )


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--samples", type=int, default=50_000)
    p.add_argument("--reference", type=int, default=10_000)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--images", type=int, default=128, help="for the extraction (0: leave it out)")
    p.add_argument("--only", choices=CONTENDERS, help="one contender, in this process, as JSON")
    options = p.parse_args()
    if options.only:
        child(options)
        return
    found = {}
    environment = {name: str(options.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    for name in CONTENDERS:
        command = [sys.executable, __file__, "--only", name, "--samples", str(options.samples),
                   "--reference", str(options.reference), "--threads", str(options.threads)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
        if done.returncode:
            print(f"{name}: failed\n{done.stderr}")
            continue
        result = found[name] = json.loads(done.stdout.splitlines()[-1])
        times = result["times"]
        parts = "  ".join(f"{k} {wall:.1f} ({cpu:.1f})" for k, (wall, cpu) in times.items())
        values = "  ".join(f"{k} {v:.6f}" for k, v in result["values"].items())
        wall, cpu = map(sum, zip(*times.values(), strict=True))
        print(
            f"{name:15} {wall:6.1f} s wall, {cpu:6.1f} s CPU, peak {result['peak_gb']:.2f} GB: {parts}\n{'':15} {values}",
            flush=True,
        )
    for name in [n for n in found if n != "ours" and "ours" in found]:
        mine, other = found["ours"]["times"], found[name]["times"]
        for i, clock in enumerate(("wall", "CPU")):
            ratios = "  ".join(f"{k} {other[k][i] / mine[k][i]:.1f}x" for k in mine)
            whole = sum(t[i] for t in other.values()) / sum(t[i] for t in mine.values())
            print(f"{name} / ours, {clock}: {whole:.2f}x  ({ratios})")
    if options.images:
        extraction(options.threads, options.images)


if __name__ == "__main__":
    main()
