"""The paper's tables, measured beside published: one grid of cells, written as Markdown, CSV and LaTeX."""

import csv
import io
import math
import re
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from reals.experiment.metric_table import EXTRACTOR_KEYS, METRICS, OF_EXTRACTOR, metric_name
from reals.experiment.report_sheets import TableRow, TableSheet
from reals.experiment.spelling import LITERATURE, LITERATURE_MARK, MINUS, MISSING, tex
from reals.files import write_text

Results = Mapping[tuple[str, str], Mapping[str, Any] | None]
Status = Literal["measured", "missing", "literature"]

SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Cell:
    """One metric of one row: the published value as printed (None: blank) and ours.

    ``measured`` is a number, or a text in tables of settings; it is None unless ``status`` is "measured".
    ``provenance`` is the metrics file the number comes from (None in tables of settings). Where the row is repeated with
    several seeds, ``by_seed`` holds the value of each that is measured, ``measured`` is their mean, and ``planned`` counts
    those that the sheet asks for. ``best``: no row of its section is better, as printed.
    """

    published: str | None
    measured: float | str | None
    status: Status
    provenance: Mapping[str, Any] | None = None
    by_seed: Mapping[int, float] = field(default_factory=dict)
    planned: int = 0
    best: bool = False

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds (n - 1); None with fewer than two."""
        return statistics.stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None


@dataclass(frozen=True)
class Change:
    """Relative change of the FID against the row's baseline, in percent; negative is better.

    Where both rows have seeds in common ``measured`` and ``deviation`` (None with one) are of the changes seed by seed.
    """

    published: float | None
    measured: float | None
    deviation: float | None = None


@dataclass(frozen=True)
class Group:
    """The columns of one metric: its name, its name with our feature extractor, if anything is published.

    ``ours`` heads our column: "measured", or "used" for settings.
    """

    metric: str
    name: str
    measured_name: str
    published: bool
    ours: str

    @property
    def heading(self) -> str:
        """The metric's name with an arrow towards better."""
        return f"{self.name} {METRICS[self.metric].arrow}".strip()

    @property
    def measured_as(self) -> str:
        """Header of our column below the metric's name, e.g. "measured (digits-cnn)"."""
        return self.ours + self.measured_name.removeprefix(self.name)


@dataclass(frozen=True)
class Row:
    """``note`` is a 1-based index into the table's notes; ``labels`` are in the order of its columns."""

    key: str
    section: str | None
    labels: tuple[str, ...]
    source: str
    cells: tuple[Cell, ...]
    change: Change | None
    note: int | None

    @property
    def literature(self) -> bool:
        return all(cell.status == "literature" for cell in self.cells)


@dataclass(frozen=True)
class Mean:
    """Mean change over the ``pairs`` of which the paper prints both ends, and over those also measured."""

    published: float
    pairs: int
    measured: float | None
    measured_pairs: int


@dataclass(frozen=True)
class Table:
    """One table, ready to be written in any format."""

    name: str
    title: str
    source: str
    columns: tuple[str, ...]
    label_names: tuple[str, ...]
    groups: tuple[Group, ...]
    rows: tuple[Row, ...]
    compare: bool
    mean: Mean | None
    notes: tuple[str, ...]
    remarks: tuple[str, ...]
    scale: str
    protocol: Mapping[str, str]
    comparable: bool
    missing: tuple[str, ...]

    @property
    def number(self) -> str:
        """ "table03" is "Table 3"; a table that is not the paper's goes by its name."""
        number = self.name.removeprefix("table")
        return f"Table {int(number)}" if number.isdigit() else self.name.capitalize()

    @property
    def published(self) -> bool:
        """If the paper prints anything in it."""
        return any(group.published for group in self.groups)

    @property
    def repeated(self) -> bool:
        """If some row is measured with several seeds."""
        return any(cell.deviation is not None for row in self.rows for cell in row.cells)

    @property
    def caveat(self) -> str | None:
        """The sentence that every table not at the paper's scale carries."""
        return None if self.comparable else caveat(self.scale)

    @property
    def mean_sentence(self) -> str | None:
        if self.mean is None:
            return None
        ours = f"{percent(self.mean.measured)} %" if self.mean.measured is not None else MISSING
        some = f" ({self.mean.measured_pairs} of them)" if 0 < self.mean.measured_pairs < self.mean.pairs else ""
        return (
            f"Mean ΔFID over the {self.mean.pairs} pair{'s' * (self.mean.pairs > 1)} the paper compares: "
            f"published {percent(self.mean.published)} %, measured {ours}{some}."
        )

    @property
    def legend(self) -> tuple[str, ...]:
        """Explains only the marks this table uses."""
        lines = list(self.remarks)
        cells = [cell for row in self.rows for cell in row.cells]
        if any(group.heading != group.name for group in self.groups):
            best = " The best measured value of each section is in bold." if any(cell.best for cell in cells) else ""
            lines.append(f"Arrows point to better.{best}")
        if counts := {len(cell.by_seed) for cell in cells if cell.deviation is not None}:
            few, many = min(counts), max(counts)
            seeds = f"{few}" if few == many else f"{few} to {many}"
            more = " (more are planned)" if any(0 < len(cell.by_seed) < cell.planned for cell in cells) else ""
            of = {
                "autoencoder": "of the autoencoder",
                "evaluation": "of the transformer, and of its autoencoder where that one is repeated too",
            }[self.source]
            change = ", ΔFID that of the changes seed by seed" if self.compare else ""
            lines.append(f"±: standard deviation over {seeds} seeds{more} {of}; the value is their mean{change}.")
        if any(cell.status == "missing" for row in self.rows for cell in row.cells):
            lines.append(f"{MISSING} not measured yet at this scale.")
        if any(row.literature for row in self.rows):
            lines.append(f"{LITERATURE_MARK} literature: typed from the paper, nothing to measure ({LITERATURE}).")
        if any(group.metric == "ssim_paper" for group in self.groups):
            lines.append("SSIM is the paper's convention (7×7 window, data range 2 on images in [0, 1]).")
        if not self.comparable:
            lines.append("Labels (models, sizes, steps, epochs) are the paper's.")
        return tuple(lines)


