"""How fast training reads latents, and how fast they are made.

    python benchmarks/bench_latents.py                     # reading: 50,000 images, both flips (1.6 GB of disk); two minutes
    python benchmarks/bench_latents.py --encode 4          # and encoding 4 images with SD-VAE's configuration (random weights)

Reading: random batches of 256 images, random flips, the posterior sampled and scaled (the noise is drawn beforehand), from
our shards, from one file of the same rows read as numpy and torch are plainly written, from one .npy file per image and
flip, and by encoding on the fly with SD-VAE's configuration (measured on one small batch and extrapolated). Encoding: JPEG
files to moments of both flips, our stage's loop beside a loop plainly written on diffusers in float32. Rounds alternate;
the clock is CPU time of one thread (and what it waits for is in the page cache: reads from a cold disk are the disk's speed).
"""

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from reals.data import cache
from reals.data.dataset import Images
from reals.data.decode import THREADS, center_crop, decode
from reals.data.readers import Latents, latent_layout
from reals.method.models import autoencoder as models

BATCH, CHANNELS, SIZE, SCALE = 256, 4, 32, 0.7
ROUNDS = 40


def cpu(work) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def alternated(works: dict, rounds: int) -> dict[str, float]:
    """Median CPU seconds of each, after one round to warm up."""
    times = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            times[name].append(cpu(work))
    return {name: statistics.median(seconds[1:]) for name, seconds in times.items()}


def build(folder: Path, images: int) -> Latents:
    """A cache of random moments, and the same rows as one file and (the first ones) as a file each."""
    rng = np.random.default_rng(0)
    block = rng.normal(0, 0.5, (512, 2, 2 * CHANNELS, SIZE, SIZE)).astype(np.float16)

    def compute(span: range, put) -> dict:
        for start in range(span.start, span.stop, len(block)):
            put(moments=block[: min(len(block), span.stop - start)])
        return {}

    (folder / "cache").mkdir()
    source = {"id": "cache", "data_sha256": ""}
    cache.make(
        folder / "cache", latent_layout(images, CHANNELS, SIZE), source, compute, lambda f: {"scaling_factor": SCALE}, "latents"
    )
    return Latents(folder / "cache")


def sampled(moments: np.ndarray, noise: torch.Tensor) -> torch.Tensor:
    """The posterior sampled as it is plainly written."""
    mean, logvar = torch.from_numpy(moments).float().chunk(2, dim=1)
    return (mean + torch.exp(0.5 * logvar) * noise) * SCALE


def sd_vae() -> torch.nn.Module:
    return models.build(256, 4, (128, 256, 512, 512), 2, 32).eval().requires_grad_(False)


