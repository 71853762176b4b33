def segment_inputs(wildcards):
    """What a milestone needs: the run's own inputs, and the milestone before it."""
    run = REGISTRY.find("run", wildcards.id)
    earlier = [s for s in REGISTRY.milestones(run) if s < int(wildcards.step)]
    files = [f"{REGISTRY.folder(needed)}/index.json" for needed in (*run.needs, REGISTRY.data)]
    if earlier:
        files.append(f"{REGISTRY.folder(run)}/step_{earlier[-1]}.safetensors")
    return unless_made([f"{REGISTRY.folder(run)}/step_{wildcards.step}.safetensors"], files)


rule transformer:
    input:
        segment_inputs,
    output:
        f"{ROOT}/runs/{{id}}/step_{{step}}.safetensors",
    log:
        f"{ROOT}/logs/transformer/{{id}}_{{step}}.log",
    threads: stated("transformer").threads
    priority: 60
    retries: TRAINING_RETRIES
    resources:
        **asked("transformer"),
    shell:
        launch("transformer", "{wildcards.id} {wildcards.step}") + " > {log} 2>&1"
