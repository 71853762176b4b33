"""`reals check`: one line a thing, and what the exit code says."""

import shutil
from pathlib import Path

from reals.cli.main import main


def test_the_check_command(project, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda tool, which=shutil.which: None if tool == "sinfo" else which(tool))  # no cluster
    assert main(["check", "--config", "scale=smoke"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok ") for line in printed) and len(printed) >= 7
    assert main(["check", "--config", "scale=smoke", "data=nowhere"]) == 1
    out, err = capsys.readouterr()
    assert next(line for line in out.splitlines() if line.startswith("FIX")).startswith("FIX data:")
    assert "1 thing to mend" in err
    assert main(["check", "--config", "scale=smok"]) == 2
    Path("elsewhere.yaml").write_text(Path("config/site.yaml").read_text().replace("account: null", "# account: null"))
    assert main(["check", "--config", "scale=smoke", "site=elsewhere.yaml"]) == 2
    assert "elsewhere.yaml: account: " in capsys.readouterr().err
