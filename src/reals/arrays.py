"""Numpy arrays on disk."""

from pathlib import Path

import numpy as np

from reals import files


def save_npz(path: Path, **arrays: np.ndarray) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type] # numpy's stub takes one of the names for allow_pickle


def save_array(path: Path, array: np.ndarray) -> None:
    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            np.save(file, array)

    files.write_atomically(path, write)
