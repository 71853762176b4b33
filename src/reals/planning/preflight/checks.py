"""Everything that is looked at before the first job, in the order in which it is said."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from reals.experiment.graph import Graph
from reals.experiment.registry import Registry
from reals.machine import site
from reals.planning.cost import Costs
from reals.planning.preflight import data, machine, remote, weights

Check = tuple[str, Callable[[], str]]
"""What is looked at, and the look."""


def at_start(registry: Registry) -> None:
    """The cheap look when the workflow starts. ConfigError where the data source is plainly unusable, a file missing or the disk too small.

    A file may be gone where nothing that is left to make reads it.
    """
    costs = Costs(registry)
    data.usable_images(registry)
    weights.there(registry, costs.graph.to_make())
    if any(not output.exists() for artefact in registry.downstream.values() for output in registry.outputs(artefact)):
        data.usable_labels(registry)
    machine.disk(costs)


def thorough(registry: Registry, here: site.Site, where: str) -> Iterator[Check]:
    """Everything `reals check` looks at: (what, the check). ``where`` is the file of the site."""
    yield "data", lambda: data.images(registry)
    for stated in weights.stated_files(registry):
        yield stated.key, partial(_stated_file, registry, stated)
    yield from weights.published(registry)
    for what, config in data.labelled_folders(registry):
        yield what, partial(data.labels, registry, what, config)
    yield "disk", lambda: machine.disk(Costs(registry))
    yield "file system", lambda: machine.file_system(registry.root)
    yield "clock", lambda: machine.clock(registry.root)
    yield "GPUs", lambda: machine.gpus(registry)
    if registry.experiment.scale.engine.compile:
        yield "compiler", machine.compiler
    yield "SLURM", lambda: machine.slurm(registry, here, where)
    yield "DVC remote", lambda: remote.dvc_remote(Path())


def _stated_file(registry: Registry, stated: weights.Stated) -> str:
    if Path(stated.path).is_file() or stated.users & Graph(registry).to_make():
        return weights.stated_file(stated.key, stated.path, stated.sha256)
    return f"{stated.path} is gone, and nothing that is left to make reads it"
