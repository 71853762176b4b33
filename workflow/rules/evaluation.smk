rule sample:
    input:
        inputs("samples"),
    output:
        f"{ROOT}/samples/{{id}}/shard_{{shard}}.npy",
    log:
        f"{ROOT}/logs/sample/{{id}}_{{shard}}.log",
    threads: resource("sample", "threads")
    priority: 30
    resources:
        gpu=resource("sample", "gpu"),
        mem_mb=resource("sample", "mem_mb"),
        runtime=resource("sample", "runtime"),
    shell:
        "REALS_THREADS={threads} {REALS} stage sample {ARGS} {wildcards.id} {wildcards.shard} > {log} 2>&1"


rule reference:
    input:
        inputs("reference"),
    output:
        f"{ROOT}/references/{{id}}/index.json",
    log:
        f"{ROOT}/logs/reference/{{id}}.log",
    threads: resource("reference", "threads")
    priority: 35
    resources:
        gpu=resource("reference", "gpu"),
        mem_mb=resource("reference", "mem_mb"),
        runtime=resource("reference", "runtime"),
    shell:
        "REALS_THREADS={threads} {REALS} stage reference {ARGS} {wildcards.id} > {log} 2>&1"


rule evaluate:
    input:
        inputs("evaluation", "evaluation"),
    output:
        f"{ROOT}/metrics/{{evaluation}}/metrics.json",
    log:
        f"{ROOT}/logs/evaluate/{{evaluation}}.log",
    threads: resource("evaluate", "threads")
    priority: 25
    resources:
        gpu=resource("evaluate", "gpu"),
        mem_mb=resource("evaluate", "mem_mb"),
        runtime=resource("evaluate", "runtime"),
    shell:
        "REALS_THREADS={threads} {REALS} stage evaluate {ARGS} {wildcards.evaluation} > {log} 2>&1"


rule downstream:
    input:
        inputs("downstream", "downstream"),
    output:
        f"{ROOT}/metrics/{{downstream}}/metrics.json",
        f"{ROOT}/metrics/{{downstream}}/maps.npz",
    log:
        f"{ROOT}/logs/downstream/{{downstream}}.log",
    threads: resource("downstream", "threads")
    priority: 20
    resources:
        gpu=resource("downstream", "gpu"),
        mem_mb=resource("downstream", "mem_mb"),
        runtime=resource("downstream", "runtime"),
    shell:
        "REALS_THREADS={threads} {REALS} stage downstream {ARGS} {wildcards.downstream} > {log} 2>&1"
