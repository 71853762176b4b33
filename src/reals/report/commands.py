"""What `reals tables`, `figure`, `report` and `render` do: all from metrics files and arrays; nothing here loads a network."""

from reals.experiment import figure_table
from reals.experiment.registry import Registry
from reals.report import assembly, exports, results
from reals.report.figures.catalogue import FIGURES, Missing
from reals.report.results import Results
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
    assembly.write_page(registry.root / "report.html", registry, results.load(registry))


def render(registry: Registry) -> None:
    """Everything that can be drawn from what exists; says what is missing and never starts work."""
    found = results.load(registry)
    _tables(registry, found)
    for name in figure_table.figures(registry):
        try:
            FIGURES[name](registry, registry.root / "figures" / name, found)
        except Missing as error:
            print(f"{name}: left as it was ({error})", flush=True)
    assembly.write_page(registry.root / "report.html", registry, found)
    shown = [("evaluation", name) for name in registry.experiment.table_evaluations]
    shown += [("autoencoder", name) for name in registry.experiment.analysed_autoencoders]
    missing = [name for kind, name in shown if found[kind, name] is None]
    print(
        f"{registry.root}/report.html: {len(shown) - len(missing)} of {len(shown)} results measured"
        + (f"; missing: {', '.join(missing)}" if missing else "")
    )


def _tables(registry: Registry, found: Results) -> None:
    for table in assembly.tables(registry, found):
        write(table, registry.root / "tables")
    exports.write(registry, found)
