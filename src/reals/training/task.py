"""What the loop asks of a task: one step, its state, and its state put back."""

from typing import Any, Protocol

from torch import Tensor

from reals.training.batches import Ahead


class Task(Protocol):
    """What is trained. ``update(step)`` makes optimizer step number ``step`` (from 0) and depends on nothing else.

    In several processes each holds the same state, computes its shares of the step's batch (`Processes.shares`) and
    makes the same step.
    """

    batches: Ahead[Any] | None = None
    """Where the steps' batches come from, of a task that has them made ahead; closed by the loop."""

    def update(self, step: int) -> dict[str, Tensor | float]:
        """One step; its terms as detached scalars that the mean over the processes makes those of the whole batch.

        ``loss`` is among them, and ``grad_norm`` (before clipping) and ``lr`` where there are such.
        """

    def extras(self) -> dict[str, Tensor]:
        """Further terms for the log, too costly for every step."""
        return {}

    def state(self) -> dict[str, Any]:
        """Everything `update` changes: tensors, numbers, lists and dicts of them."""

    def load(self, state: dict[str, Any]) -> None: ...
