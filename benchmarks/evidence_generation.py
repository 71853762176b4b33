"""Does alignment help generation? FID of the aligned arm against the base and the unaligned control, seed by seed.

    snakemake only_arms --config scale=cifar10 [data=/path]
    python benchmarks/evidence_generation.py cifar10 [--data /path]

The change of a seed compares arms whose autoencoder, transformer and noise have the same seed. What is not measured yet is left out.
"""

import argparse
import statistics

from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.experiment.repeats import repeats
from reals.files import read_json

ARMS = {"sd-vae": "base", "control": "control", "reals": "ReaLS"}
POINTS = {"early": "early", "middle": "middle", "late": "late", "late_cfg1.5": "late, guidance 1.5"}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("scale")
    p.add_argument("--data")
    p.add_argument("--run", default="sit-b2-{arm}", help="name of an arm's run (%(default)s)")
    p.add_argument("--metrics", nargs="+", default=["fid", "fid_second"])
    options = p.parse_args()
    registry = Registry(load(options.scale, data=options.data))

    def by_seed(arm: str, point: str, metric: str) -> dict[int, float]:
        name = f"{options.run.format(arm=arm)}_{point}"
        rows = registry.experiment.evaluations
        files = {
            s: registry.folder(registry.evaluations[n]) / "metrics.json" for s, n in (repeats(rows, name) or {0: name}).items()
        }
        return {seed: read_json(file)["values"][metric] for seed, file in files.items() if file.exists()}

    for metric in options.metrics:
        print(
            f"\n| {metric} | {' | '.join(ARMS.values())} | ReaLS against base | against control |\n"
            + "|---" * (3 + len(ARMS))
            + "|"
        )
        for point, label in POINTS.items():
            values = {arm: by_seed(arm, point, metric) for arm in ARMS}
            cells = [spread(list(of_seed.values()), "{:.2f}") for of_seed in values.values()]
            for other in ("sd-vae", "control"):
                shared = values["reals"].keys() & values[other].keys()
                cells.append(spread([100 * (values["reals"][s] / values[other][s] - 1) for s in sorted(shared)], "{:+.1f}%"))
            print(f"| {label} | {' | '.join(cells)} |")


def spread(values: list[float], form: str) -> str:
    """Mean ± standard deviation (n - 1), with the number of seeds."""
    if not values:
        return "…"
    if len(values) == 1:
        return form.format(values[0]) + " (1)"
    return f"{form.format(statistics.mean(values))} ± {form.format(statistics.stdev(values)).lstrip('+')} ({len(values)})"


if __name__ == "__main__":
    main()
