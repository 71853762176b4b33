rule autoencoder:
    input:
        inputs("autoencoder"),
    output:
        f"{ROOT}/autoencoders/{{id}}/index.json",
    log:
        f"{ROOT}/logs/autoencoder/{{id}}.log",
    threads: stated("autoencoder").threads
    priority: 70
    retries: TRAINING_RETRIES
    resources:
        **asked("autoencoder"),
    shell:
        launch("autoencoder", "{wildcards.id}") + " > {log} 2>&1"


rule latents:
    input:
        inputs("latents"),
    output:
        f"{ROOT}/latents/{{id}}/index.json",
    log:
        f"{ROOT}/logs/latents/{{id}}.log",
    threads: stated("latents").threads
    priority: 65
    resources:
        **asked("latents"),
    shell:
        launch("latents", "{wildcards.id}") + " > {log} 2>&1"


rule analyse:
    input:
        inputs("analysis", "analysis"),
    output:
        f"{ROOT}/metrics/{{analysis}}/metrics.json",
        f"{ROOT}/metrics/{{analysis}}/latents.npz",
    log:
        f"{ROOT}/logs/analyse/{{analysis}}.log",
    threads: stated("analyse").threads
    priority: 10
    resources:
        **asked("analyse"),
    shell:
        launch("analyse", "{wildcards.analysis}") + " > {log} 2>&1"
