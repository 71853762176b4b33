"""What of a command's environment is put right before all else: temporary files, sockets, caches, and what other programs left there."""

import getpass
import locale
import os
import stat
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

from reals.machine.world import ignore_leftovers

LONGEST_SOCKET = 103  # bytes in a socket's path: sun_path of unix(7) less its end, on macOS; Linux takes four more
SOCKET = "reals-12345678/socket"  # as long as what `tempfile` and the driver make of it


def settle() -> list[str]:
    """Puts right what of the environment would hinder every command: numbers of other launchers, caches that cannot be written, a
    user without a name, a notebook's matplotlib. Lines that say what was changed. To be called first of all.

    ValueError (one line) where text is not written as UTF-8, or temporary files can go nowhere.
    """
    name_user()
    os.environ["MPLBACKEND"] = "agg"  # a notebook's own, which its commands inherit, is not there to be imported
    refuse_other_text(locale.getpreferredencoding(do_setlocale=False))
    return [said for said in (ignore_leftovers(), keep_precision(), move_caches()) if said]


def refuse_other_text(encoding: str) -> None:
    """ValueError (one line) where Python reads and writes text in an ``encoding`` that lacks what our files hold."""
    if encoding.lower().replace("-", "").replace("_", "") != "utf8":
        raise ValueError(
            f"the locale's text is {encoding}, that of the files here UTF-8; export PYTHONUTF8=1 (or LC_ALL=C.UTF-8)"
        )


def keep_precision(environment: MutableMapping[str, str] = os.environ) -> str | None:
    """Takes out what has NVIDIA's libraries compute in another precision than the one that is stated and recorded; says so."""
    name = "NVIDIA_TF32_OVERRIDE"
    stated = environment.pop(name, None)
    return None if stated is None else f"ignored {name}={stated}: the precision is the one that the scale or command states"


def temporary() -> str:
    """The folder of temporary files. ValueError (one line) where they can go nowhere."""
    try:
        return tempfile.gettempdir()
    except OSError:
        raise ValueError("no folder for temporary files can be written; set TMPDIR to one") from None


def temporary_fault() -> str | None:
    """A line where temporary files do not go where TMPDIR says, or None. ValueError (one line) where they can go nowhere."""
    used = temporary()
    stated = os.environ.get("TMPDIR")
    if not stated or os.path.abspath(stated) == os.path.abspath(used):
        return None
    what = "cannot be written" if os.path.isdir(stated) else "is no folder"
    return f"TMPDIR={stated} {what}; temporary files go to {used}"


def for_socket() -> Path | None:
    """A folder in which a socket's path is short enough: that of temporary files, else the system's; None without."""
    folders = [tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR"), "/tmp", "/var/tmp"]
    usable = (Path(folder) for folder in folders if folder and os.access(folder, os.W_OK | os.X_OK))
    return next((folder for folder in usable if len(os.fsencode(folder / SOCKET)) <= LONGEST_SOCKET), None)


def move_caches(environment: MutableMapping[str, str] = os.environ) -> str | None:
    """Where the user's cache folder cannot be written, libraries get another among the temporary files; a line that says so, or None.

    Weights that lie in the user's are found there still. To be called before these libraries are imported.
    """
    cache = Path(environment.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if _can_be_written(cache):
        return None
    instead = _own_folder()
    for name, library in (("TORCH_HOME", "torch"), ("HF_HOME", "huggingface")):
        if (cache / library).is_dir():
            environment.setdefault(name, str(cache / library))
    for name, library in (
        ("MPLCONFIGDIR", "matplotlib"),
        ("TRITON_CACHE_DIR", "triton"),
        ("TORCHINDUCTOR_CACHE_DIR", "inductor"),
    ):
        environment.setdefault(name, str(instead / library))
    environment["XDG_CACHE_HOME"] = str(instead)
    return f"{cache} cannot be written; caches go to {instead}, unless XDG_CACHE_HOME names another folder"


def name_user(environment: MutableMapping[str, str] = os.environ) -> None:
    """Gives a user without a name, as in many containers, a number for one: Snakemake and torch.compile ask for it."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        environment["USER"] = str(os.getuid())


def _can_be_written(folder: Path) -> bool:
    """Whether it, or what of its path is there, may be written to. A user without a home has a path that begins with ~."""
    if not folder.is_absolute():
        return False
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _own_folder() -> Path:
    """The same each time, as caches should be, and its user's alone; a new one where another user, a link or a file has its name."""
    folder = Path(temporary(), f"reals-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        there = folder.lstat()
        if stat.S_ISDIR(there.st_mode) and there.st_uid == os.getuid():  # no link: who made it could turn it elsewhere
            if stat.S_IMODE(there.st_mode) != 0o700:
                folder.chmod(0o700)
            (folder / "cache").mkdir(mode=0o700, exist_ok=True)
            return folder / "cache"
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="reals-cache-"))
