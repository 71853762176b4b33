"""What `reals sample` writes once all images are there: ADM's .npz, and a picture grid."""

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reals import files
from reals.cli.sample.parts import Parts

GRID_MOST = 100


def write_npz(path: Path, parts: Parts, labels: np.ndarray, facts: dict[str, Any]) -> None:
    """ADM's .npz, streamed: 50,000 images of 256 x 256 are 9.8 GB; and what made it, beside it as .json."""

    def write(partial: Path) -> None:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            with archive.open("arr_0.npy", "w", force_zip64=True) as file:
                for number, images in enumerate(parts.images(len(labels))):
                    if number == 0:
                        header = {"descr": "|u1", "fortran_order": False, "shape": (len(labels), *images.shape[1:])}
                        np.lib.format.write_array_header_2_0(file, header)
                    file.write(images.tobytes())
            with archive.open("arr_1.npy", "w") as file:
                np.lib.format.write_array(file, labels.astype(np.int64))

    files.write_atomically(path, write)
    files.write_json(path.with_name(path.name + ".json"), {**facts, "code": files.code_version()})
    print(f"{path}: {len(labels)} images")


def write_grid(path: Path, parts: Parts, n: int, columns: int) -> None:
    """The first of n images (at most GRID_MOST) in rows of ``columns``, as PNG."""
    shown = min(n, GRID_MOST)
    columns = min(columns, math.ceil(math.sqrt(GRID_MOST)) if shown < n else columns)
    images = np.concatenate(list(parts.images(shown)))
    rows = math.ceil(shown / columns)
    height, width = images.shape[1:3]
    page = np.full((rows * columns, height, width, 3), 255, np.uint8)
    page[:shown] = images
    grid = page.reshape(rows, columns, height, width, 3).transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)
    files.write_atomically(path, lambda partial: Image.fromarray(grid).save(partial, format="PNG"))
    print(f"{path}: {shown}{f' of {n}' if shown < n else ''} images in {columns} columns")
