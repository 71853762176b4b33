"""Does alignment make latents mean more? The base, the unaligned control and the aligned autoencoder, mean and std over seeds.

    for seed in 0 1 2; do snakemake --config scale=demo seed=$seed -- $(python benchmarks/evidence_autoencoder.py demo --targets $seed); done
    python benchmarks/evidence_autoencoder.py demo

The first line makes what is missing (`data=/path` after `seed=$seed`, and `--data /path` here, for your own images); the second prints the table.
"""

import argparse
import statistics

from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.files import read_json

ROWS = ("sd-vae", "control", "reals")
COLUMNS = {
    "sc_crop": "SC crop", "sc_all": "SC all", "sc_centred_crop": "SC crop, centred", "sc_centred_all": "SC all, centred", "knn": "k-NN",
    "linear_probe": "linear probe", "psnr": "PSNR", "psnr_mean": "PSNR of the mean", "rfid": "rFID",
}  # fmt: skip


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("scale")
    p.add_argument("--data")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--rows", nargs="+", default=ROWS)
    p.add_argument("--targets", type=int, metavar="SEED", help="print the files that snakemake must make for one seed")
    options = p.parse_args()

    def paths(seed: int) -> list:
        registry = Registry(load(options.scale, data=options.data, seed=seed))
        return [registry.folder(registry.analyses[name]) / "metrics.json" for name in options.rows]

    if options.targets is not None:
        print(*paths(options.targets))
        return
    values = [[read_json(path)["values"] for path in paths(seed)] for seed in options.seeds]
    print("| autoencoder | " + " | ".join(COLUMNS.values()) + " |")
    print("|" + "---|" * (1 + len(COLUMNS)))
    for k, name in enumerate(options.rows):
        cells = []
        for key in COLUMNS:
            over = [of_seed[k][key] for of_seed in values]
            spread = f" ± {statistics.stdev(over):.3f}" if len(over) > 1 else ""
            cells.append(f"{statistics.mean(over):.3f}{spread}")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
