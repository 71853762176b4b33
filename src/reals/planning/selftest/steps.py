"""Two steps of each stage's training: as a CPU makes them in float32, in every precision; and the same bits each time."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reals.method import precision as precisions
from reals.planning.selftest import device as machine
from reals.planning.selftest.agreement import Leaves, distance, leaves, same_bits, within
from reals.planning.selftest.outcome import Skipped
from reals.planning.selftest.tiny import Tiny, heads
from reals.training.processes import Processes

STEPS = 2
CPU = torch.device("cpu")

_TRANSFORMER = {"fp32": 2e-4, "tf32": 1e-2, "bf16": 5e-2, "fp16": 1e-2}
ALLOWED: Mapping[str, Mapping[str, float]] = {
    "SiT": _TRANSFORMER,
    "DiT": _TRANSFORMER,
    "REPA": _TRANSFORMER,
    # Norms over few images and pixels enlarge rounding, and one activation that changes its side of 0 moves a gradient by 5e-3.
    "autoencoder": {"fp32": 2e-2, "tf32": 0.2, "bf16": 0.5},
    "teacher": {"fp32": 2e-4},
    "extractor": {"fp32": 5e-2},  # as the autoencoder's; many channels hardly vary over images of noise
    "heads": {"fp32": 2e-2},  # their absolute errors have such a corner too
}
"""How far two steps may be from a CPU's in float32, as a share of what they change, in each precision the training can be given.

Three to ten times what rounding did on a CPU: products disturbed by 1e-6 stand for another order of sums, factors cut to 10 bits
for TF32, autocast for half precision. Of transformers, teacher and autoencoder fp32's is below what TF32 does, so that one is not
taken for the other.
"""
COUNTS = ("num_batches_tracked",)  # of batch norms; beside them no change of a weight would be seen
SMALL = 0.1  # a term below this is a difference of larger ones, and compared as if it were so large


@dataclass(frozen=True)
class Trace:
    """What two steps did: the terms of each, and by how much every tensor of the task's state changed."""

    terms: Leaves
    changed: Leaves


@dataclass
class Steps:
    """Two steps of every stage on ``device``; what was traced once is kept for the checks that compare with it."""

    tiny: Tiny
    device: torch.device
    traces: dict[tuple[str, str, torch.device], Trace] = field(default_factory=dict)

    def trace(self, stage: str, precision: str, device: torch.device) -> Trace:
        key = stage, precision, device
        if key not in self.traces:
            self.traces[key] = made(self.tiny, stage, precision, device)
        return self.traces[key]

    def against_cpu(self, stage: str) -> str:
        """The distance in each precision from the CPU's float32; on a CPU alone that of half precision."""
        reference = self.trace(stage, "fp32", CPU)
        precisions = [p for p in ALLOWED[stage] if self.device.type != "cpu" or p in ("bf16", "fp16")]
        if not precisions:
            raise Skipped("no GPU to compare the CPU with")
        found = {p: apart(self.trace(stage, p, self.device), reference, ALLOWED[stage][p], p) for p in precisions}
        where = "off the CPU's fp32" if self.device.type != "cpu" else "off fp32 (no GPU to compare the CPU with)"
        return ", ".join(f"{p} {value:.0e}" for p, value in found.items()) + f" {where}"

    def twice(self, stage: str) -> str:
        """That steps made again have the same bits."""
        for precision in ALLOWED[stage]:
            if precision == "tf32" and self.device.type == "cpu":
                continue
            first, again = self.trace(stage, precision, self.device), made(self.tiny, stage, precision, self.device)
            for a, b in ((first.terms, again.terms), (first.changed, again.changed)):
                same_bits(b, a, precision)
        return "the same bits again"


def made(tiny: Tiny, stage: str, precision: str, device: torch.device) -> Trace:
    """Two steps from the start, deterministic as `engine` has it."""
    with machine.deterministic(True), precisions.running(device, "fp32"):
        if stage == "heads":
            found, start = (
                leaves({kind: head.state_dict() for kind, head in heads(tiny, device, n).items()}) for n in (STEPS, 0)
            )
            return Trace({}, changes(found, start))
        task = tiny.task(stage, Processes(precision, deterministic=True, device=device))
        before = leaves(task.state())
        terms = leaves([task.update(step) for step in range(STEPS)])
        if task.batches is not None:
            task.batches.close()
        return Trace(terms, changes(leaves(task.state()), before))


def changes(after: Leaves, before: Leaves) -> Leaves:
    """What changed; an optimizer has no moments before its first step."""
    return {name: value - before.get(name, torch.zeros(())) for name, value in after.items()}


def apart(got: Trace, wanted: Trace, allowed: float, what: str) -> float:
    """The largest relative distance of a term or a part of the state; Fault where it is more than ``allowed``."""
    terms = {name: distance(got.terms[name], value) * min(1.0, float(abs(value)) / SMALL) for name, value in wanted.terms.items()}
    theirs = _joined(got.changed)
    parts = {name: distance(theirs[name], value) for name, value in _joined(wanted.changed).items()}
    found = terms | parts
    return max(within(value, allowed, f"{what}: {name}") for name, value in found.items())


def _joined(changed: Leaves) -> dict[str, Tensor]:
    """Tensors of one part of the state (network, EMA, first moments, ...) as one vector."""
    parts: dict[str, list[Tensor]] = {}
    for name, value in changed.items():
        first, *_, last = name.split(".")
        if "param_groups" not in name:
            parts.setdefault(f"{first} {last}" if "optimizer" in first or last in COUNTS else first, []).append(value.flatten())
    return {name: torch.cat(values) for name, values in parts.items()}
