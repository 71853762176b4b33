"""A command handed to the import server behaves as if run here: output, exit code, signals, death."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from conftest import REPOSITORY

from reals.machine import prefork

SERVER = textwrap.dedent("""
    import sys
    from pathlib import Path
    from reals.machine import prefork
    prefork.PRELOADED = ("json",)
    prefork.serve(Path(sys.argv[1]))
    """)
# A stand-in for the command line: what matters here is the hand-over, not the stages.
CLI = textwrap.dedent("""
    import os, signal, sys, time
    def main(arguments):
        print("out", *arguments, os.getcwd(), os.environ["TOKEN"], flush=True)
        print("err", file=sys.stderr, flush=True)
        if arguments[0] == "code": return int(arguments[1])
        if arguments[0] == "raise": raise RuntimeError("boom")
        if arguments[0] == "die": os.kill(os.getpid(), signal.SIGKILL)
        if arguments[0] == "wait":
            if len(arguments) > 1: open(arguments[1], "w").write(str(os.getpid()))
            signal.signal(signal.SIGTERM, lambda *a: sys.exit(75))
            time.sleep(30)
        return 0
    """)


@pytest.fixture
def server(tmp_path):
    package = tmp_path / "path" / "reals"
    for folder in (package, package / "cli", package / "experiment", package / "machine"):
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
    (package / "cli/main.py").write_text(CLI)
    for name in (
        "experiment/stage_table.py",
        "machine/cuda.py",
        "machine/dispatch.py",
        "machine/handover.py",
        "machine/prefork.py",
        "machine/signals.py",
        "machine/cores.py",
        "machine/world.py",
        "__main__.py",
    ):
        shutil.copy(REPOSITORY / "src/reals" / name, package / name)
    env = os.environ | {"PYTHONPATH": str(tmp_path / "path"), "REALS_PREFORK": str(tmp_path / "socket"), "TOKEN": "t1"}
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path / "socket")], env=env)
    until = time.monotonic() + 20
    while not (tmp_path / "socket").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    yield env, process
    process.kill()
    process.wait()


def run(env, *arguments, **kwargs):
    command = [sys.executable, "-m", "reals", *arguments]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


@pytest.mark.process
def test_streams_folder_environment_and_exit_code(server, tmp_path):
    env, _ = server
    for arguments, code in ((["code", "0"], 0), (["code", "75"], 75), (["raise"], 1)):
        client = run(env | {"TOKEN": "t2"}, *arguments, cwd=tmp_path)
        out, err = client.communicate(timeout=20)
        assert client.returncode == code
        assert out == f"out {' '.join(arguments)} {tmp_path} t2\n"
        assert err.startswith("err\n")
    assert "RuntimeError: boom" in err
    client = run(env | {"TOKEN": "t2"}, "die", cwd=tmp_path)
    assert (
        client.communicate(timeout=20)[1].endswith("was ended by SIGKILL (out of memory, or by hand)\n")
        and client.returncode == 137
    )


@pytest.mark.process
def test_commands_run_side_by_side(server):
    env, _ = server
    began = time.monotonic()
    waiting = run(env, "wait")
    assert waiting.stdout.readline().startswith("out wait")
    assert run(env, "code", "3").wait(timeout=20) == 3
    assert time.monotonic() - began < 20
    waiting.send_signal(signal.SIGTERM)
    assert waiting.wait(timeout=20) == 75


def gone(pid: int, seconds: float = 15) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.process
@pytest.mark.parametrize("victim", ["client", "server"])
def test_no_child_outlives_who_waits_for_it(server, tmp_path, victim):
    env, process = server
    client = run(env, "wait", str(tmp_path / "pid"))
    assert client.stdout.readline().startswith("out wait")
    until = time.monotonic() + 10
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
    (client if victim == "client" else process).kill()
    assert gone(int((tmp_path / "pid").read_text()))
    if victim == "server":
        assert client.wait(timeout=10) == 1
        assert "is gone" in client.stderr.read()


@pytest.mark.process
def test_without_a_server_the_command_runs_by_itself(server, tmp_path):
    env, process = server
    process.kill()
    process.wait()
    client = run(env, "code", "4")
    assert client.wait(timeout=30) == 4
    assert run({k: v for k, v in env.items() if k != "REALS_PREFORK"}, "code", "5").wait(timeout=30) == 5


ASKS = """
import os, torch
from reals.machine import prefork
os.environ |= {"PYTORCH_NVML_BASED_CUDA_CHECK": "1", prefork.VISIBLE: ""}
torch.cuda.is_available(), torch.cuda.device_count(), torch.accelerator.is_available()
print(prefork.usable_in_children())
torch._C._cuda_getDeviceCount()
print(prefork.usable_in_children())
"""


@pytest.mark.process
@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="needs a PyTorch built with CUDA")
def test_imports_that_ask_for_gpus_leave_cuda_usable_in_children_without_nvml_too():
    env = {k: v for k, v in os.environ.items() if not k.startswith("CUDA_")}
    done = subprocess.run([sys.executable, "-c", ASKS], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True", "False"], done.stderr


@pytest.mark.process
def test_no_server_where_an_import_asked_cuda_itself(tmp_path, capfd, monkeypatch):
    (tmp_path / "torch.py").write_text("class cuda:\n    _is_in_bad_fork = lambda: True\n")
    server = "import sys; from pathlib import Path; from reals.machine import prefork; prefork.PRELOADED = ('torch',); prefork.serve(Path(sys.argv[1]))"
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{REPOSITORY / 'src'}")
    popen = subprocess.Popen
    monkeypatch.setattr(prefork.subprocess, "Popen", lambda command: popen([sys.executable, "-c", server, command[-1]]))
    with prefork.running(tmp_path / "socket"):
        assert not (tmp_path / "socket").exists()
    assert capfd.readouterr().err == "reals: an imported library asked CUDA itself; jobs start an interpreter each\n"
