"""Stage `data`: the images of a scale, read once, checked, cut and split."""

from reals.data.prepare import prepare
from reals.experiment.artefact import Artefact
from reals.experiment.specs import DataSpec
from reals.machine.usage import work
from reals.stages.context import Context


def run(context: Context, artefact: Artefact[DataSpec]) -> None:
    folder = context.begin(artefact)
    with work():
        prepare(context.scale.data, context.scale.seeds.data, folder)
