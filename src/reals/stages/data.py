"""Stage `data`: the images of a scale, read once, checked, cut and split."""

from reals import images
from reals.journal import work
from reals.registry import Artefact
from reals.stages import Context


def run(context: Context, artefact: Artefact) -> None:
    folder = context.begin(artefact)
    with work():
        images.prepare(context.scale.data, context.scale.seeds.data, folder)
