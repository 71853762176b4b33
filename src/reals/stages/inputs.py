"""What a stage reads of the files that another stage made, checked before it is used."""

from pathlib import Path

import torch

from reals import files
from reals.method import checkpoints
from reals.method.models.transformer import Transformer
from reals.records import provenance


def weights_path(folder: Path, step: int) -> Path:
    """The EMA weights of a run's milestone ``step``."""
    return folder / f"step_{step}.safetensors"


def load_transformer(path: Path, device: torch.device) -> tuple[Transformer, dict]:
    """(the EMA network in eval mode, the facts written with it). MissingArtefact where the file is missing or damaged."""
    if path.exists():
        provenance.refuse_damaged(path)
    try:
        checkpoint = checkpoints.load(path, device=device)
    except ValueError as error:
        raise files.MissingArtefact(f"{error}; delete it and run `snakemake {path}`") from None
    return checkpoint.model, checkpoint.facts
