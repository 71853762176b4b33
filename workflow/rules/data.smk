rule data:
    output:
        f"{ROOT}/data/{{id}}/index.json",
    log:
        f"{ROOT}/logs/data/{{id}}.log",
    threads: resource("data", "threads")
    priority: 100
    resources:
        mem_mb=resource("data", "mem_mb"),
        runtime=resource("data", "runtime"),
    shell:
        "{REALS} stage data {ARGS} {wildcards.id} > {log} 2>&1"


rule teacher:
    input:
        inputs("teacher"),
    output:
        f"{ROOT}/teachers/{{id}}/index.json",
    log:
        f"{ROOT}/logs/teacher/{{id}}.log",
    threads: resource("teacher", "threads")
    priority: 90
    resources:
        gpu=resource("teacher", "gpu"),
        mem_mb=resource("teacher", "mem_mb"),
        runtime=resource("teacher", "runtime"),
    shell:
        "REALS_THREADS={threads} {REALS} stage teacher {ARGS} {wildcards.id} > {log} 2>&1"


rule features:
    input:
        inputs("features"),
    output:
        f"{ROOT}/features/{{id}}/index.json",
    log:
        f"{ROOT}/logs/features/{{id}}.log",
    threads: resource("features", "threads")
    priority: 80
    resources:
        gpu=resource("features", "gpu"),
        mem_mb=resource("features", "mem_mb"),
        runtime=resource("features", "runtime"),
    shell:
        "REALS_THREADS={threads} {REALS} stage features {ARGS} {wildcards.id} > {log} 2>&1"


rule extractor:
    input:
        inputs("extractor"),
    output:
        f"{ROOT}/extractors/{{id}}/index.json",
    log:
        f"{ROOT}/logs/extractor/{{id}}.log",
    threads: resource("extractor", "threads")
    priority: 40
    resources:
        gpu=resource("extractor", "gpu"),
        mem_mb=resource("extractor", "mem_mb"),
        runtime=resource("extractor", "runtime"),
    shell:
        "REALS_THREADS={threads} {REALS} stage extractor {ARGS} {wildcards.id} > {log} 2>&1"