def caveat(scale: str) -> str:
    """What must stand by every measured figure of a scale that is not the paper's."""
    return (
        f"Measured at {scale} scale, not under the paper's protocol: measured figures are not comparable "
        "with published ones; compare measured figures with each other."
    )


def percent(value: float | None, deviation: float | None = None) -> str:
    """A signed percentage with one decimal and a true minus, and its deviation if there is one; "" for None."""
    if value is None:
        return ""
    return f"{value:+.1f}".replace("-", MINUS) + ("" if deviation is None else f" ± {deviation:.1f}")


def shown(metric: str, cell: Cell) -> str:
    """The measured half of a cell as text: a number, a setting, or the mark for missing or literature."""
    if cell.status != "measured":
        return MISSING if cell.status == "missing" else LITERATURE
    if isinstance(cell.measured, str):
        return cell.measured
    decimals = METRICS[metric].decimals
    if METRICS[metric].distance and 0 < abs(cell.measured) < 1:
        decimals = max(decimals, 2 - math.floor(math.log10(abs(cell.measured))))
    spread = "" if cell.deviation is None else f" ± {cell.deviation:.{decimals}f}"
    return f"{cell.measured:.{decimals}f}{spread}"


def build(
    sheet: TableSheet,
    results: Results,
    *,
    scale: str,
    protocol: Mapping[str, str],
    network: str | None,
    settings: Mapping[str, Mapping[str, str]],
    paper: bool = False,
) -> Table:
    """The grid of one table.

    ``results`` maps (kind, name) to a loaded metrics file, None or absent while there is none. ``network``
    names the feature extractor of FID and its kin; ``paper`` says that figures compare with the published ones.
    Raises ValueError if a metric needs a network and there is none, if a result was measured with another
    one, or if a value is not finite.
    """
    for metric in sheet.metrics:
        if metric not in METRICS:
            raise ValueError(f"{sheet.name}: unknown metric '{metric}'; expected one of {', '.join(METRICS)}")
    if network is None and any(metric in OF_EXTRACTOR for metric in sheet.metrics):
        raise ValueError(f"{sheet.name}: network is None, but the table has FID or its kin; name the feature extractor")
    cells = {
        row.key: tuple(_cell(sheet, row, metric, results, network, settings) for metric in sheet.metrics) for row in sheet.rows
    }
    cells = _with_best(sheet, cells)
    changes = {row.key: _change(sheet, row, cells) for row in sheet.rows}
    notes = tuple(dict.fromkeys(row.note for row in sheet.rows if row.note is not None))
    missing = [f"{sheet.source} {row.source}" for row in sheet.rows if any(cell.status == "missing" for cell in cells[row.key])]
    return Table(
        name=sheet.name,
        title=sheet.title,
        source=sheet.source,
        columns=tuple(sheet.columns.values()),
        label_names=tuple(sheet.columns),
        groups=tuple(_group(sheet, metric, network) for metric in sheet.metrics),
        rows=tuple(
            Row(
                key=row.key,
                section=row.section,
                labels=tuple("" if row.labels[c] == "-" else row.labels[c] for c in sheet.columns),
                source=row.source,
                cells=cells[row.key],
                change=changes[row.key],
                note=notes.index(row.note) + 1 if row.note is not None else None,
            )
            for row in sheet.rows
        ),
        compare=sheet.compare,
        mean=_mean(changes.values()) if sheet.compare else None,
        notes=notes,
        remarks=sheet.remarks,
        scale=scale,
        protocol=dict(protocol),
        comparable=paper,
        missing=tuple(dict.fromkeys(missing)),
    )


