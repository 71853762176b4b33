"""The paper's tables, measured beside published: one grid of cells, written as Markdown, CSV and LaTeX."""

import csv
import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reals.config import TableRow, TableSheet
from reals.extractors import METRIC_NAMES, metric_name
from reals.files import write_text

Results = Mapping[tuple[str, str], Mapping[str, Any] | None]
Status = Literal["measured", "missing", "literature"]

MISSING, LITERATURE, LITERATURE_MARK, MINUS = "…", "—", "†", "−"
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
PLAIN_NAMES = {
    "fid_second": "FID (second judge)",
    "sc_crop": "Crop",
    "sc_flip": "Flip",
    "sc_blur": "Gaussian blur",
    "sc_grayscale": "Grayscale",
    "sc_all": "All",
    "psnr": "PSNR (dB)",
    "ssim_paper": "SSIM",
    "ssim": "SSIM (standard)",
    "lpips": "LPIPS",
    "optimizer": "Optimizer",
    "lr": "Learning rate",
    "schedule": "Schedule",
    "min_lr": "Final learning rate",
    "batch": "Batch size",
    "epochs": "Epochs",
}
# As the paper prints them; distances also get three significant digits: they are small on small images.
DECIMALS = {"ssim_paper": 3, "ssim": 3, "lpips": 3}
DISTANCES = ("fid", "sfid", "rfid", "kid")


@dataclass(frozen=True)
class Cell:
    """One metric of one row: the published value as printed (None: blank) and ours.

    ``measured`` is a number, or a text in tables of settings; it is None unless ``status`` is "measured".
    ``provenance`` is the metrics file the number comes from (None in tables of settings).
    """

    published: str | None
    measured: float | str | None
    status: Status
    provenance: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Change:
    """Relative change of the FID against the row's baseline, in percent; negative is better."""

    published: float | None
    measured: float | None


@dataclass(frozen=True)
class Group:
    """The columns of one metric: its name, its name with our feature network, if anything is published.

    ``ours`` heads our column: "measured", or "used" for settings.
    """

    metric: str
    name: str
    measured_name: str
    published: bool
    ours: str

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
    columns: tuple[str, ...]
    label_names: tuple[str, ...]
    groups: tuple[Group, ...]
    rows: tuple[Row, ...]
    compare: bool
    mean: Mean | None
    notes: tuple[str, ...]
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
        lines = []
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


def percent(value: float | None) -> str:
    """A signed percentage with one decimal and a true minus; "" for None."""
    return "" if value is None else f"{value:+.1f}".replace("-", MINUS)


