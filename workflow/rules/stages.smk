# A rule for each stage of the table (src/reals/experiment/stage_table.py), named after its command.


def stage_rule(stage):
    """A function, so that each rule keeps its own stage: what follows `shell` is read again when a job starts."""

    rule:
        name:
            stage.command
        input:
            inputs(stage),
        output:
            [f"{ROOT}/{path}" for path in stage.patterns()],
        log:
            f"{ROOT}/{stage.log()}",
        threads: stated(stage.command).threads
        priority: stage.priority
        retries: TRAINING_RETRIES if stage.several_nodes else None
        resources:
            **asked(stage.command),
        shell:
            launch(stage)


for stage in STAGES:
    stage_rule(stage)
