"""Resolves an experiment into artefacts: what each is made of, its id, and its place on disk.

An id is ``<name>-<10 hex digits of sha256(spec)>``. The spec holds every value that can change the result, the ids of
what it is made from, and a ``rev`` per stage, bumped by hand when code changes results. It holds nothing else: no
paths, process counts, log intervals or total steps (milestones are file names, so a longer run extends a shorter one).
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from reals.experiment import stage_table
from reals.experiment.load import Experiment
from reals.experiment.networks import AliasBase
from reals.experiment.reading import ConfigError
from reals.experiment.stage_table import Stage


@dataclass(frozen=True)
class Artefact:
    """One thing the DAG makes. ``needs`` are the artefacts its spec names."""

    kind: str
    name: str
    spec: dict
    needs: tuple["Artefact", ...] = ()

    @property
    def stage(self) -> Stage:
        """The stage that makes it."""
        return stage_table.OF_KIND[self.kind]

    @property
    def identity(self) -> dict:
        """The spec without its empty (None) entries, so that a new optional setting leaves old ids alone."""
        return _stated(self.spec)

    @property
    def id(self) -> str:
        canonical = json.dumps(self.identity, sort_keys=True, separators=(",", ":"))
        return f"{self.name}-{hashlib.sha256(canonical.encode()).hexdigest()[:10]}"

    def needed(self, kind: str) -> "Artefact":
        return next(a for a in self.needs if a.kind == kind)


def _stated(value):
    if isinstance(value, dict):
        return {k: _stated(v) for k, v in value.items() if v is not None}
    return [_stated(v) for v in value] if isinstance(value, list | tuple) else value


class Registry:
    """All artefacts of an experiment, by kind and name."""

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.root = Path("results") / experiment.scale.name
        scale, paper = experiment.scale, experiment.paper
        seeds = scale.seeds

        def make(kind: str, name: str, needs=(), **spec) -> Artefact:
            needs = tuple(a for a in needs if a is not None)
            made_of = {a.kind: a.id for a in needs}
            return Artefact(kind, name, {"kind": kind, "rev": stage_table.OF_KIND[kind].rev, **made_of, **spec}, needs)

        d = scale.data
        self.data = make(
            "data", d.name, source=d.source, resolution=d.resolution, storage=d.storage, held_out=d.held_out,
            images_per_class=d.images_per_class, unreadable=d.unreadable, exif_rotate=d.exif_rotate, version=d.version, seed=seeds.data,
        )  # fmt: skip

        def identity(config, *skip: str) -> dict:
            return config.model_dump(mode="json", exclude={"name", "kind", *skip})

        self.teachers = {
            key: make("teacher", t.name, [self.data], grid=scale.latent_size, flip=d.flip, **identity(t))
            if t.kind == "trained"
            else make("teacher", t.name, grid=scale.latent_size, positions="native", **identity(t, "weights"))
            for key, t in scale.teachers.items()
        }
        x, second = scale.evaluation.extractor, scale.evaluation.second

        def trained(extractor) -> Artefact:
            return make("extractor", extractor.name, [self.data], flip=d.flip, **identity(extractor))

        self.extractor = trained(x) if x.kind == "small-cnn" else make("extractor", x.name, **identity(x, "weights"))
        self.second_extractor = second and trained(second)
        self.features = {
            key: make(
                "features", f"{t.name}_{d.name}", [self.data, t], precision="float16", flip=d.flip,
                targets="cls" if scale.features == "cls" else None,
            )
            for key, t in self.teachers.items()
            if scale.features != "online"
        }  # fmt: skip
        self.autoencoders: dict[str, Artefact] = {}
        for name in experiment.autoencoders:
            self._autoencoder(name, make, identity)
        self.latents = {
            name: make("latents", ae.name, [self.data, ae], precision="float16") for name, ae in self.autoencoders.items()
        }
        self.runs: dict[str, Artefact] = {}
        for name, row in experiment.runs.items():
            size = scale.models[row.size]
            latents = self.latents[row.autoencoder]
            spec = {
                "family": row.family,
                "patch": row.patch,
                **size.model_dump(exclude={"repa_depth"}),
                "latent_channels": scale.latent.channels,
                "latent_size": scale.latent_size,
                **scale.transformer.model_dump(),
                "label_dropout": paper.transformer.label_dropout,
                "learn_sigma": paper.transformer.learn_sigma,
                "flip": d.flip,
                "seed": seeds.transformer if row.seed is None else row.seed,
            }
            needs = [latents]
            if row.repa:
                needs += [self._teaching(scale.repa.teacher, patches=True)]
                spec["repa"] = {
                    "depth": size.repa_depth,
                    "hidden": scale.repa.hidden,
                    "coefficient": paper.transformer.repa_coefficient,
                    "grad_clip": paper.transformer.repa_grad_clip,
                }
            spec["path"] = row.path
            spec["scaling_factor"] = row.scaling_factor
            self.runs[name] = make("run", name, needs, **spec)
        self.samples: dict[str, Artefact] = {}
        self.evaluations: dict[str, Artefact] = {}
        adm = scale.evaluation.reference
        self.reference = make(
            "reference", d.name, [self.data, self.extractor], source=adm and Path(adm).name,
            pr_reference=scale.evaluation.pr_reference,
        )  # fmt: skip
        self.second_reference = second and make(
            "reference", f"{d.name}_{second.name}", [self.data, self.second_extractor], pr_reference=scale.evaluation.pr_reference
        )
        for name, row in experiment.evaluations.items():
            run, sampler = self.runs[row.run], row.sampler
            last_size = 0.0 if sampler.last == "none" else sampler.last_size
            stated = {
                "diffusion_form": sampler.form,
                "diffusion_norm": sampler.norm,
                "last_step": sampler.last,
                "last_step_size": last_size,
            }
            samples = make(
                "samples", name, [run, self.autoencoders[experiment.runs[row.run].autoencoder]],
                step=scale.milestones[row.milestone], sampler=sampler.name, cfg=row.cfg,
                steps=None if sampler.name == "dopri5" else sampler.steps or scale.sampling.steps,
                interval=row.interval, interval_time=row.interval_time, cfg_channels=row.cfg_channels,
                n=scale.sampling.samples if row.samples == "all" else scale.sampling.gallery,
                labels=scale.sampling.labels if row.samples == "all" else "balanced",
                seed=seeds.sampling if row.seed is None else row.seed,
                interpolant=experiment.runs[row.run].path, eta=sampler.eta,
                **({"path": paper.sampler.model_dump() | _stated(stated)} if sampler.name in ("sde", "heun-sde") else {}),
            )  # fmt: skip
            self.samples[name] = samples
            made = make(
                "evaluation", name, [samples, self.reference], pr_k=paper.pr_k, is_split=paper.is_split, seed=seeds.analysis,
                second=self.second_reference and self.second_reference.id,
            )  # fmt: skip
            self.evaluations[name] = replace(made, needs=(*made.needs, self.second_reference)) if self.second_reference else made
        self.analyses = {
            name: make(
                "analysis", ae.name, [self.data, ae, self.extractor], **scale.analysis.model_dump(exclude_none=True),
                augmentations=paper.augmentations.model_dump(mode="json"), knn_k=paper.knn_k, seed=seeds.analysis,
                lpips=scale.autoencoder.lpips.model_dump(exclude={"weights"}),
            )
            for name, ae in self.autoencoders.items()
        }  # fmt: skip
        self.downstream: dict[str, Artefact] = {}
        for figure in (experiment.figures.figure3, experiment.figures.figure4):
            name = figure["evaluation"]
            row = experiment.autoencoders[experiment.runs[experiment.evaluations[name].run].autoencoder]
            if row.teacher is None or not row.patch:
                raise ConfigError(f"figures.yaml: {name} has no patch alignment; Figures 3 and 4 need an aligned autoencoder")
            labelled = scale.downstream.target == "labelled"  # images of their own: no cache of features holds them
            source = self.teachers[row.teacher] if labelled else self._teaching(row.teacher, patches=True)
            base = self.autoencoders[row.init] if labelled else None
            where = {"segmentation": {"path"}, "depth": {"path"}}
            spec = scale.downstream.model_dump(exclude=where)
            for labels in (spec["segmentation"], spec["depth"]):
                if labels and labels["head"]:
                    labels["head"] = Path(labels["head"]).name
            self.downstream[name] = make(
                "downstream", name, [self.samples[name], self.data, source, base], **spec, held_out_images=scale.analysis.images,
                gallery=scale.sampling.gallery, seed=seeds.analysis,
            )  # fmt: skip

    def _teaching(self, teacher: str, patches: bool) -> Artefact:
        """Where a teacher's features come from: its cache, or (``features: online``, or patches where cls alone is cached) itself."""
        cached = {"cached": True, "cls": not patches, "online": False}[self.experiment.scale.features]
        return (self.features if cached else self.teachers)[teacher]

    def _autoencoder(self, name: str, make, identity) -> Artefact:
        if name in self.autoencoders:
            return self.autoencoders[name]
        scale, paper = self.experiment.scale, self.experiment.paper
        row = self.experiment.autoencoders[name]
        config = scale.autoencoder
        architecture = {
            "latent_channels": scale.latent.channels,
            "block_out_channels": list(config.block_out_channels),
            "layers_per_block": config.layers_per_block,
            "norm_num_groups": config.norm_num_groups,
        }
        loss = paper.autoencoder[config.preset].model_dump(mode="json")
        start, ramp = loss.pop("gan_start"), loss.pop("gan_ramp")
        seed = scale.seeds.autoencoder if row.seed is None else row.seed
        gan = {"start": start, "ramp": ramp} | config.gan.model_dump(exclude_none=True)
        training = {
            **loss,
            "flip": scale.data.flip,
            "gan": gan,
            "lpips": config.lpips.model_dump(exclude={"weights"}),
            "ema": config.ema,
            "scale_images": scale.latent.scale_images,
            "seed": seed,
            "precision": config.precision,
        }
        if row.init == "base":
            base = scale.bases[row.repeat_of or name]
            if isinstance(base, AliasBase):
                made = self._autoencoder(base.of, make, identity)
            elif base.kind == "trained":
                made = make("autoencoder", name, [self.data], **architecture, **training, init=None, align=None,
                            steps=base.steps, batch=base.batch, lr=base.lr, lambda_k=base.lambda_k)  # fmt: skip
            else:
                measured = base.scaling_factor == "measured"
                made = make(
                    "autoencoder", name, [self.data if measured else None], **architecture,
                    pretrained=Path(base.path).name, sha256=base.sha256,
                    **({"scale_images": scale.latent.scale_images, "flip": scale.data.flip, "seed": seed} if measured else {}),
                )  # fmt: skip
        else:
            start = self._autoencoder(row.init, make, identity)
            aligned = row.patch or row.cls
            made = make(
                "autoencoder", name,
                [self.data, self._teaching(row.teacher, row.patch) if aligned else None],
                **architecture, **training, init=start.id, unit_scale=config.unit_scale or None, steps=config.steps,
                batch=config.batch, lr=config.lr,
                lambda_k=row.lambda_k * scale.lambda_k_factor,
                align={"patch": row.patch, "cls": row.cls, "layers": row.layers, "hidden": config.align_hidden,
                       "lambda_a": row.lambda_a, **paper.alignment.model_dump()} if aligned else None,
            )  # fmt: skip
            made = replace(made, needs=(*made.needs, start))
        self.autoencoders[name] = made
        return made

    def all(self) -> list[Artefact]:
        groups = (self.teachers, self.features, self.autoencoders, self.latents, self.runs, self.samples,
                  self.evaluations, self.analyses, self.downstream)  # fmt: skip
        single = [self.data, self.extractor, self.second_extractor, self.reference, self.second_reference]
        return [a for a in single if a is not None] + [a for group in groups for a in group.values()]

    def find(self, kind: str, id: str) -> Artefact:
        """The artefact with this id; ConfigError where the sheets (now) define none."""
        for artefact in self.all():
            if artefact.kind == kind and artefact.id == id:
                return artefact
        raise ConfigError(
            f"{kind} '{id}' is not what config/ and scale '{self.experiment.scale.name}' define now; "
            f"they changed since this job was planned: run snakemake again"
        )

    def folder(self, artefact: Artefact) -> Path:
        return self.root / artefact.stage.folder / artefact.id

    def milestones(self, run: Artefact) -> list[int]:
        """The steps a run's row asks for, ascending."""
        return [self.experiment.scale.milestones[name] for name in self.experiment.runs[run.name].milestones]

    def states(self, run: Artefact) -> Path:
        """Where a run's training states are: beside the runs, since a run without them is of use too."""
        return self.root / "states" / run.id

    def shards(self, samples: Artefact) -> int:
        """How many shards an evaluation's samples are drawn in; a gallery is one, so that it stays together."""
        gallery = self.experiment.evaluations[samples.name].samples == "gallery"
        return 1 if gallery else self.experiment.scale.sampling.shards

    def numbers(self, artefact: Artefact) -> list[int] | list[None]:
        """The steps or shards that an artefact is made in, ascending; ``[None]`` where one job makes all of it."""
        match artefact.stage.numbering:
            case stage_table.STEP:
                return self.milestones(artefact)
            case stage_table.SHARD:
                return list(range(self.shards(artefact)))
        return [None]

    def outputs(self, artefact: Artefact) -> list[Path]:
        """The files Snakemake makes for an artefact; where they all exist, it is finished."""
        return [path for number in self.numbers(artefact) for path in self.files(artefact, number)]

    def files(self, artefact: Artefact, number: int | None) -> list[Path]:
        """The files that one job makes: a step's or shard's, or all."""
        return [self.folder(artefact) / name for name in artefact.stage.files(number)]