def reading(folder: Path, images: int, files: int) -> None:
    cache = build(folder, images)
    one = np.lib.format.open_memmap(folder / "one.npy", "w+", np.float16, (images, 2, 2 * CHANNELS, SIZE, SIZE))
    for start in range(0, images, 1024):
        some = np.arange(start, min(start + 1024, images))
        for flip in (0, 1):
            one[some, flip] = cache.rows("moments", some, np.full(len(some), flip))
    for i in range(files):
        for flip in (0, 1):
            np.save(folder / f"{i}_{flip}.npy", one[i, flip])
    one = np.load(folder / "one.npy", mmap_mode="r")
    for start in range(0, images, 1024):  # both mapped whole before the clock runs
        np.add.reduce(one[start : start + 1024], axis=None)
    rng, noise = np.random.default_rng(1), torch.randn(BATCH, CHANNELS, SIZE, SIZE)

    def drawn(n: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.integers(0, n, BATCH), rng.integers(0, 2, BATCH)

    def ours():
        return cache.batch(*drawn(images), noise)

    def one_file():
        return sampled(one[drawn(images)], noise)

    def file_each():
        return sampled(np.stack([np.load(folder / f"{i}_{flip}.npy") for i, flip in zip(*drawn(files), strict=True)]), noise)

    def gather():
        return cache.rows("moments", *drawn(images))

    def gather_one_file():
        return one[drawn(images)]

    indices, flips = drawn(images)
    np.testing.assert_allclose(cache.batch(indices, flips, noise), sampled(one[indices, flips], noise), rtol=1e-5, atol=1e-6)
    seconds = alternated(
        {"our shards": ours, "one file, plainly": one_file, "a file per image": file_each}
        | {"rows only, our shards": gather, "rows only, one file": gather_one_file},
        ROUNDS,
    )
    vae = sd_vae().to(memory_format=torch.channels_last)
    x = torch.rand(2, 3, 256, 256).to(memory_format=torch.channels_last)
    with torch.no_grad():
        vae.encode(x[:1])
        seconds["encoding on the fly"] = cpu(lambda: vae.encode(x)) / len(x) * BATCH
    print(
        f"reading: {images:,} images, both flips, {cache.layout.bytes / 1e9:.2f} GB in {len(cache.layout)} shards; batches of {BATCH}"
    )
    for name, s in seconds.items():
        note = "  (2 images, extrapolated)" if name.startswith("encoding") else ""
        print(f"  {name:24}{BATCH / s:12,.1f} images/s   our shards are {s / seconds['our shards']:10,.2f} x as fast{note}")


def encoding(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for i in range(count):
        smooth = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((500, 375), Image.Resampling.BICUBIC)
        (folder / f"{i % 2}").mkdir(exist_ok=True)
        smooth.save(folder / f"{i % 2}/{i}.jpg")
    paths = sorted(folder.glob("?/*.jpg"))
    vae = sd_vae()
    ours_vae = sd_vae().to(memory_format=torch.channels_last)
    ours_vae.load_state_dict(vae.state_dict())

    class Files(Images):
        """The files, read as a prepared data set of `files` storage reads them."""

        def __init__(self):
            self.manifest, self.resolution, self._array, self._paths = {"exif_rotate": False}, 256, None, paths
            self._pool = ThreadPoolExecutor(THREADS)

    @torch.no_grad()
    def ours():
        for _, pixels in Files().ahead([np.arange(count)]):
            x = models.to_input(torch.from_numpy(pixels)).contiguous(memory_format=torch.channels_last)
            for view in (x, x.flip(-1)):
                torch.cat(models.moments(ours_vae, view), dim=1).half()

    @torch.no_grad()
    def plain():
        for flip in (False, True):
            decoded = [np.asarray(center_crop(Image.open(p).convert("RGB"), 256)) for p in paths]
            x = torch.stack([torch.from_numpy(d.copy()).permute(2, 0, 1) for d in decoded]).float() / 127.5 - 1
            posterior = vae.encode(x.flip(-1) if flip else x).latent_dist
            torch.cat([posterior.mean, posterior.logvar], dim=1)

    seconds = alternated({"ours": ours, "plainly on diffusers": plain}, 3)
    decoding = cpu(lambda: [decode(p, 256, False) for p in paths])
    print(f"encoding: {count} JPEG files of 500x375, both flips, SD-VAE's configuration, float32")
    for name, s in seconds.items():
        print(f"  {name:24}{count / s:8.3f} images/s   {seconds['plainly on diffusers'] / s:5.2f} x")
    print(f"  decoding is {decoding / seconds['ours']:.1%} of it, and runs beside the network")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--images", type=int, default=50_000)
    p.add_argument("--files", type=int, default=5_000, help="images that also get a file each (and flip)")
    p.add_argument("--encode", type=int, default=0, help="measure encoding on so many images")
    p.add_argument("--folder", type=Path, help="where to put the files (a temporary folder)")
    options = p.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        reading(Path(folder), options.images, options.files)
    if options.encode:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            encoding(Path(folder), options.encode)


if __name__ == "__main__":
    main()
