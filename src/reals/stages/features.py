"""Stage `features`: the teacher's features of the training images, cached; and the same features online."""

import numpy as np
import torch

from reals import files
from reals.data import cache
from reals.data.cache import Put
from reals.data.readers import feature_layout
from reals.experiment.artefact import Artefact
from reals.experiment.specs import FeaturesSpec
from reals.method.models import teacher as teachers
from reals.method.precision import running
from reals.stages.context import Context


def run(context: Context, artefact: Artefact[FeaturesSpec]) -> None:
    """Fills the cache of features, with as many processes as run this; mirrored images too where the data flip."""
    folder = context.begin(artefact)
    images = context.images("train")
    teacher_folder = context.folder(artefact.needed("teacher"))
    made_from = {
        "id": artefact.id,
        "teacher": artefact.spec.teacher,
        "teacher_sha256": files.fingerprint(files.verified(teacher_folder)),
        "data": artefact.spec.data,
        "data_sha256": images.fingerprint(),
        "grid": context.scale.teacher_grid,
    }
    teacher = teachers.load(teacher_folder, context.device)
    flips = 2 if context.scale.data.flip else 1
    planned = feature_layout(len(images), flips, context.scale.teacher_grid, teacher.dim, artefact.spec.targets == "cls")

    def compute(span: range, put: Put) -> dict:
        batches = (np.arange(start, min(start + cache.BATCH, span.stop)) for start in range(span.start, span.stop, cache.BATCH))
        for _, pixels in images.ahead(batches):
            x = torch.from_numpy(pixels).to(context.device)
            with running(context.device, artefact.spec.compute or "fp32"):
                views = [teacher.features(view.float() / 255) for view in (x, x.flip(-1))[:flips]]
            rows = {
                name: torch.stack(parts, dim=1) for name, parts in zip(("patch", "cls"), zip(*views, strict=True), strict=True)
            }
            put(**{name: rows[name].half().cpu().numpy() for name in planned.fields})
        return {}

    cache.make(folder, planned, made_from, compute, lambda facts: {}, f"features {artefact.name}")