def shown(metric: str, cell: Cell) -> str:
    """The measured half of a cell as text: a number, a setting, or the mark for missing or literature."""
    if cell.status != "measured":
        return MISSING if cell.status == "missing" else LITERATURE
    if isinstance(cell.measured, str):
        return cell.measured
    decimals = DECIMALS.get(metric, 2)
    if metric in DISTANCES and 0 < abs(cell.measured) < 1:
        decimals = max(decimals, 2 - math.floor(math.log10(abs(cell.measured))))
    return f"{cell.measured:.{decimals}f}"


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
    names the feature network of FID and its kin; ``paper`` says that figures compare with the published ones.
    Raises ValueError if a metric needs a network and there is none, if a result was measured with another
    one, or if a value is not finite.
    """
    if network is None and any(metric in METRIC_NAMES for metric in sheet.metrics):
        raise ValueError(f"{sheet.name}: network is None, but the table has FID or its kin; name the feature network")
    cells = {
        row.key: tuple(_cell(sheet, row, metric, results, network, settings) for metric in sheet.metrics) for row in sheet.rows
    }
    changes = {row.key: _change(sheet, row, cells) for row in sheet.rows}
    notes = tuple(dict.fromkeys(row.note for row in sheet.rows if row.note is not None))
    missing = [f"{sheet.source} {row.source}" for row in sheet.rows if any(cell.status == "missing" for cell in cells[row.key])]
    return Table(
        name=sheet.name,
        title=sheet.title,
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
    name = METRIC_NAMES.get(metric) or PLAIN_NAMES.get(metric)
    if name is None:
        known = ", ".join([*METRIC_NAMES, *PLAIN_NAMES])
        raise ValueError(f"{sheet.name}: unknown metric '{metric}'; expected one of {known}")
    measured = metric_name(metric, network) if metric in METRIC_NAMES else name
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
    used = result.get("protocol", {}).get("feature network")
    if metric in METRIC_NAMES and used is not None and used != network:
        raise ValueError(f"{at}: {metric} was measured with '{used}', the table is of '{network}'; measure it again")
    value = float(result["values"][metric])
    if not math.isfinite(value):
        raise ValueError(f"{at}: {metric} is {value}, expected a finite number; measure it again")
    return Cell(published, value, "measured", result)


def _change(sheet: TableSheet, row: TableRow, cells: Mapping[str, tuple[Cell, ...]]) -> Change | None:
    if not sheet.compare or row.baseline is None:
        return None
    fid = sheet.metrics.index("fid")
    ours, baseline = cells[row.key][fid], cells[row.baseline][fid]
    return Change(
        _relative(ours.published, baseline.published),
        _relative(ours.measured, baseline.measured),
    )


def _relative(value: str | float | None, baseline: str | float | None) -> float | None:
    if value is None or baseline is None:
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
        header += [f"{group.name} published"] * group.published + [f"{group.measured_name} {group.ours}"]
    if table.compare:
        header += ["ΔFID published %", "ΔFID measured %"]
    body, section = [], None
    for row in table.rows:
        if row.section != section:
            section = row.section
            body.append([f"**{_escape_markdown(section or '')}**", *[""] * (len(header) - 1)])
        body.append([_escape_markdown(label) for label in _marked_labels(row)] + _texts(table, row))
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
    if table.compare:
        header += ["fid_change_published_percent", "fid_change_measured_percent"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header, "note"])
    for row in table.rows:
        source = next((cell.provenance for cell in row.cells if cell.provenance is not None), None)
        line = [row.key, row.section or "", *row.labels, row.source, source["id"] if source else ""]
        for group, cell in zip(table.groups, row.cells, strict=True):
            line += [cell.published or ""] * group.published + ["" if cell.measured is None else cell.measured]
        if table.compare:
            change = row.change or Change(None, None)
            line += ["" if value is None else value for value in (change.published, change.measured)]
        writer.writerow([*line, table.notes[row.note - 1] if row.note else ""])
    return text.getvalue()


def latex(table: Table) -> str:
    """A ``table*`` float for booktabs, adjustbox and xcolor, with published figures in grey."""
    spans = [2 if group.published else 1 for group in table.groups]
    align = "l" * len(table.columns) + "r" * sum(spans) + ("rr" if table.compare else "")
    top, rules, sub, at = (
        [""] * len(table.columns),
        [],
        [_tex(c) for c in table.columns],
        len(table.columns) + 1,
    )
    headers = [(group.name, [*(["published"] if group.published else []), group.measured_as]) for group in table.groups]
    if table.compare:
        headers.append(("ΔFID (%)", ["published", "measured"]))
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
            lines.append(rf"\multicolumn{{{len(align)}}}{{l}}{{\emph{{{_tex(section or '')}}}}} \\")
        labels = [_tex(label) for label in row.labels]
        marks = (LITERATURE_MARK if row.literature else "") + (str(row.note) if row.note else "")
        labels[0] += rf"\textsuperscript{{{_tex(marks)}}}" if marks else ""
        texts, grey = _texts(table, row), _published_columns(table)
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


def _texts(table: Table, row: Row) -> list[str]:
    texts = []
    for group, cell in zip(table.groups, row.cells, strict=True):
        texts += [cell.published or ""] * group.published + [shown(group.metric, cell)]
    if table.compare:
        change = row.change or Change(None, None)
        texts += [percent(change.published), percent(change.measured)]
    return texts


def _published_columns(table: Table) -> list[bool]:
    columns = []
    for group in table.groups:
        columns += [True, False] if group.published else [False]
    return columns + ([True, False] if table.compare else [])


def _marked_labels(row: Row) -> list[str]:
    mark = (LITERATURE_MARK if row.literature else "") + (_superscript(row.note) if row.note else "")
    return [row.labels[0] + mark, *row.labels[1:]]


def _superscript(number: int) -> str:
    return str(number).translate(SUPERSCRIPTS)


def _escape_markdown(text: str) -> str:
    return re.sub(r"([|*_\\])", r"\\\1", text)


def _grey(text: str) -> str:
    return rf"\textcolor{{gray}}{{{_tex(text)}}}" if text else ""


TEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "[": "{[}",  # after \\ a bare bracket or star would be read as its argument
    "]": "{]}",
    "*": "{*}",
    '"': "''",
    "Δ": r"$\Delta$",
    "λ": r"$\lambda$",
    "σ": r"$\sigma$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "·": r"$\cdot$",
    "±": r"$\pm$",
    MINUS: "$-$",
    MISSING: r"\dots{}",
    LITERATURE: "---",
    "–": "--",
    LITERATURE_MARK: r"\dag{}",
    "≥": r"$\geq$",
    "→": r"$\to$",
    "²": r"\textsuperscript{2}",
    "’": "'",
}


def _tex(text: str) -> str:
    """Text as LaTeX source; Latin letters stay UTF-8. ValueError on a character pdflatex would not know."""
    for c in text:
        if c not in TEX and not c.isascii() and not (c.isalpha() and c < "\u0180"):
            raise ValueError(f"'{text}': no LaTeX spelling for '{c}' (U+{ord(c):04X}); add one to reals.report.tables.TEX")
    return "".join(TEX.get(c, c) for c in text)
