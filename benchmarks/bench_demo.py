"""CPU-seconds of a run from nothing, by stage, beside those that were written down: a slowdown is seen where it is.

    python benchmarks/bench_demo.py [--scale demo] [--of results/demo] [--write]

Runs the workflow in a fresh folder with this checkout's sheets and code, or, with `--of`, reads the journal of a folder that
one run made on this machine lately. `engine` is what a run used beside its jobs: Snakemake, the import server, starting jobs;
`beside work` all that was not training, sampling or evaluating. A fixed piece of torch work, timed on one thread, puts the two
machines' speeds right, roughly: other processes on the same cores slow both, but not alike. A stage is marked, and the exit
code is 1, where it takes more than 1.25 times what it should and more than 2 s more. Where nothing was written down for the
scale, the numbers are printed alone, and the exit code is 2. `--write` writes bench_demo.json anew instead, with what it was
measured on, and exits with 0.
"""

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch

from reals import files
from reals.records import journal

REPOSITORY = Path(__file__).resolve().parents[1]
WRITTEN = Path(__file__).with_suffix(".json")
SLOWER, SECONDS = 1.25, 2.0  # a stage is marked above both: times what it should take, and seconds more
REPEATS = 5
BESIDE, ALL = "beside work", "all"


def main(arguments: list[str]) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--scale", default="demo")
    p.add_argument("--of", type=Path, metavar="FOLDER", help="the results folder of a finished run, in place of a new one")
    p.add_argument("--write", action="store_true", help="write down what was measured, to be compared with from now on")
    options = p.parse_args(arguments)
    before = reference_seconds()
    try:
        measured, devices = of_journal(options.of / "journal.jsonl") if options.of else run(options.scale)
    except ValueError as error:
        p.error(str(error))
    reference = statistics.mean([before, reference_seconds()])
    protocol = {
        "devices": devices, "cores": os.cpu_count(), "code": files.code_version(), "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(), "reference": round(reference, 4),
    }  # fmt: skip
    written = files.read_json(WRITTEN) if WRITTEN.exists() else {}
    if options.write:
        written[options.scale] = {"protocol": protocol, "stages": measured}
        WRITTEN.write_text(json.dumps(written, indent=1) + "\n")
    base = written.get(options.scale)
    if base is None:
        print("\n".join(table(measured, {})))
        print(f"{WRITTEN.name} has nothing of scale {options.scale} to compare with; --write writes it down")
        return 2
    factor = reference / base["protocol"]["reference"]
    for what, stated in (("Written down", base["protocol"]), ("Here", protocol)):
        print(f"{what}: {', '.join(f'{key} {value}' for key, value in stated.items())}")
    print(f"Expected: what was written down, times {factor:.2f} for the reference work's CPU-seconds")
    expected = {stage: seconds * factor for stage, seconds in base["stages"].items()}
    print("\n".join(table(measured, expected)))
    return int(bool(slower(measured, expected)))


def reference_seconds() -> float:
    """CPU-seconds of convolutions, products and small operations of the demo's sizes on one thread: the median of several."""
    torch.set_num_threads(1)
    images, kernels = torch.ones(32, 32, 32, 32), torch.ones(32, 32, 3, 3)
    tokens, weights = torch.ones(64, 64, 96), torch.ones(96, 96)
    found = []
    for _ in range(REPEATS):
        began = time.process_time()
        for _ in range(20):
            torch.nn.functional.conv2d(images, kernels, padding=1)
            for _ in range(20):
                torch.softmax(tokens @ weights, dim=-1)
        found.append(time.process_time() - began)
    return statistics.median(found)


def run(scale: str) -> tuple[dict[str, float], str]:
    """As `of_journal`, of a run from nothing; ValueError where it fails."""
    with tempfile.TemporaryDirectory(prefix="bench-demo-") as name:
        folder = Path(name)
        for part in ("config", "workflow"):
            shutil.copytree(REPOSITORY / part, folder / part)
        shutil.copy(REPOSITORY / "Snakefile", folder)
        (folder / "profiles").symlink_to("workflow/profiles")
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "src")}
        command = [sys.executable, "-m", "snakemake", "--config", f"scale={scale}"]
        if code := subprocess.run(command, cwd=folder, env=environment, stdout=sys.stderr).returncode:
            raise ValueError(f"`{shlex.join(command)}` failed with exit code {code}; see above")
        return of_journal(folder / "results" / scale / "journal.jsonl")


def of_journal(path: Path) -> tuple[dict[str, float], str]:
    """CPU-seconds by stage, of the engine, beside work and of all; and the devices of the jobs.

    ValueError (one line) unless the journal is that of one run: what a killed one used beside its jobs is not known, and what
    a second one made again counts twice.
    """
    jobs, engines = journal.read(path), journal.engines(path)
    if not jobs or len(engines) != 1:
        raise ValueError(f"{path}: {len(jobs)} jobs and the end of {len(engines)} runs; it takes one run from nothing to its end")
    rows = journal.by_stage(jobs)
    stages = {row["stage"]: row["cpu"] for row in rows} | {journal.ENGINE: engines[0]["cpu"]}
    whole = sum(stages.values())
    sums = {BESIDE: whole - sum(row["work"] for row in rows), ALL: whole}
    devices = sorted({job["device"] for job in jobs if "device" in job})
    return {name: round(seconds, 2) for name, seconds in (stages | sums).items()}, "; ".join(devices)


def slower(measured: Mapping[str, float], expected: Mapping[str, float]) -> list[str]:
    """What takes more than it should; a stage that was not written down is not judged."""
    return [
        stage
        for stage, seconds in measured.items()
        if stage in expected and seconds > SLOWER * expected[stage] and seconds > expected[stage] + SECONDS
    ]


def table(measured: Mapping[str, float], expected: Mapping[str, float]) -> list[str]:
    """Lines: a stage each, CPU-seconds here, those to be expected, their ratio; the sums last."""
    marked = slower(measured, expected)
    lines = [f"{'stage':<14}{'CPU s':>10}{'expected':>10}{'ratio':>8}"]
    for stage in [*(s for s in dict.fromkeys([*measured, *expected]) if s not in (BESIDE, ALL)), BESIDE, ALL]:
        here, there = measured.get(stage), expected.get(stage)
        cells = [f"{value:.1f}" if value is not None else "" for value in (here, there)]
        ratio = f"{here / there:.2f}" if here is not None and there else ""
        lines.append(f"{stage:<14}{cells[0]:>10}{cells[1]:>10}{ratio:>8}" + "  slower" * (stage in marked))
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