def render(
    sheet: TableSheet,
    results: Results,
    *,
    scale: str,
    protocol: Mapping[str, str],
    network: str | None,
    settings: Mapping[str, Mapping[str, str]],
    folder: Path,
    paper: bool = False,
) -> list[Path]:
    """Write ``folder/<name>.md``, ``.csv`` and ``.tex``, each atomically; arguments as for ``build``."""
    table = build(sheet, results, scale=scale, protocol=protocol, network=network, settings=settings, paper=paper)
    paths = []
    for suffix, text in (("md", markdown(table)), ("csv", comma_separated(table)), ("tex", latex(table))):
        path = folder / f"{sheet.name}.{suffix}"
        write_text(path, text)
        paths.append(path)
    return paths


def _group(sheet: TableSheet, metric: str, network: str | None) -> Group:
    name = METRICS[metric].printed
    measured = metric_name(metric, network) if metric in OF_EXTRACTOR else name
    published = any(row.published[metric] is not None for row in sheet.rows)
    return Group(metric, name, measured, published, "used" if sheet.source == "settings" else "measured")


def _cell(
    sheet: TableSheet,
    row: TableRow,
    metric: str,
    results: Results,
    network: str | None,
    settings: Mapping[str, Mapping[str, str]],
) -> Cell:
    published = row.published[metric]
    if row.source == "literature":
        return Cell(published, None, "literature")
    if sheet.source == "settings":
        value = settings.get(row.source, {}).get(metric)
        return Cell(published, value, "missing" if value is None else "measured")
    result = results.get((sheet.source, row.source))
    if result is None or metric not in result["values"]:
        return Cell(published, None, "missing")
    at = f"{sheet.name}: {sheet.source} {row.source} ({result['id']})"
    protocol = result.get("protocol", {})
    used = next((protocol[key] for key in EXTRACTOR_KEYS if key in protocol), None)
    if metric in OF_EXTRACTOR and used is not None and used != network:
        raise ValueError(f"{at}: {metric} was measured with '{used}', the table is of '{network}'; measure it again")
    by_seed = of_seeds(result, metric) if sheet.over_seeds else {}
    for value in (float(result["values"][metric]), *by_seed.values()):
        if not math.isfinite(value):
            raise ValueError(f"{at}: {metric} is {value}, expected a finite number; measure it again")
    mean = statistics.mean(by_seed.values()) if by_seed else float(result["values"][metric])
    return Cell(published, mean, "measured", result, by_seed, result.get("planned", 0))


def of_seeds(result: Mapping[str, Any], metric: str) -> dict[int, float]:
    """Seed -> a metric of a metrics file, of each seed that is measured; {} where its row is not repeated."""
    return {r["seed"]: float(r["values"][metric]) for r in result.get("repeats", []) if metric in r["values"]}


def _with_best(sheet: TableSheet, cells: Mapping[str, tuple[Cell, ...]]) -> dict[str, tuple[Cell, ...]]:
    """The cells, the best measured one of each metric in each section marked: all that tie as printed, none where nothing differs."""
    marked = {key: list(row) for key, row in cells.items()}
    for section in dict.fromkeys(row.section for row in sheet.rows):
        keys = [row.key for row in sheet.rows if row.section == section]
        for at, metric in enumerate(sheet.metrics):
            sign = {"higher": 1, "lower": -1, None: 0}[METRICS[metric].better]
            found = {key: cells[key][at] for key in keys if isinstance(cells[key][at].measured, float)}
            if not sign or len({sheet_row.source for sheet_row in sheet.rows if sheet_row.key in found}) < 2:
                continue
            printed = {key: float(shown(metric, cell).split()[0]) for key, cell in found.items()}
            if len(set(printed.values())) < 2:
                continue
            best = max(sign * value for value in printed.values())
            for key, value in printed.items():
                if sign * value == best:
                    marked[key][at] = replace(marked[key][at], best=True)
    return {key: tuple(row) for key, row in marked.items()}


