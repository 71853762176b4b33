"""All tables and the page of an experiment, from its results: nothing here draws a figure or needs what draws one."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from reals import files
from reals.experiment import figure_table
from reals.experiment.artefact import Artefact
from reals.experiment.registry import Registry
from reals.records import journal, provenance, published
from reals.report import claim, page
from reals.report.results import Results, with_later_seeds
from reals.report.tables import conditions
from reals.report.tables.build import build
from reals.report.tables.model import Table


def tables(registry: Registry, found: Results) -> list[Table]:
    """The experiment's tables, in the order of tables.yaml; of those on request the ones that are measured as a whole."""
    measured_under, sheets = conditions.of(registry), registry.experiment.tables
    over_seeds = with_later_seeds(registry, found)
    built = [build(sheet, over_seeds if sheet.over_seeds else found, measured_under) for sheet in sheets.values()]
    return [table for table in built if not (sheets[table.name].on_request and table.missing)]


def write_page(
    path: Path, registry: Registry, found: Results, drawn: Path | None = None, unfinished: page.Unfinished | None = None
) -> None:
    """The page at ``path``, with the figures that are drawn already below ``drawn`` (the results' own folder unless told);
    ``unfinished`` while a run goes on."""
    pictures = []
    told, own = published.facts(registry), Registry(registry.experiment)
    for name in figure_table.figures(registry):
        png = (drawn or registry.root) / "figures" / f"{name}.png"
        caption = figure_table.caption(registry.experiment, name)
        pictures.append(page.Picture(figure_table.title(name), caption, png if png.exists() else None))
    rows = journal.by_stage(journal.read(registry.root / "journal.jsonl"))
    kinds: dict[str, Mapping[str, Artefact]] = {
        "evaluation": registry.evaluations,
        "autoencoder": registry.analyses,
        "downstream": registry.downstream,
    }
    page.write(
        path,
        conditions.of(registry),
        description=registry.experiment.scale.description,
        code_version=", ".join(told["code"]) if told else files.code_version(),
        note=published.note(registry),
        tables=tables(registry, found),
        claim=claim.findings(registry, found),
        pictures=pictures,
        results=found,
        commands={
            (kind, name): provenance.remake(own, own.outputs(kinds[kind][name])[0])
            for (kind, name), result in found.items()
            if result is not None
        },
        overrides=shlex.join(registry.experiment.overrides),
        unfinished=unfinished,
        times=[page.StageTime(row["stage"], row["jobs"], row["wall"], row["cpu"]) for row in rows],
    )
