"""What `reals tables`, `figure`, `report` and `render` do: all from metrics files and arrays; nothing here loads a network."""

import shlex
from collections.abc import Mapping

from reals import files
from reals.experiment import figure_table
from reals.experiment.artefact import Artefact
from reals.experiment.registry import Registry
from reals.records import journal, provenance
from reals.report import exports, page, results
from reals.report.figures.catalogue import FIGURES, Missing
from reals.report.results import Results
from reals.report.tables import conditions
from reals.report.tables.build import build
from reals.report.tables.model import Table
from reals.report.tables.write import write


def tables(registry: Registry) -> None:
    """All tables, and every measured number in files for other programs."""
    _tables(registry, results.load(registry))


def figure(registry: Registry, name: str) -> None:
    """One figure; ValueError where the scale has none of that name, Missing where what it shows is not measured."""
    known = figure_table.figures(registry)
    if name not in known:
        raise ValueError(f"figure '{name}' is not defined at scale {registry.experiment.scale.name}; known: {', '.join(known)}")
    FIGURES[name](registry, registry.root / "figures" / name, results.load(registry))


def report(registry: Registry) -> None:
    """The page, with the figures that are drawn already."""
    _page(registry, results.load(registry))


def render(registry: Registry) -> None:
    """Everything that can be drawn from what exists; says what is missing and never starts work."""
    found = results.load(registry)
    _tables(registry, found)
    for name in figure_table.figures(registry):
        try:
            FIGURES[name](registry, registry.root / "figures" / name, found)
        except Missing as error:
            print(f"{name}: left as it was ({error})", flush=True)
    _page(registry, found)
    shown = [("evaluation", name) for name in registry.experiment.table_evaluations]
    shown += [("autoencoder", name) for name in registry.experiment.analysed_autoencoders]
    missing = [name for kind, name in shown if found[kind, name] is None]
    print(
        f"{registry.root}/report.html: {len(shown) - len(missing)} of {len(shown)} results measured"
        + (f"; missing: {', '.join(missing)}" if missing else "")
    )


def _built(registry: Registry, found: Results) -> list[Table]:
    measured_under = conditions.of(registry)
    return [build(sheet, found, measured_under) for sheet in registry.experiment.tables.values()]


def _tables(registry: Registry, found: Results) -> None:
    for table in _built(registry, found):
        write(table, registry.root / "tables")
    exports.write(registry, found)


def _page(registry: Registry, found: Results) -> None:
    pictures = []
    for name in figure_table.figures(registry):
        png = registry.root / "figures" / f"{name}.png"
        caption = figure_table.caption(registry.experiment, name)
        pictures.append(page.Picture(figure_table.title(name), caption, png if png.exists() else None))
    rows = journal.by_stage(journal.read(registry.root / "journal.jsonl"))
    kinds: dict[str, Mapping[str, Artefact]] = {
        "evaluation": registry.evaluations,
        "autoencoder": registry.analyses,
        "downstream": registry.downstream,
    }
    page.write(
        registry.root / "report.html",
        conditions.of(registry),
        description=registry.experiment.scale.description,
        code_version=files.code_version(),
        tables=_built(registry, found),
        pictures=pictures,
        results=found,
        commands={
            (kind, name): provenance.remake(registry, registry.outputs(kinds[kind][name])[0])
            for (kind, name), result in found.items()
            if result is not None
        },
        overrides=shlex.join(registry.experiment.overrides),
        times=[page.StageTime(row["stage"], row["jobs"], row["wall"], row["cpu"]) for row in rows],
    )
