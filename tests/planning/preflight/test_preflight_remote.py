"""The DVC remote looked at before the first job."""

import subprocess
import sys

import pytest

from reals.experiment.reading import ConfigError
from reals.planning.preflight import remote


@pytest.mark.process
def test_a_dvc_remote(project):
    pytest.importorskip("dvc")

    def dvc(*arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True, capture_output=True)

    assert remote.dvc_remote(project).startswith("none is set up")
    dvc("init", "--no-scm", "-q")
    assert remote.dvc_remote(project).startswith("no remote is set up")
    dvc("remote", "add", "-q", "-d", "store", str(project / "store"))
    assert "written, read and removed" in remote.dvc_remote(project)
    assert not [p for p in (project / "store").rglob("*") if p.is_file()]
    dvc("remote", "modify", "-q", "store", "url", str(project / "Snakefile" / "store"))
    with pytest.raises(ConfigError, match=r"store/files/md5 is out of reach .*dvc remote list"):
        remote.dvc_remote(project)
