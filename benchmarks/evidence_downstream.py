"""Do aligned latents carry what a dense head needs? Images with masks that no human drew: clusters of the teacher's own patch features.

    python benchmarks/evidence_downstream.py cifar10 [--data /path] --out clusters

writes them in VOC's layout (images of the training split to train on, held-out ones to score), for a scale whose teacher is made. Then

    downstream: {target: labelled, steps: 500, batch: 16, lr: 2.0e-3,
                 segmentation: {name: clusters, layout: voc, path: clusters, classes: 8}}

in the scale file gives mIoU of a head on the teacher's features (the ceiling: below 1, since masks have the teacher's grid), on the
align network's, and of a probe trained on the base's latents (the floor).
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.cluster import KMeans

from reals import rng
from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.measure.features import batches
from reals.method.models import teacher as teachers
from reals.stages.context import Context

NUMBER = {"train": 1200, "held_out": 400}
FITTED = 10_000  # tokens behind the clusters


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("scale")
    p.add_argument("--data")
    p.add_argument("--clusters", type=int, default=8)
    p.add_argument("--out", type=Path, required=True)
    options = p.parse_args()
    context = Context(Registry(load(options.scale, data=options.data)))
    teacher = teachers.load(context.registry.folder(context.registry.teachers["large"]), context.device)
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (options.out / name).mkdir(parents=True)

    clusters = None
    for split, listed in (("train", "train"), ("held_out", "val")):
        images = context.images(split)
        chosen = rng.permutation(0, f"clusters, {split}", n=len(images))[: NUMBER[split]]
        pixels = images.batch(chosen)
        with torch.no_grad():
            blocks = [teacher.features(block.to(context.device).float() / 255)[0] for block in batches(pixels)]
        tokens = torch.cat(blocks).cpu().numpy()
        if clusters is None:
            flat = tokens.reshape(-1, tokens.shape[-1])
            clusters = KMeans(options.clusters, n_init=2, random_state=0).fit(flat[:: max(1, len(flat) // FITTED)])
        side = round(tokens.shape[1] ** 0.5)
        maps = clusters.predict(tokens.reshape(-1, tokens.shape[-1])).reshape(-1, side, side).astype(np.uint8)
        for k, (image, mask) in enumerate(zip(pixels, maps, strict=True)):
            Image.fromarray(image.transpose(1, 2, 0)).save(options.out / "JPEGImages" / f"{listed}_{k:05d}.jpg", quality=98)
            size = image.shape[1:]
            Image.fromarray(mask).resize(size, Image.Resampling.NEAREST).save(
                options.out / "SegmentationClass" / f"{listed}_{k:05d}.png"
            )
        names = [f"{listed}_{k:05d}\n" for k in range(len(pixels))]
        (options.out / f"ImageSets/Segmentation/{listed}.txt").write_text("".join(names))
    print(f"{options.out}: {NUMBER['train']} and {NUMBER['held_out']} images, {options.clusters} clusters")


if __name__ == "__main__":
    main()
