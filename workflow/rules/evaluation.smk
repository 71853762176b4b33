rule sample:
    input:
        inputs("samples"),
    output:
        f"{ROOT}/samples/{{id}}/shard_{{shard}}.npy",
    log:
        f"{ROOT}/logs/sample/{{id}}_{{shard}}.log",
    threads: stated("sample").threads
    priority: 30
    resources:
        **asked("sample"),
    shell:
        launch("sample", "{wildcards.id} {wildcards.shard}") + " > {log} 2>&1"


rule reference:
    input:
        inputs("reference"),
    output:
        f"{ROOT}/references/{{id}}/index.json",
    log:
        f"{ROOT}/logs/reference/{{id}}.log",
    threads: stated("reference").threads
    priority: 35
    resources:
        **asked("reference"),
    shell:
        launch("reference", "{wildcards.id}") + " > {log} 2>&1"


rule evaluate:
    input:
        inputs("evaluation", "evaluation"),
    output:
        f"{ROOT}/metrics/{{evaluation}}/metrics.json",
        f"{ROOT}/metrics/{{evaluation}}/pictures.npz",
    log:
        f"{ROOT}/logs/evaluate/{{evaluation}}.log",
    threads: stated("evaluate").threads
    priority: 25
    resources:
        **asked("evaluate"),
    shell:
        launch("evaluate", "{wildcards.evaluation}") + " > {log} 2>&1"


rule downstream:
    input:
        inputs("downstream", "downstream"),
    output:
        f"{ROOT}/metrics/{{downstream}}/metrics.json",
        f"{ROOT}/metrics/{{downstream}}/maps.npz",
    log:
        f"{ROOT}/logs/downstream/{{downstream}}.log",
    threads: stated("downstream").threads
    priority: 20
    resources:
        **asked("downstream"),
    shell:
        launch("downstream", "{wildcards.downstream}") + " > {log} 2>&1"
