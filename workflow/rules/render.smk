SHEETS = EXPERIMENT.sheets
MODULES = Path(files.__file__).parent


def code(*patterns):
    """Modules, templates and styles that an output depends on: a changed one has it drawn again."""
    return sorted(file for pattern in patterns for file in MODULES.glob(pattern))


# In `snakemake --report` the Markdown of each table, by its number and title.
TABLE_LABELS = {
    f"{ROOT}/tables/{name}.md": {"table": name, "title": sheet.title.removesuffix(".")} for name, sheet in EXPERIMENT.tables.items()
}


def stated_by_the_scale(wildcards):
    """What tables and page print of the scale: no file, and in no id, so that nothing else would have them printed again.

    A function, because Snakemake reads braces in plain texts as wildcards.
    """
    return [f"paper: {SCALE.paper}", f"description: {SCALE.description}", *(f"{key}: {value}" for key, value in protocol(REGISTRY).items())]


def figure_inputs(wildcards):
    return [str(file) for file in GRAPH.drawn_from(wildcards.figure)]


rule tables:
    input:
        metrics=SHOWN,
        sheets=[SHEETS["tables.yaml"], *sorted(SHEETS["tables"].glob("*.tsv"))],
        code=code(
            "report/tables/*.*", "report/results.py", "report/exports.py", "report/template.py",
            "experiment/metric_table.py", "experiment/spelling.py",
        ),
    output:
        [
            report(file, caption="../report/table.rst", category="Tables", labels=TABLE_LABELS[file]) if file in TABLE_LABELS else file
            for file in TABLES
        ],
        f"{ROOT}/metrics.json",
        f"{ROOT}/evaluations.csv",
    log:
        f"{ROOT}/logs/tables.log",
    params:
        shown=SHOWN,  # another set of numbers is another table, whatever the files' ages
        stated=stated_by_the_scale,
    shell:
        DRIVER.call("tables") + " > {log} 2>&1"


rule figure:
    input:
        metrics=figure_inputs,
        sheet=SHEETS["figures.yaml"],
        code=code("report/figures/*.*", "report/results.py"),
    output:
        f"{ROOT}/figures/{{figure}}.pdf",
        report(
            f"{ROOT}/figures/{{figure}}.png", caption="../report/figure.rst", category="Figures", labels={"figure": "{figure}"}
        ),
    log:
        f"{ROOT}/logs/figure/{{figure}}.log",
    params:
        shown=figure_inputs,
        caption=lambda wildcards: f"{figure_table.title(wildcards.figure)}. {figure_table.caption(EXPERIMENT, wildcards.figure)}",
        milestones=lambda wildcards: list(SCALE.milestones),  # their names label lines and rows
    wildcard_constraints:
        figure="|".join(FIGURE_NAMES),
    shell:
        DRIVER.call("figure {wildcards.figure}") + " > {log} 2>&1"


rule report:
    input:
        TABLES,
        FIGURES,
        claim=[SHEETS["claim.yaml"]] if EXPERIMENT.claim else [],
        code=code("report/page.*", "report/template.py", "report/claim.py", "report/paired.py"),
    output:
        # update: an early page stays until it is replaced, so that a browser that loads itself anew always finds one.
        report(update(f"{ROOT}/report.html"), caption="../report/page.rst", category="Everything on one page", labels={"page": "report"}),
    log:
        f"{ROOT}/logs/report.log",
    params:
        stated=stated_by_the_scale,
    shell:
        DRIVER.call("report") + " > {log} 2>&1"


# What one table needs and no more, e.g. `snakemake only_table08`; then everything that can be drawn is.
for table in EXPERIMENT.tables:

    rule:
        name:
            driver.only(table)
        localrule: True
        input:
            GRAPH.behind_table(table),
        log:
            f"{ROOT}/logs/only_{table}.log",
        shell:
            DRIVER.call("render") + " 2>&1 | tee {log}"


# Tables, figures and report from the metrics that exist. Marks what is missing; never trains, samples or evaluates.
rule render:
    log:
        f"{ROOT}/logs/render.log",
    shell:
        DRIVER.call("render") + " 2>&1 | tee {log}"
