"""The DVC remote that every clone has, as a folder in git: what few artefacts are in it, and that it stays small."""

from collections.abc import Iterable

from reals import files
from reals.planning.preflight.remote import EMBEDDED
from reals.records import published
from reals.records.publish import Stored, dvc, recorded_objects

NAME = EMBEDDED
FOLDER = published.ROOT / "store"
LARGEST = 12_000_000  # bytes: every clone carries it, and git keeps each version of it


def refuse_as_default() -> None:
    """ValueError where no remote of the user's own takes objects: this one is for what every clone is to carry."""
    try:
        default = dvc("config", "core.remote").strip()
    except ValueError:
        return
    if default == NAME:
        raise ValueError(
            f"no remote of your own: `dvc remote add -d store URL` first (docs/artifacts.md); {FOLDER} travels with the repository and "
            "takes only what --embed puts there"
        )


def tell_nothing_private(items: Iterable[Stored]) -> None:
    """Takes host names and absolute paths out of the records beside artefacts."""
    for item in items:
        for path in item.folder.glob("made/*.json"):
            if (told := published.clean(content := files.read_json(path))) != content:
                files.write_json(path, told)


def tidy() -> int:
    """Removes the objects that dvc.lock no longer names; the bytes that are left. ValueError where they are too many."""
    objects = FOLDER / "files/md5"
    named = recorded_objects(objects)
    for path in sorted(objects.glob("*/*")):
        if path.parent.name + path.name not in named:
            path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
    left = sum(path.stat().st_size for path in objects.glob("*/*"))
    if left > LARGEST:
        raise ValueError(
            f"{FOLDER} holds {left / 1e6:.1f} MB, and at most {LARGEST / 1e6:g} MB travel with the repository; do not commit it: "
            "`git checkout dvc.lock` and `git clean -fd` there, then embed less"
        )
    return left
