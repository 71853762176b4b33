"""The stages of the workflow, one line of facts each: all that registry, command line, rules, plan and DVC know of a stage.

To add a stage, write its function in `reals.stages` and its `Stage` here; what kinds of artefact there are, and of what each is
made, say `specs` and `registry`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

Sheet = Literal["autoencoders", "runs", "evaluations"]


@dataclass(frozen=True)
class Numbering:
    """A stage with several jobs for one artefact: what their number is called, and to how many digits file names write it."""

    name: Literal["step", "shard"]
    digits: int = 1


STEP = Numbering("step")
SHARD = Numbering("shard", digits=3)

TRAINING = ("state", "log.jsonl")  # of `reals.training.loop`
CACHE = ("shard_*.json",)  # of `reals.data.cache`: a shard without its record does not count


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One kind of job, and the kind of artefact it makes."""

    kind: str  # of artefact
    command: str  # `reals stage <command>`; also the rule's name, and its key under `resources` of a scale
    help: str
    run: str  # module:function that makes the artefact; imported in the job alone, since it imports torch
    folder: str  # below results/<scale>/
    rev: int  # part of every id of this kind; raise it when a change of the code changes results
    priority: int  # of its jobs: the higher, the earlier they run; higher where more other jobs wait for them
    outputs: tuple[str, ...] = ("index.json",)  # files that an artefact is finished with; {number} is that of the job
    numbering: Numbering | None = None  # None: one job makes the whole artefact
    together: bool = False  # one process for each GPU of the job; else a job works on one GPU
    several_nodes: bool = False  # training: may span nodes, and goes on where it was when it is started again
    sheet: Sheet | None = None  # whose row an artefact is named after; None: the scale alone defines it
    published: tuple[str, ...] = ()  # the names under which DVC keeps what it makes
    goes_on_from: tuple[
        str, ...
    ] = ()  # what is left of an unfinished making, in the artefact's folder; a run's states lie elsewhere

    @property
    def module(self) -> str:
        """Where that function is."""
        return self.run.partition(":")[0]

    @property
    def wildcard(self) -> str:
        """What the rules call the id: stages that share a folder are told apart by the kind."""
        return "id" if sum(other.folder == self.folder for other in STAGES) == 1 else self.kind

    @property
    def measures(self) -> bool:
        """Whether its artefacts are numbers that tables and figures show."""
        return self.outputs[0] == "metrics.json"

    def files(self, number: int | None = None) -> tuple[str, ...]:
        """Names of the files that one job makes in its artefact's folder."""
        if self.numbering is None or number is None:
            return self.outputs
        return tuple(name.format(number=self._written(number)) for name in self.outputs)

    def left_behind(self, number: int | None = None) -> tuple[str, ...]:
        """Patterns of what one job goes on from in its artefact's folder, where it was begun before."""
        return tuple(name.format(number=self._written(number)) for name in self.goes_on_from)

    def _written(self, number: int | None) -> str:
        """A number as file names have it."""
        return "" if self.numbering is None or number is None else str(number).zfill(self.numbering.digits)

    def patterns(self) -> tuple[str, ...]:
        """Its outputs with Snakemake's wildcards, below results/<scale>/."""
        number = {"number": f"{{{self.numbering.name}}}"} if self.numbering else {}
        return tuple(f"{self.folder}/{{{self.wildcard}}}/{name.format(**number)}" for name in self.outputs)

    def log(self) -> str:
        """The log of a job with Snakemake's wildcards, below results/<scale>/."""
        number = f"_{{{self.numbering.name}}}" if self.numbering else ""
        return f"logs/{self.command}/{{{self.wildcard}}}{number}.log"

    def function(self) -> Callable[..., None]:
        """The function that makes an artefact: takes a context, the artefact, and its number where there is one."""
        return getattr(import_module(self.module), self.run.partition(":")[2])


STAGES = (
    Stage(
        kind="data", command="data", help="prepare the images", run="reals.stages.data:run",
        folder="data", rev=1, priority=100, published=("data",), goes_on_from=("crops/index.json",),
    ),
    Stage(
        kind="teacher", command="teacher", help="train or bring in a teacher", run="reals.stages.teacher:run",
        folder="teachers", rev=1, priority=90, published=("teacher",), goes_on_from=TRAINING,
    ),
    Stage(
        kind="extractor", command="extractor", help="train a feature extractor, or verify Inception's weights",
        run="reals.stages.extractor:run", folder="extractors", rev=1, priority=40, published=("extractor",),
        goes_on_from=TRAINING,
    ),
    Stage(
        kind="features", command="features", help="cache a teacher's features", run="reals.stages.features:run",
        folder="features", rev=2, priority=80, together=True, goes_on_from=CACHE,
    ),
    Stage(
        kind="autoencoder", command="autoencoder", help="train, fine-tune or bring in an autoencoder",
        run="reals.stages.autoencoder:run", folder="autoencoders", rev=2, priority=70, together=True, several_nodes=True,
        sheet="autoencoders", published=("autoencoder",), goes_on_from=TRAINING,
    ),
    Stage(
        kind="latents", command="latents", help="cache an autoencoder's posterior moments", run="reals.stages.latents:run",
        folder="latents", rev=2, priority=65, together=True, sheet="autoencoders", published=("latents",),
        goes_on_from=CACHE,
    ),
    Stage(
        kind="run", command="transformer", help="train a transformer to a milestone", run="reals.stages.transformer:run",
        folder="runs", rev=1, priority=60, outputs=("step_{number}.safetensors",), numbering=STEP, together=True,
        several_nodes=True, sheet="runs", published=("run", "state"), goes_on_from=("log.jsonl",),
    ),
    Stage(
        kind="reference", command="reference", help="statistics of the real images", run="reals.stages.reference:run",
        folder="references", rev=1, priority=35, published=("reference",),
    ),
    Stage(
        kind="samples", command="sample", help="draw one shard of an evaluation's samples", run="reals.stages.sample:run",
        folder="samples", rev=1, priority=30, outputs=("shard_{number}.npy",), numbering=SHARD, sheet="evaluations",
        published=("samples",), goes_on_from=("parts/{number}_*",),
    ),
    Stage(
        kind="evaluation", command="evaluate", help="measure samples", run="reals.stages.evaluate:run",
        folder="metrics", rev=1, priority=25, outputs=("metrics.json", "pictures.npz"), sheet="evaluations",
    ),
    Stage(
        kind="analysis", command="analyse", help="measure an autoencoder", run="reals.stages.analyse:run",
        folder="metrics", rev=2, priority=10, outputs=("metrics.json", "latents.npz"), sheet="autoencoders",
    ),
    Stage(
        kind="downstream", command="downstream", help="masks and depth from generated latents", run="reals.stages.downstream:run",
        folder="metrics", rev=1, priority=20, outputs=("metrics.json", "maps.npz"), sheet="evaluations",
    ),
)  # fmt: skip
"""In the order of the DAG."""

OF_KIND = {stage.kind: stage for stage in STAGES}
OF_COMMAND = {stage.command: stage for stage in STAGES}