def _change(sheet: TableSheet, row: TableRow, cells: Mapping[str, tuple[Cell, ...]]) -> Change | None:
    if not sheet.compare or row.baseline is None:
        return None
    fid = sheet.metrics.index("fid")
    ours, baseline = cells[row.key][fid], cells[row.baseline][fid]
    published = _relative(ours.published, baseline.published)
    both = [seed for seed in ours.by_seed if seed in baseline.by_seed]
    if not both:
        return Change(published, _relative(ours.measured, baseline.measured))
    each = [_relative(ours.by_seed[seed], baseline.by_seed[seed]) for seed in both]
    return Change(published, statistics.mean(each), statistics.stdev(each) if len(each) > 1 else None)


def _relative(value: str | float | None, baseline: str | float | None) -> float | None:
    if value is None or baseline is None or float(baseline) == 0:
        return None
    return 100 * (float(value) - float(baseline)) / float(baseline)


def _mean(changes) -> Mean | None:
    pairs = [change for change in changes if change is not None and change.published is not None]
    if not pairs:
        return None
    measured = [change.measured for change in pairs if change.measured is not None]
    return Mean(
        published=sum(change.published for change in pairs) / len(pairs),
        pairs=len(pairs),
        measured=sum(measured) / len(measured) if measured else None,
        measured_pairs=len(measured),
    )


def markdown(table: Table) -> str:
    """A Markdown page; columns are padded so that the raw text reads too."""
    lines = [f"# {table.number}. {table.title}", "", f"- scale: {table.scale}"]
    lines += [f"- {key}: {value}" for key, value in table.protocol.items()]
    if table.caveat:
        lines += ["", f"**{table.caveat}**"]
    header = list(table.columns)
    for group in table.groups:
        network = group.measured_as.removeprefix(group.ours)
        header += [f"{group.heading} published"] * group.published + [f"{group.heading}{network} {group.ours}"]
    if table.compare:
        header += ["ΔFID published %"] * table.published + ["ΔFID measured %"]
    body, section = [], None
    for row in table.rows:
        if row.section != section:
            section = row.section
            body.append([f"**{_escape_markdown(section or '')}**", *[""] * (len(header) - 1)])
        body.append([_escape_markdown(label) for label in _marked_labels(row)] + _texts(table, row, "**{}**".format))
    widths = [max(3, *(len(line[i]) for line in [header, *body])) for i in range(len(header))]
    left = len(table.columns)
    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    lines.append("")
    for line in (header, rule, *body):
        padded = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        lines.append(f"| {' | '.join(padded)} |")
    if table.mean_sentence:
        lines += ["", table.mean_sentence]
    if table.notes:
        lines += [
            "",
            *(f"- {_superscript(i)} {_escape_markdown(note)}." for i, note in enumerate(table.notes, 1)),
        ]
    if table.legend:
        lines += ["", *(f"- {line}" for line in table.legend)]
    return "\n".join(lines) + "\n"


def comma_separated(table: Table) -> str:
    """Plain numbers in full precision, one line per row, empty where there is none, after `#` lines."""
    text = io.StringIO()
    comments = [f"{table.number}. {table.title}", f"scale: {table.scale}"]
    comments += [f"{key}: {value}" for key, value in table.protocol.items()]
    comments += [table.caveat] if table.caveat else []
    comments += [f"{group.metric}: {group.measured_name}" for group in table.groups]
    comments += [table.mean_sentence] if table.mean_sentence else []
    text.writelines(f"# {line}\n" for line in comments)
    header = ["key", "section", *table.label_names, "source", "id"]
    for group in table.groups:
        header += [f"{group.metric}_published"] * group.published + [f"{group.metric}_measured"]
        header += [f"{group.metric}_std", f"{group.metric}_seeds"] * table.repeated
    if table.compare:
        header += ["fid_change_published_percent"] * table.published + ["fid_change_measured_percent"]
        header += ["fid_change_std_percent"] * table.repeated
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header, "note"])
    for row in table.rows:
        source = next((cell.provenance for cell in row.cells if cell.provenance is not None), None)
        line = [row.key, row.section or "", *row.labels, row.source, source["id"] if source else ""]
        for group, cell in zip(table.groups, row.cells, strict=True):
            line += [cell.published or ""] * group.published + [_plain(cell.measured)]
            line += [_plain(cell.deviation), len(cell.by_seed) or ""] * table.repeated
        if table.compare:
            change = row.change or Change(None, None)
            line += [_plain(change.published)] * table.published + [_plain(change.measured)]
            line += [_plain(change.deviation)] * table.repeated
        writer.writerow([*line, table.notes[row.note - 1] if row.note else ""])
    return text.getvalue()


