"""An experiment from its files: sheets, scale and the paper's constants, read, put together and checked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from reals.experiment.checks import check
from reals.experiment.claim_sheet import ClaimSheet
from reals.experiment.metric_table import Source
from reals.experiment.overrides import settings, with_images, with_seed
from reals.experiment.paper import Paper
from reals.experiment.reading import ConfigError, read, read_yaml, unknown, validate
from reals.experiment.report_sheets import FigureSheet, TableSheet
from reals.experiment.rows import AutoencoderRow, EvaluationRow, RunRow
from reals.experiment.scale import Scale
from reals.experiment.sheets import read_sheets


@dataclass(frozen=True)
class Experiment:
    """Everything the DAG is made from: sheets, scale and the paper's constants."""

    folder: Path
    sheets: Mapping[str, Path]  # where each of `sheets.SHEETS` is
    paper: Paper
    scale: Scale
    autoencoders: dict[str, AutoencoderRow]
    runs: dict[str, RunRow]
    evaluations: dict[str, EvaluationRow]
    tables: dict[str, TableSheet]
    figures: FigureSheet
    claim: ClaimSheet | None = None
    overrides: tuple[str, ...] = ()  # what --config takes to mean this experiment, of `reals` and snakemake

    @cached_property
    def table_evaluations(self) -> tuple[str, ...]:
        """Evaluations that some table, figure or the claim shows the numbers of unasked, and their repeats, in sheet order."""
        used = self._in_tables("evaluation")
        used |= {*self.figures.figure5["evaluations"], *self.figures.checkpoints["evaluations"]}
        used |= {name for names in self.claim.arms.values() for name in names} if self.claim else set()
        return tuple(name for name, row in self.evaluations.items() if name in used or row.repeat_of in used)

    @cached_property
    def analysed_autoencoders(self) -> tuple[str, ...]:
        """Autoencoders that some table or figure shows unasked, and their repeats, in sheet order."""
        used = self._in_tables("autoencoder")
        used |= {*self.figures.figure1["autoencoders"], *self.figures.reconstructions["autoencoders"]}
        used |= {self.runs[self.evaluations[e].run].autoencoder for e in self.figures.figure5["evaluations"]}
        return tuple(name for name, row in self.autoencoders.items() if name in used or row.repeat_of in used)

    def _in_tables(self, kind: Source) -> set[str]:
        """Names of this kind behind the tables that plain snakemake makes."""
        return {name for table in self.tables.values() if not table.on_request for of, name in table.sources() if of == kind}


def load(
    scale: str,
    *,
    data: str | None = None,
    seed: int | None = None,
    folder: Path = Path("config"),
    rehearse: Callable[[Scale], Scale] | None = None,
) -> Experiment:
    """Sheets, scale and constants, cross-checked; ConfigError (one line) on any mistake.

    ``scale`` is a name under ``folder``'s scales/ or the path of a scale file. ``data``, an ImageFolder, replaces its images
    (`with_images`), ``seed`` its seeds (`with_seed`); ``rehearse`` (`rehearsal.rehearse`, or None) cuts it down.
    """
    paper = read(Paper, folder / "paper.yaml")
    path = scale_path(folder, scale)
    sizes = _read_scale(path, folder, data, seed)
    if rehearse is not None:
        sizes = rehearse(sizes)
    sheets = read_sheets(folder, sizes.sheets, path)
    check(paper, sizes, path, sheets)
    return Experiment(
        folder,
        sheets.files,
        paper,
        sizes,
        sheets.autoencoders.rows,
        sheets.runs.rows,
        sheets.evaluations.rows,
        sheets.tables,
        sheets.figures,
        sheets.claim,
        settings(scale, data, seed, rehearsal=rehearse is not None),
    )


def scale_path(folder: Path, scale: str) -> Path:
    """A scale's file: a name under config/scales/, or a path to a YAML file."""
    if scale.endswith((".yaml", ".yml")):
        return Path(scale)
    path = folder / "scales" / f"{scale}.yaml"
    if not path.exists():
        known = sorted(p.stem for p in (folder / "scales").glob("*.yaml"))
        raise ConfigError(f"{unknown(scale, known, 'scale')} (or give the path of a scale file)")
    return path


def _read_scale(path: Path, folder: Path, data: str | None, seed: int | None) -> Scale:
    """The scale file with what the command line replaces; ConfigError where its results would mix with a shipped scale's."""
    values = read_yaml(path)
    shipped = folder / "scales"
    if data is not None:
        values = with_images(values, data)
    elif path.parent != shipped and (shipped / f"{values.get('name')}.yaml").exists():
        raise ConfigError(
            f"{path}: name '{values['name']}' is that of a shipped scale, whose results it would mix with; rename it"
        )
    if seed is not None:
        values = with_seed(values, seed)
    return validate(Scale, values, str(path))
