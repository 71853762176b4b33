"""Stage `data`: the images of a scale, read once, checked, cut and split."""

from reals import files
from reals.data import crops
from reals.data.prepare import prepare
from reals.experiment.artefact import Artefact
from reals.experiment.specs import DataSpec
from reals.machine.usage import work
from reals.stages.context import Context


def run(context: Context, artefact: Artefact[DataSpec]) -> None:
    """Prepares the data set; one that is there already stays, and only crops that are to be kept and are not there are made."""
    folder, config = context.begin(artefact), context.scale.data
    with work():
        if not (config.keep_crops and (folder / files.MANIFEST).exists()):
            prepare(config, context.scale.seeds.data, folder)
        if config.keep_crops:
            crops.keep(folder, context.image_root)
