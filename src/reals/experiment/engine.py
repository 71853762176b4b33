"""How training runs, and what the jobs of a scale ask of machines; nothing here is part of an id."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from reals.experiment.reading import Strict
from reals.experiment.stage_table import OF_COMMAND

if TYPE_CHECKING:
    Rule = str
else:
    Rule = Literal[("default", *OF_COMMAND)]  # type checkers cannot read a Literal computed from a table


class EngineConfig(Strict):
    """How training runs (docs/training.md); no part of any id."""

    accumulate: int = Field(default=1, ge=1)
    """Shares of a batch that a process computes one after the other, to save memory."""
    compile: bool = False
    """torch.compile the networks that are trained, and the transformer that draws samples."""
    checkpoint_blocks: bool = False
    """Recompute activations in the backward pass, to save memory."""
    deterministic: bool = True
    """CUDA kernels that give the same bits each time."""
    log_every: int = Field(default=10, ge=1)
    """Steps between lines of the log."""
    save_seconds: float = Field(default=300.0, gt=0)
    """Seconds between training states."""
    sample_every: int = Field(default=0, ge=0)
    """Steps between pictures drawn by the averaged weights; 0: none."""
    local_copy: bool = False
    """Train from a copy of the caches, and of kept crops, in the job's temporary folder, where it fits (docs/caches.md)."""
    tensorboard: bool = False
    """Write the log for TensorBoard too."""
    wandb: bool | Annotated[str, Field(min_length=1)] = False
    """Write the log for Weights & Biases too: the project's name, or true for `reals`."""
    profile: tuple[int, int] | None = None
    """First and last step, as the log counts them, whose times torch's profiler writes down."""

    @field_validator("profile", mode="before")
    @classmethod
    def _steps(cls, stated: object) -> object:
        steps = stated if isinstance(stated, list | tuple) and all(type(step) is int for step in stated) else ()
        if stated is not None and not (len(steps) == 2 and 1 <= steps[0] <= steps[1]):
            raise ValueError(f"{stated} is no first and last step; write e.g. [10, 20]")
        return stated


class Resources(Strict):
    """What one job of a stage asks for, of each node where it takes several. Without SLURM only `threads` and `gpu` count."""

    nodes: int = Field(default=1, ge=1)
    """Nodes; only the training stages can use several."""
    threads: int = Field(default=1, ge=1)
    """CPU threads of each node."""
    gpu: int = Field(default=0, ge=0)
    """GPUs of each node."""
    mem_mb: int = Field(default=2000, gt=0)
    """Memory of each node, in MB."""
    runtime: int = Field(default=60, gt=0)
    """Minutes."""
