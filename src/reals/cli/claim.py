"""`reals claim`: what the measured seeds say of the paper's claim, by the rule of the scale's claim.yaml."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from reals.cli.experiment import add_experiment, registry_of
from reals.cli.subcommands import Subcommands

if TYPE_CHECKING:
    from reals.report.claim import Findings


def add(commands: Subcommands) -> None:
    text = "does the paper's claim hold at this scale? The arms seed by seed, with intervals, and the verdict by a fixed rule"
    p = commands.add_parser(
        "claim", help=text, description=text, epilog="Arms and rule: claim.yaml, beside the scale's evaluations.tsv."
    )
    add_experiment(p)
    p.add_argument("--json", action="store_true", help="everything as JSON, unrounded, on standard output")
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    from reals.records import published
    from reals.report import claim, results

    registry = published.shown(registry_of(options))
    sheets, scale = registry.experiment.sheets, registry.experiment.scale
    if registry.experiment.claim is None:
        raise ValueError(
            f"scale {scale.name} has no claim: write {sheets['claim.yaml']} (config/README.md; config/sheets/cifar10/claim.yaml is one)"
        )
    found = claim.findings(registry, results.load(registry))
    if found is None:
        raise ValueError(
            f"no pair of {sheets['claim.yaml']} is measured at scale {scale.name}; snakemake makes what it compares, or "
            "`reals plan` says first what that costs"
        )
    if options.json:
        print(json.dumps(as_json(found) | {"published": published.facts(registry)}, indent=1))
    else:
        said = published.note(registry)
        print(f"The claim at scale {scale.name}: {found.sheet.statement}" + (f"\n({said})" if said else "") + "\n")
        print(printed(found))
        print(f"The rule: {sheets['claim.yaml']}")


def printed(found: "Findings") -> str:
    from reals.cli.plan import aligned
    from reals.report import claim

    table = aligned([dict(zip(claim.head(found), row, strict=True)) for row in claim.rows(found)])
    return "\n".join([table, "", *claim.sentences(found)])


def as_json(found: "Findings") -> dict[str, Any]:
    return {
        "statement": found.sheet.statement,
        "verdict": found.verdict,
        "seeds": found.seeds,
        "confidence": found.sheet.confidence,
        "arms": found.sheet.arms,
        "changes": [
            {
                "metric": c.metric, "milestone": c.milestone, "steps": c.steps, "arm": found.sheet.claimed, "against": c.against,
                "seeds": c.seeds, "values": list(c.claimed.values()), "against_values": list(c.other.values()),
                "by_seed": list(c.by_seed.values()), "mean": c.mean, "interval": c.interval, "sign_p": c.sign_p,
            }
            for c in found.changes
        ],
        "reached": [
            {"metric": r.metric, "arm": r.arm, "value": r.value, "claimed_at": r.at, "steps": r.steps, "last": r.last, "seeds": list(r.seeds)}
            for r in found.reached
        ],
        "left_out": list(found.left_out),
        "missing": {verdict: found.against(verdict) for verdict in found.sheet.verdicts},
        "what_decides": found.what_decides,
    }  # fmt: skip