def _plain(value: float | str | None) -> float | str:
    return "" if value is None else value


def latex(table: Table) -> str:
    """A ``table*`` float for booktabs, adjustbox and xcolor, with published figures in grey."""
    spans = [2 if group.published else 1 for group in table.groups]
    align = "l" * len(table.columns) + "r" * sum(spans) + "r" * (1 + table.published if table.compare else 0)
    top, rules, sub, at = (
        [""] * len(table.columns),
        [],
        [_tex(c) for c in table.columns],
        len(table.columns) + 1,
    )
    headers = [(group.heading, [*(["published"] if group.published else []), group.measured_as]) for group in table.groups]
    if table.compare:
        headers.append(("ΔFID (%)", ["published"] * table.published + ["measured"]))
    for name, below in headers:
        top.append(rf"\multicolumn{{{len(below)}}}{{c}}{{{_tex(name)}}}")
        rules.append(rf"\cmidrule(lr){{{at}-{at + len(below) - 1}}}")
        sub += [_grey(h) if h == "published" else _tex(h) for h in below]
        at += len(below)
    lines = [
        r"% needs \usepackage{booktabs,adjustbox,xcolor}",
        r"\begin{table*}[t]",
        r"\centering",
        rf"\caption{{{_tex(table.title)}}}",
        rf"\label{{tab:{table.name}}}",
        r"\begin{adjustbox}{max width=\textwidth}",
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        " & ".join(top) + r" \\",
        "".join(rules),
        " & ".join(sub) + r" \\",
        r"\midrule",
    ]
    section = None
    for k, row in enumerate(table.rows):
        if row.section != section:
            section = row.section
            lines += [r"\addlinespace"] if k else []
            if section:
                lines.append(rf"\multicolumn{{{len(align)}}}{{l}}{{\emph{{{_tex(section)}}}}} \\")
        labels = [_tex(label) for label in row.labels]
        marks = (LITERATURE_MARK if row.literature else "") + (str(row.note) if row.note else "")
        labels[0] += rf"\textsuperscript{{{_tex(marks)}}}" if marks else ""
        texts, grey = _texts(table, row, BOLD.format), _published_columns(table)
        lines.append(" & ".join(labels + [_grey(t) if g else _tex(t) for t, g in zip(texts, grey, strict=True)]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{adjustbox}", ""]
    header = "; ".join([f"scale: {table.scale}", *(f"{key}: {value}" for key, value in table.protocol.items())])
    below = [f"{header}."]
    below += [text for text in (table.caveat, table.mean_sentence) if text]
    paragraphs = [_tex(line) for line in below]
    paragraphs += [rf"\textsuperscript{{{i}}} {_tex(note)}." for i, note in enumerate(table.notes, 1)]
    paragraphs += [_tex(line) for line in table.legend]
    lines += [r"\par\smallskip", r"\begin{minipage}{\textwidth}\footnotesize"]
    lines += [rf"{p}\par" for p in paragraphs]
    lines += [r"\end{minipage}", r"\end{table*}"]
    return "\n".join(lines) + "\n"


def _texts(table: Table, row: Row, bold: Callable[[str], str]) -> list[str]:
    texts = []
    for group, cell in zip(table.groups, row.cells, strict=True):
        ours = shown(group.metric, cell)
        texts += [cell.published or ""] * group.published + [bold(ours) if cell.best else ours]
    if table.compare:
        change = row.change or Change(None, None)
        texts += [percent(change.published)] * table.published + [percent(change.measured, change.deviation)]
    return texts


def _published_columns(table: Table) -> list[bool]:
    columns = []
    for group in table.groups:
        columns += [True, False] if group.published else [False]
    return columns + [True] * (table.compare and table.published) + [False] * table.compare


def _marked_labels(row: Row) -> list[str]:
    mark = (LITERATURE_MARK if row.literature else "") + (_superscript(row.note) if row.note else "")
    return [row.labels[0] + mark, *row.labels[1:]]


def _superscript(number: int) -> str:
    return str(number).translate(SUPERSCRIPTS)


def _escape_markdown(text: str) -> str:
    return re.sub(r"([|*_\\])", r"\\\1", text)


def _grey(text: str) -> str:
    return rf"\textcolor{{gray}}{{{_tex(text)}}}" if text else ""


BOLD = "⟪{}⟫"  # marks a bold cell until it is spelled in LaTeX


def _tex(text: str) -> str:
    """Text, or a cell marked as bold, as LaTeX source; ValueError on a character pdflatex would not know."""
    return rf"\textbf{{{tex(text[1:-1])}}}" if text.startswith("⟪") else tex(text)
