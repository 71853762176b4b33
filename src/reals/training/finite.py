"""Finds losses and gradients that are not finite without making a GPU wait at every step."""

import math

from torch import Tensor

from reals.training.processes import SMALLEST_SCALE, Agreed, Processes
from reals.training.states import States


class NotFinite(Agreed, FloatingPointError):
    """A loss or gradient that is not a number: step, terms and last good state are in the message."""


class Watch:
    """Keeps the terms of the steps that nobody has looked at yet, on their device, until `check` looks at them all."""

    def __init__(self, label: str, processes: Processes, states: States):
        self.label, self.processes, self.states = label, processes, states
        self.unchecked: dict[int, dict[str, Tensor | float]] = {}

    def add(self, step: int, terms: dict[str, Tensor | float]) -> None:
        self.unchecked[step] = terms

    def check(self) -> None:
        """Raises NotFinite where a step since the last check went wrong, in any process. It waits for the device."""
        terms = {
            (step, name): terms[name]
            for step, terms in self.unchecked.items()
            for name in terms
            # An overflow in fp16 is part of finding the loss scale; the step was left out.
            if name == "loss" or (name.endswith("grad_norm") and not self.processes.scaler)
        }
        values = self.processes.means(terms) if terms else {}
        bad = [step for (step, _), value in values.items() if not math.isfinite(value)]
        if bad:
            self._fail(bad[0], "the loss or its gradient is not finite")
        if self.processes.scaler and self.processes.scaler.get_scale() < SMALLEST_SCALE:
            self._fail(max(self.unchecked), "the gradients overflow fp16 at every loss scale")
        self.unchecked.clear()

    def _fail(self, step: int, what: str) -> None:
        terms = self.processes.means(self.unchecked[step])
        good = max([0, *self.states.upto(step)])
        raise NotFinite(
            f"{self.label}: {what} at step {step} ({', '.join(f'{k} {v:.4g}' for k, v in terms.items())}); the last good state is "
            f"that of step {good} in {self.states.folder}; lower the learning rate or look at the data"
        )
