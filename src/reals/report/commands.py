"""What `reals tables`, `figure`, `report` and `render` do: all from metrics files and arrays; nothing here loads a network."""

from pathlib import Path

from reals.experiment import figure_table
from reals.experiment.registry import Registry
from reals.records import published
from reals.report import assembly, exports, results
from reals.report.figures.catalogue import FIGURES, Missing
from reals.report.results import Results
from reals.report.tables.write import write


def tables(registry: Registry) -> None:
    """All tables, and every measured number in files for other programs."""
    _tables(registry, results.load(registry), registry.root)


def figure(registry: Registry, name: str) -> None:
    """One figure; ValueError where the scale has none of that name, Missing where what it shows is not measured."""
    known = figure_table.figures(registry)
    if name not in known:
        raise ValueError(f"figure '{name}' is not defined at scale {registry.experiment.scale.name}; known: {', '.join(known)}")
    FIGURES[name](registry, registry.root / "figures" / name, results.load(registry))


def report(registry: Registry) -> None:
    """The page, with the figures that are drawn already."""
    assembly.write_page(registry.root / "report.html", registry, results.load(registry))


def render(registry: Registry) -> None:
    """Everything that can be drawn from what exists, or from what is published where nothing is measured here; says what is missing and
    never starts work."""
    source = published.shown(registry)
    found = draw(source, registry.root)
    shown = [("evaluation", name) for name in registry.experiment.table_evaluations]
    shown += [("autoencoder", name) for name in registry.experiment.analysed_autoencoders]
    missing = [name for kind, name in shown if found[kind, name] is None]
    said = published.note(source)
    print(
        f"{registry.root}/report.html: {len(shown) - len(missing)} of {len(shown)} results measured"
        + (f"; {said}" if said else "")
        + (f"; missing: {', '.join(missing)}" if missing else "")
    )


def draw(registry: Registry, folder: Path) -> Results:
    """Tables, figures and page of the results of ``registry``, into ``folder``; a figure whose inputs are missing stays as it was."""
    found = results.load(registry)
    _tables(registry, found, folder)
    for name in figure_table.figures(registry):
        try:
            FIGURES[name](registry, folder / "figures" / name, found)
        except Missing as error:
            print(f"{name}: left as it was ({error})", flush=True)
    assembly.write_page(folder / "report.html", registry, found, folder)
    return found


def _tables(registry: Registry, found: Results, folder: Path) -> None:
    for table in assembly.tables(registry, found):
        write(table, folder / "tables")
    exports.write(registry, found, folder)
