"""A metrics file as it is read: whole, of the artefact in whose folder it lies, and of numbers."""

from pathlib import Path
from typing import Any

from reals import files

PARTS = {"kind": str, "name": str, "id": str, "values": dict, "protocol": dict, "provenance": dict}


def read(path: Path) -> dict[str, Any]:
    """Raises MissingArtefact (one line) where a part is missing or of another type, a value is no number, or the file is another
    artefact's. NaN is a number: who shows it refuses it.
    """
    found: dict[str, Any] = files.read_json(path)
    wrong = [f"{key} is {found.get(key)!r:.40}" for key, kind in PARTS.items() if not isinstance(found.get(key), kind)]
    wrong = wrong or [f"{k} is {v!r:.40}, no number" for k, v in found["values"].items() if type(v) not in (int, float)]
    if not wrong and found["id"] != path.parent.name:
        wrong = [f"it is of {found['id']}, and was copied here"]
    if wrong:
        raise files.MissingArtefact(f"{path}: damaged ({wrong[0]}); {files.remedy_for(path)}")
    return found
