"""Rows with several seeds: one more row for each further seed, and how to find them again."""

from collections.abc import Callable, Mapping

from reals.experiment.reading import ConfigError
from reals.experiment.rows import AutoencoderRow, EvaluationRow, Repeatable, Row, RunRow, Sheet


def of_seed(name: str, seed: int) -> str:
    """The name of a row's repeat."""
    return f"{name}-seed{seed}"


def repeats(rows: Mapping[str, Repeatable], name: str) -> dict[int, str]:
    """Seed -> name of the row that stands for it, the sheet's own row first; {} where the row is not repeated."""
    found = {row.seed: other for other, row in rows.items() if name in (other, row.repeat_of)}
    return {seed: other for seed, other in found.items() if seed is not None} if len(found) > 1 else {}


def repeat_autoencoders(sheet: Sheet[AutoencoderRow]) -> Sheet[AutoencoderRow]:
    """Each repeat starts from its ``init`` of the same seed, where that one is repeated too."""
    return _repeated(sheet, lambda row: row.seeds, lambda row, seed: {"init": _same_seed(sheet, row.init, seed)})


def repeat_runs(sheet: Sheet[RunRow], autoencoders: Sheet[AutoencoderRow]) -> Sheet[RunRow]:
    """Each repeat is trained on its autoencoder of the same seed, where that one is repeated too (in ``autoencoders`` as read)."""
    return _repeated(
        sheet, lambda row: row.seeds, lambda row, seed: {"autoencoder": _same_seed(autoencoders, row.autoencoder, seed)}
    )


def repeat_evaluations(sheet: Sheet[EvaluationRow], runs: Sheet[RunRow]) -> Sheet[EvaluationRow]:
    """Each evaluation once with every seed of its run (in ``runs`` as read), or with those it names; ConfigError for others."""
    for name, row in sheet.rows.items():
        if row.run in runs.rows and (other := [seed for seed in row.seeds if seed not in runs.rows[row.run].seeds]):
            had = ",".join(map(str, runs.rows[row.run].seeds)) or "none"
            raise ConfigError(
                f"{sheet.where[name]}: seeds: run '{row.run}' has {had}, not {other[0]}; name some of its own, or write '-'"
            )

    def seeds_of(row: EvaluationRow) -> tuple[int, ...]:
        return row.seeds or (runs.rows[row.run].seeds if row.run in runs.rows else ())

    return _repeated(sheet, seeds_of, lambda row, seed: {"run": _same_seed(runs, row.run, seed)})


def _same_seed(sheet: Sheet[Row], name: str, seed: int) -> str:
    """The name of the row's repeat with that seed where there is one, else of the row itself."""
    return of_seed(name, seed) if name in sheet.rows and seed in sheet.rows[name].seeds[1:] else name


def _repeated(
    sheet: Sheet[Row], seeds_of: Callable[[Row], tuple[int, ...]], retarget: Callable[[Row, int], dict[str, str]]
) -> Sheet[Row]:
    """The sheet with a row for each further seed behind the one it repeats; ``retarget`` says what a row with a seed refers to."""
    rows: dict[str, Row] = {}
    where = dict(sheet.where)
    for name, row in sheet.rows.items():
        seeds = seeds_of(row)
        rows[name] = row.model_copy(update={"seeds": seeds, **(retarget(row, seeds[0]) if seeds else {})})
        for seed in seeds[1:]:
            other = of_seed(name, seed)
            if other in sheet.rows:
                raise ConfigError(
                    f"{where[name]}: its repeat with seed {seed} is called '{other}', as is {where[other]}; rename one"
                )
            update = {"name": other, "seeds": (seed,), "repeat_of": name, **retarget(row, seed)}
            rows[other], where[other] = row.model_copy(update=update), where[name]
    return Sheet(sheet.path, rows, where)
