"""One line for each failed job."""

import logging
from types import SimpleNamespace

from reals.machine import failures


def record(event: str, **facts) -> logging.LogRecord:
    made = logging.makeLogRecord({"msg": "Error in rule sample"})
    made.__dict__ |= {"event": SimpleNamespace(value=event), **facts}
    return made


def test_the_line_says_what_why_and_where(tmp_path):
    log = tmp_path / "sample.log"
    log.write_text("sample 12/48\nreals stage sample: /data: no room\n\n")
    facts = {"rule_name": "sample", "output": ["samples/x/shard_001.npy"], "log": [str(log)]}
    local = record("job_error", rule_msg=None, **facts)
    assert failures.line(local) == f"sample samples/x/shard_001.npy: reals stage sample: /data: no room [{log}]"
    said = "SLURM-job '12_3' failed, SLURM status is: 'TIMEOUT'. Detailed failure reason unavailable (status command is not 'sacct')."
    assert "shard_001.npy (SLURM job 12_3: TIMEOUT): reals stage" in failures.line(record("job_error", rule_msg=said, **facts))
    node = "SLURM-job '12' failed due to a node failure, SLURM status is: 'NODE_FAIL'. Failed nodes will be excluded"
    assert "(SLURM job 12: NODE_FAIL)" in failures.line(record("job_error", rule_msg=node, **facts))


def test_without_a_log_it_says_what_snakemake_says(tmp_path):
    facts = {"rule_name": "data", "output": ["data/x/index.json"], "log": [str(tmp_path / "none.log")]}
    refused = record("job_error", rule_msg="SLURM sbatch failed. The error message was\n 'Invalid qos'.", **facts)
    assert "data data/x/index.json: SLURM sbatch failed. The error message was 'Invalid qos'." in failures.line(refused)
    assert "killed, or out of memory" in failures.line(record("job_error", rule_msg=None, **facts))
    (tmp_path / "none.log").write_text("samples: 3/48\n")  # progress, and nothing since
    assert "(killed, or out of memory), at samples: 3/48" in failures.line(record("job_error", rule_msg=None, **facts))


def test_the_line_ends_with_the_outlook(capsys):
    lines = failures.Lines(lambda failed: f"; job {failed.jobid}, SLURM's {failures.slurm_job(failed)}: no further try")
    said = "SLURM-job '12' failed, SLURM status is: 'FAILED'."
    lines.emit(record("job_error", jobid=3, rule_name="data", rule_msg=said, log=[], output=[]))
    lines.emit(record("job_finished"))
    assert capsys.readouterr().err == f"reals: data  (SLURM job 12: FAILED): {said}; job 3, SLURM's 12: no further try\n"


def test_other_records_are_none_of_its_business():
    assert failures.line(logging.makeLogRecord({"msg": "x"})) is None
    assert failures.line(record("job_finished")) is None
