rule autoencoder:
    input:
        inputs("autoencoder"),
    output:
        f"{ROOT}/autoencoders/{{id}}/index.json",
    log:
        f"{ROOT}/logs/autoencoder/{{id}}.log",
    threads: resource("autoencoder", "threads")
    priority: 70
    resources:
        gpu=resource("autoencoder", "gpu"),
        mem_mb=resource("autoencoder", "mem_mb"),
        runtime=resource("autoencoder", "runtime"),
    shell:
        "REALS_THREADS={threads} {REALS} stage autoencoder {ARGS} {wildcards.id} > {log} 2>&1"


rule latents:
    input:
        inputs("latents"),
    output:
        f"{ROOT}/latents/{{id}}/index.json",
    log:
        f"{ROOT}/logs/latents/{{id}}.log",
    threads: resource("latents", "threads")
    priority: 65
    resources:
        gpu=resource("latents", "gpu"),
        mem_mb=resource("latents", "mem_mb"),
        runtime=resource("latents", "runtime"),
    shell:
        "REALS_THREADS={threads} {REALS} stage latents {ARGS} {wildcards.id} > {log} 2>&1"


rule analyse:
    input:
        inputs("analysis", "analysis"),
    output:
        f"{ROOT}/metrics/{{analysis}}/metrics.json",
        f"{ROOT}/metrics/{{analysis}}/latents.npz",
    log:
        f"{ROOT}/logs/analyse/{{analysis}}.log",
    threads: resource("analyse", "threads")
    priority: 10
    resources:
        gpu=resource("analyse", "gpu"),
        mem_mb=resource("analyse", "mem_mb"),
        runtime=resource("analyse", "runtime"),
    shell:
        "REALS_THREADS={threads} {REALS} stage analyse {ARGS} {wildcards.analysis} > {log} 2>&1"
