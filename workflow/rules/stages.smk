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
        threads: DRIVER.stated(stage.command).threads
        priority: stage.priority
        retries: DRIVER.training_retries if stage.several_nodes else None
        resources:
            **DRIVER.asked(stage.command),
        shell:
            DRIVER.launch(stage)


for stage in STAGES:
    stage_rule(stage)
