"""What must hold between sheets, scale and paper.yaml: one function a rule, each with its one-line message."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from reals.experiment.metric_table import METRICS, SETTINGS_ROWS, Source
from reals.experiment.paper import Paper, TransformerLoss
from reals.experiment.reading import ConfigError, unknown
from reals.experiment.report_sheets import FigureSheet
from reals.experiment.rows import EvaluationRow, RunRow
from reals.experiment.sampler_table import CHAIN_STEPS, LEAST_OF_HEUN, SAMPLERS, samplers_of
from reals.experiment.scale import Scale
from reals.experiment.sheets import Sheets
from reals.experiment.specs import EquivarianceSpec


def check(paper: Paper, scale: Scale, file: Path, sheets: Sheets) -> None:
    """Raises ConfigError (one line) for the first rule that does not hold; ``file`` is where the scale is."""
    if scale.autoencoder.preset not in paper.autoencoder:
        raise ConfigError(f"{file}: autoencoder: {unknown(scale.autoencoder.preset, paper.autoencoder, 'preset')}")
    _check_autoencoders(paper, scale, file, sheets)
    _check_runs(scale, file, sheets)
    _check_evaluations(scale, paper.transformer, sheets)
    _check_tables(scale, file, sheets)
    _check_figures(sheets)
    _check_claim(scale, file, sheets)


def _check_autoencoders(paper: Paper, scale: Scale, file: Path, sheets: Sheets) -> None:
    rows, where = sheets.autoencoders.rows, sheets.autoencoders.where
    for name, row in rows.items():
        if row.init == "base":
            _base_is_there(row.repeat_of or name, len(row.seeds), scale, file, where[name])
        elif row.init not in rows:
            raise ConfigError(f"{where[name]}: {unknown(row.init, ['base', *rows], 'init')}")
        if row.teacher is not None and row.teacher not in scale.teachers:
            raise ConfigError(f"{where[name]}: {unknown(row.teacher, scale.teachers, 'teacher')} (in {file})")
        if row.equivariance is not None and not _sides(paper, scale):
            raise ConfigError(
                f"{where[name]}: equivariance scales latents, and those of {file} ({scale.latent_size} cells a side, whole tokens "
                f"of {scale.latent.cells or 1}) have no smaller side from {paper.equivariance.smallest:g} of that on; write '-'"
            )
    for name in rows:
        _starts_from_a_base({other: row.init for other, row in rows.items()}, name, where[name])


def _sides(paper: Paper, scale: Scale) -> range:
    """The sides to which the equivariance regulariser could scale latents."""
    return EquivarianceSpec(**paper.equivariance.model_dump(), cells=scale.latent.cells).sides(scale.latent_size)


def _base_is_there(name: str, seeds: int, scale: Scale, file: Path, at: str) -> None:
    if name not in scale.bases:
        raise ConfigError(f"{file}: bases has no entry '{name}', which {at} starts from")
    if seeds > 1 and scale.bases[name].kind != "trained":
        raise ConfigError(f"{at}: seeds: base '{name}' of {file} is brought in, not trained; write '-'")


def _starts_from_a_base(init: Mapping[str, str], name: str, at: str) -> None:
    seen = [name]
    while init[seen[-1]] != "base":
        start = init[seen[-1]]
        if start in seen:
            raise ConfigError(f"{at}: init runs in a circle ({' -> '.join([*seen, start])})")
        seen.append(start)


def _check_runs(scale: Scale, file: Path, sheets: Sheets) -> None:
    for name, row in sheets.runs.rows.items():
        at = sheets.runs.where[name]
        if row.autoencoder not in sheets.autoencoders.rows:
            raise ConfigError(f"{at}: {unknown(row.autoencoder, sheets.autoencoders.rows, 'autoencoder')}")
        if row.size not in scale.models:
            raise ConfigError(f"{at}: model size '{row.size}' has no entry under models in {file}")
        if scale.latent_size % row.patch:
            raise ConfigError(f"{at}: patch {row.patch} does not divide the {scale.latent_size}-wide latents of {file}")
        _milestones_ascend(row, scale.milestones, file, at)


def _milestones_ascend(row: RunRow, known: Mapping[str, int], file: Path, at: str) -> None:
    for milestone in row.milestones:
        if milestone not in known:
            raise ConfigError(f"{at}: {unknown(milestone, known, 'milestone')} (in {file})")
    steps = [known[m] for m in row.milestones]
    if steps != sorted(set(steps)):
        raise ConfigError(
            f"{at}: milestones {','.join(row.milestones)} are {steps} steps at this scale; "
            f"they must ascend, because each continues the one before"
        )


def _check_evaluations(scale: Scale, loss: TransformerLoss, sheets: Sheets) -> None:
    runs = sheets.runs.rows
    for name, row in sheets.evaluations.rows.items():
        at = sheets.evaluations.where[name]
        if row.run not in runs:
            raise ConfigError(f"{at}: {unknown(row.run, runs, 'run')}")
        if row.milestone not in runs[row.run].milestones:
            raise ConfigError(f"{at}: {unknown(row.milestone, runs[row.run].milestones, 'milestone')} (of run {row.run})")
        _sampler_fits_the_run(row, runs[row.run], at)
        _network_can(row, loss, at)
        _sampler_fits_the_scales_steps(row, scale.sampling.steps, at)


def _network_can(row: EvaluationRow, loss: TransformerLoss, at: str) -> None:
    """What a network is not trained for it cannot do, said before it is trained."""
    if row.cfg != 1 and not loss.label_dropout:
        raise ConfigError(
            f"{at}: guidance (cfg {row.cfg:g}) needs a null class: transformer.label_dropout in paper.yaml is 0; raise it"
        )
    if row.sampler.name == "ddpm" and not loss.learn_sigma:
        raise ConfigError(f"{at}: ddpm samples with learned variances: transformer.learn_sigma in paper.yaml is false; take ddim")


def _sampler_fits_the_run(row: EvaluationRow, run: RunRow, at: str) -> None:
    sampler = row.sampler
    if SAMPLERS[sampler.name].family != run.family:
        raise ConfigError(
            f"{at}: sampler {sampler.name} does not fit {run.model}; {run.family} takes {', '.join(samplers_of(run.family))}"
        )
    if sampler.form == "SBDM" and run.path != "vp":
        raise ConfigError(f"{at}: form SBDM is infinite at t = 0, where sampling starts; use sigma (only path vp can)")


def _sampler_fits_the_scales_steps(row: EvaluationRow, steps: int, at: str) -> None:
    """Of a row that states no steps; those that state them are checked as they are read."""
    sampler = row.sampler
    if sampler.steps is not None:
        return
    facts = SAMPLERS[sampler.name]
    if facts.even and (steps % 2 or steps < LEAST_OF_HEUN):
        raise ConfigError(
            f"{at}: sampler {sampler.name} with the scale's {steps} evaluations: Heun needs two a step; "
            f"write {sampler.name}:steps={max(LEAST_OF_HEUN, steps + steps % 2)}"
        )
    if facts.family == "DiT" and steps > CHAIN_STEPS:
        raise ConfigError(
            f"{at}: sampler {sampler.name} with the scale's {steps} steps: DiT's chain has {CHAIN_STEPS}; "
            f"write {sampler.name}:steps={CHAIN_STEPS}"
        )


def _check_tables(scale: Scale, file: Path, sheets: Sheets) -> None:
    known: dict[Source, Collection[str]] = {
        "evaluation": sheets.evaluations.rows,
        "autoencoder": sheets.autoencoders.rows,
        "settings": SETTINGS_ROWS,
    }
    for table in sheets.tables.values():
        for metric in table.metrics:
            _is_measured(metric, scale, file, f"{sheets.files['tables.yaml']}: {table.name}")
        for row in table.rows:
            if row.source != "literature" and row.source not in known[table.source]:
                at = sheets.table_rows.get((table.name, row.key), table.name)
                raise ConfigError(f"{at}: {unknown(row.source, known[table.source], table.source)} (or 'literature')")


def _is_measured(metric: str, scale: Scale, file: Path, at: str) -> None:
    key = METRICS[metric].judge
    if key is not None and metric not in scale.evaluation.judges:
        raise ConfigError(f"{at}: {metric} is measured by evaluation.{key}, which {file} does not set; set it, or leave it out")
    if metric == "fid_interval" and not scale.evaluation.intervals:
        raise ConfigError(f"{at}: {metric} is measured where evaluation.intervals is true; set it in {file}, or leave it out")


def _check_figures(sheets: Sheets) -> None:
    file = sheets.files["figures.yaml"]
    for figure, names, known in _shown(sheets.figures, sheets):
        for name in names:
            if name not in known:
                raise ConfigError(f"{file}: {figure}: {unknown(name, known, 'name')}")
    _weights_ascend(sheets.figures.figure5["evaluations"], sheets, f"{file}: figure5")


def _shown(figures: FigureSheet, sheets: Sheets) -> Iterator[tuple[str, Collection[str], Collection[str]]]:
    """(figure, names it shows, names of the sheet they are of)."""
    autoencoders, evaluations = sheets.autoencoders.rows, sheets.evaluations.rows
    yield "figure1", figures.figure1["autoencoders"], autoencoders
    yield "figure3", [figures.figure3["evaluation"]], evaluations
    yield "figure4", [figures.figure4["evaluation"]], evaluations
    yield "figure5", figures.figure5["evaluations"], evaluations
    yield "checkpoints", figures.checkpoints["evaluations"], evaluations
    yield "reconstructions", figures.reconstructions["autoencoders"], autoencoders


def _weights_ascend(names: tuple[str, ...], sheets: Sheets, at: str) -> None:
    """ConfigError where these evaluations are no sweep over the KL weight; ``at`` is the figure that shows them."""
    weights: list[float] = []
    for name in names:
        autoencoder = sheets.runs.rows[sheets.evaluations.rows[name].run].autoencoder
        weight = sheets.autoencoders.rows[autoencoder].lambda_k
        if weight is None:
            raise ConfigError(f"{at}: {name} is of autoencoder '{autoencoder}', which has no lambda_k; leave it out")
        if weights and weight <= weights[-1]:
            raise ConfigError(f"{at}: lambda_k is {weight:g} at {name} after {weights[-1]:g}; order them so that it ascends")
        weights.append(weight)


def _check_claim(scale: Scale, file: Path, sheets: Sheets) -> None:
    """ConfigError where the arms of a claim do not differ in what they are alone, or a judge of it is none of the scale's."""
    if sheets.claim is None:
        return
    at, rows, claim = sheets.files["claim.yaml"], sheets.evaluations.rows, sheets.claim
    for metric in claim.metrics:
        _is_measured(metric, scale, file, f"{at}: metrics")
    known = [name for name, row in rows.items() if row.repeat_of is None]
    for arm, names in claim.arms.items():
        for name, other in zip(names, claim.arms[claim.claimed], strict=True):
            if name not in known:
                raise ConfigError(f"{at}: arms: {arm}: {unknown(name, known, 'evaluation')}")
            if other in known and (difference := _differs(rows[name], rows[other])):
                raise ConfigError(f"{at}: arms: {name} and {other} differ in {difference}; arms differ in their run alone")
        steps = [scale.milestones[rows[name].milestone] for name in names]
        if steps != sorted(set(steps)):
            raise ConfigError(f"{at}: arms: {arm}: milestones are {steps} steps at this scale; order them so that they ascend")


def _differs(row: EvaluationRow, other: EvaluationRow) -> str | None:
    """The first setting, beside the run, that tells two evaluations apart."""
    settings = EvaluationRow.model_fields.keys() - {"name", "run", "seeds", "repeat_of"}
    return next((key for key in EvaluationRow.model_fields if key in settings and getattr(row, key) != getattr(other, key)), None)
