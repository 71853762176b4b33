"""The site file: every mistake is one line; what is asked of SLURM is what the scale says."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import REPOSITORY

from reals.experiment.engine import Resources
from reals.experiment.reading import ConfigError
from reals.machine import site

SHIPPED = REPOSITORY / "config/site.yaml"


def made(tmp_path: Path, **changes) -> site.Site:
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(SHIPPED.read_text()) | changes))
    return site.load(path)


def test_the_shipped_file_is_whole_and_explains_every_key():
    site.load(SHIPPED)
    lines = SHIPPED.read_text().splitlines()
    for key in site.Site.model_fields:
        assert any(line.startswith(f"{key}: ") and "#" in line for line in lines), key


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("partition: null         #", "partitoin: null  #", "unknown key; did you mean 'partition'?"),
        ("max_runtime: 2880", "max_runtime: two days", "max_runtime: "),
        ("scratch: null", "# scratch: null", "scratch: Field required"),
        ("account: null", "account: [", "not valid YAML"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_file(tmp_path, old, new, says):
    path = tmp_path / "site.yaml"
    text = SHIPPED.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        site.load(path)
    assert str(path) in str(caught.value) and says in str(caught.value) and "\n" not in str(caught.value)


def test_one_node_and_several_ask_in_their_own_way(tmp_path):
    here = made(tmp_path, gpu_type="a100", account="paper", gpu_partition="gpu", options="--exclusive", max_runtime=300)
    one = here.request(Resources(gpu=8, threads=32, runtime=100))
    assert {k: one[k] for k in ("nodes", "gpus_per_node", "gres", "slurm_account", "slurm_partition", "slurm_extra")} == {
        "nodes": 1, "gpus_per_node": 8, "gres": "gpu:a100:8", "slurm_account": "paper", "slurm_partition": "gpu",
        "slurm_extra": "--exclusive",
    }  # fmt: skip
    assert not {"mpi", "gpu", "gpu_model", "qos"} & set(one)
    two = here.request(Resources(nodes=2, gpu=8, threads=32))
    assert (two["mpi"], two["tasks"], two["gres"], two["tasks_per_gpu"]) == ("srun", 2, "gpu:a100:8", 0)
    assert two["slurm_extra"] == "--ntasks-per-node=1 --exclusive"
    assert [one["runtime"](None, attempt) for attempt in (1, 2, 3, 4)] == [100, 200, 300, 300]
    assert here.sbatch_options(Resources(nodes=2, gpu=8, threads=32)) == [
        "--partition=gpu", "--account=paper", "--time=60", "--mem=2000", "--nodes=2", "--ntasks=2", "--cpus-per-task=32",
        "--gres=gpu:a100:8", "--exclusive",
    ]  # fmt: skip
    none = here.request(Resources())
    assert none["gpus_per_node"] == 0 and not {"gres", "slurm_partition"} & set(none)


@pytest.mark.process  # the executor looks for SLURM's commands when it is imported
@pytest.mark.parametrize(
    ("kind", "gres", "extra", "option"),
    [
        (None, "gpu:2", None, "--gres=gpu:2"),
        ("nvidia_a100_3g.20gb", "gpu:nvidia_a100_3g.20gb:2", None, "--gres=gpu:nvidia_a100_3g.20gb:2"),
        ("nvidia-h100", None, "--gpus-per-node=nvidia-h100:2", "--gpus-per-node=nvidia-h100:2"),
        ("1g.10gb+me", None, "--gpus-per-node=1g.10gb+me:2", "--gpus-per-node=1g.10gb+me:2"),
    ],
)
def test_every_gpu_type_is_asked_for_in_words_that_snakemakes_executor_takes(tmp_path, kind, gres, extra, option):
    from snakemake_executor_plugin_slurm import utils, validation

    here = made(tmp_path, gpu_type=kind)
    asked = here.request(Resources(gpu=2))
    assert (asked.get("gres"), asked.get("slurm_extra")) == (gres, extra)
    job = SimpleNamespace(resources=Resource(asked))
    validation.validate_slurm_extra(job)
    sent = f"{job.resources.slurm_extra or ''} {utils.set_gres_string(job)}"
    assert sent.strip() == option and option in here.sbatch_options(Resources(gpu=2))


class Resource(dict):
    """As the executor reads a job's resources."""

    def __getattr__(self, name: str) -> object:
        return self.get(name)
