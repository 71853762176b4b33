rule data:
    output:
        f"{ROOT}/data/{{id}}/index.json",
    log:
        f"{ROOT}/logs/data/{{id}}.log",
    threads: stated("data").threads
    priority: 100
    resources:
        **asked("data"),
    shell:
        launch("data", "{wildcards.id}") + " > {log} 2>&1"


rule teacher:
    input:
        inputs("teacher"),
    output:
        f"{ROOT}/teachers/{{id}}/index.json",
    log:
        f"{ROOT}/logs/teacher/{{id}}.log",
    threads: stated("teacher").threads
    priority: 90
    resources:
        **asked("teacher"),
    shell:
        launch("teacher", "{wildcards.id}") + " > {log} 2>&1"


rule features:
    input:
        inputs("features"),
    output:
        f"{ROOT}/features/{{id}}/index.json",
    log:
        f"{ROOT}/logs/features/{{id}}.log",
    threads: stated("features").threads
    priority: 80
    resources:
        **asked("features"),
    shell:
        launch("features", "{wildcards.id}") + " > {log} 2>&1"


rule extractor:
    input:
        inputs("extractor"),
    output:
        f"{ROOT}/extractors/{{id}}/index.json",
    log:
        f"{ROOT}/logs/extractor/{{id}}.log",
    threads: stated("extractor").threads
    priority: 40
    resources:
        **asked("extractor"),
    shell:
        launch("extractor", "{wildcards.id}") + " > {log} 2>&1"
