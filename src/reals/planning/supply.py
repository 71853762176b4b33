"""What timed steps read: the experiment's own prepared files where they exist, else stand-in files in a given folder.

Stand-ins have the right format (JPEG files of a photograph's size where the scale decodes as it goes, caches in their shards), so
that decoding and reading really happen; but they are few, and so come from the page cache and not from a disk.
"""

import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from reals import files
from reals.arrays import save_array
from reals.data import cache
from reals.data.cache import DTYPE, Layout, Put
from reals.data.dataset import Images, image_root
from reals.data.folder import SPLITS
from reals.data.readers import CachedFeatures, Latents, feature_layout, latent_layout
from reals.experiment.artefact import Artefact
from reals.experiment.registry import Registry
from reals.experiment.specs import AutoencoderSpec, RunSpec
from reals.machine.cores import cores
from reals.planning.counts import counts
from reals.planning.networks import Networks
from reals.planning.workload import Sources

PAINTED = 64  # files, listed again and again
MOST_ROWS = 1024  # of a stand-in
MOST_BYTES = 128e6  # of a stand-in
WIDTH, HEIGHT = 500 / 256, 375 / 256  # of a painted file to its crop: ImageNet's commonest size to the papers' 256 pixels
GRAIN = 12.0  # std of its noise in levels: with it a painted file of 500 x 375 has 115 kB, as ImageNet's have
QUALITY = 95  # of JPEG


class Supply:
    """Sources of an experiment's trainings; ``said`` tells by name where each is from."""

    def __init__(self, registry: Registry, folder: Path):
        self.registry, self.scale, self.place = registry, registry.experiment.scale, folder
        self.networks = Networks(registry, counts(registry))
        self.said: dict[str, str] = {}

    def sources(self, artefact: Artefact[RunSpec] | Artefact[AutoencoderSpec]) -> Sources:
        """What its training reads."""
        kinds = {need.kind for need in artefact.needs}
        return Sources(
            self.images("train"), self.images("held_out"),
            self._latents(artefact) if "latents" in kinds else None, self._features(artefact) if "features" in kinds else None,
        )  # fmt: skip

    def images(self, split: str) -> Images:
        """A split, opened anew: it decodes with the cores that this process has now."""
        return Images(self._data, split, image_root(self.scale.data) if self.real else None)

    @cached_property
    def _data(self) -> Path:
        folder = self.registry.folder(self.registry.data)
        if self.real:
            self.said["images"] = str(folder)
            return folder
        self.said["images"] = self._paint(self.place / "data")
        return self.place / "data"

    @property
    def real(self) -> bool:
        """Whether the images are the experiment's own; caches are taken with them, as they hold one row an image."""
        return self._made(self.registry.folder(self.registry.data))

    def _made(self, folder: Path) -> bool:
        return (folder / files.MANIFEST).exists()

    @cached_property
    def rows(self) -> int:
        """Images of all stand-ins: few where one image's rows are many bytes."""
        scale = self.scale
        largest = [3 * scale.data.resolution**2 if scale.data.storage == "array" else 1, self._latent_layout(1).image_bytes]
        largest += [self._feature_layout(1, need).image_bytes for need in self.registry.features.values()]
        return int(max(PAINTED, min(MOST_ROWS, MOST_BYTES // max(largest))))

    def _paint(self, folder: Path) -> str:
        """A prepared data set of painted images; what it is."""
        resolution, known = self.scale.data.resolution, self.networks.counts.classes
        bits, stored = np.random.default_rng(0), self.scale.data.storage == "array"
        width, height = (resolution, resolution) if stored else (round(WIDTH * resolution), round(HEIGHT * resolution))
        folder.mkdir(parents=True)
        for split in SPLITS:
            save_array(folder / f"{split}_labels.npy", np.arange(self.rows) % known)
            if stored:
                save_array(
                    folder / f"{split}_images.npy", bits.integers(0, 256, (self.rows, 3, resolution, resolution), np.uint8)
                )
            else:
                files.write_json(folder / f"{split}_files.json", [f"{i % PAINTED}.JPEG" for i in range(self.rows)])
        if not stored:
            with ThreadPoolExecutor(cores()) as pool:
                list(
                    pool.map(lambda i: _photograph(i, width, height).save(folder / f"{i}.JPEG", quality=QUALITY), range(PAINTED))
                )
        kind = "images.npy" if stored else "files.json"
        files.seal(
            folder, [f"{s}_{part}" for s in SPLITS for part in (kind, "labels.npy")], classes=[str(c) for c in range(known)],
            resolution=resolution, storage=self.scale.data.storage, exif_rotate=self.scale.data.exif_rotate, root=".",
            images=dict.fromkeys(SPLITS, self.rows),
        )  # fmt: skip
        return (
            f"stand-ins: {self.rows if stored else PAINTED} painted {'images' if stored else f'JPEG files of {width} x {height}'}"
        )

    def _latents(self, run: Artefact) -> Latents:
        made = self.registry.folder(run.needed("latents"))
        if self.real and self._made(made):
            self.said["latents"] = str(made)
            return Latents(made, self.images("train"), run.spec.scaling_factor)
        return Latents(self._cache("latents", self._latent_layout(self.rows)), self.images("train") if not self.real else None)

    def _features(self, artefact: Artefact) -> CachedFeatures:
        needed = artefact.needed("features")
        made = self.registry.folder(needed)
        if self.real and self._made(made):
            self.said["features"] = str(made)
            return CachedFeatures(made, self.images("train"))
        return CachedFeatures(self._cache(f"features_{needed.id}", self._feature_layout(self.rows, needed)))

    def _latent_layout(self, count: int) -> Layout:
        return latent_layout(count, 2 if self.scale.data.flip else 1, self.scale.latent.channels, self.scale.latent_size)

    def _feature_layout(self, count: int, needed: Artefact) -> Layout:
        width, flips = self.networks.teacher_dim(needed.needed("teacher")), 2 if self.scale.data.flip else 1
        return feature_layout(count, flips, self.scale.teacher_grid, width, needed.spec.targets == "cls")

    def _cache(self, name: str, layout: Layout) -> Path:
        """A cache of random rows in the stand-ins' folder, made once."""
        folder, bits = self.place / name, np.random.default_rng(0)
        if self._made(folder):
            return folder

        def compute(span: range, put: Put) -> cache.Facts:
            shapes = {field: (len(span), layout.flips, *row) for field, row in layout.fields.items()}
            put(**{field: (0.5 * bits.standard_normal(shape)).astype(DTYPE) for field, shape in shapes.items()})
            return {}

        folder.mkdir(parents=True)
        source = {"id": name, "autoencoder": "none", "data_sha256": self.images("train").fingerprint()}
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            cache.make(folder, layout, source, compute, lambda facts: {"scaling_factor": 1.0}, name)
        self.said[name.split("_")[0]] = f"stand-ins: {layout.images} random rows"
        return folder


def _photograph(number: int, width: int, height: int) -> Image.Image:
    """A picture as hard to decode as a photograph: smooth shapes and grain."""
    bits = np.random.default_rng(number)
    shapes = Image.fromarray(bits.integers(0, 256, (max(1, height // 32), max(1, width // 32), 3), np.uint8))
    smooth = np.asarray(shapes.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    return Image.fromarray((smooth + GRAIN * bits.standard_normal(smooth.shape)).clip(0, 255).astype(np.uint8))
