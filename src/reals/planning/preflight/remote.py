"""What is reached over a network: whether a host answers, and whether the DVC remote takes objects and gives them back."""

import os
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from reals.experiment.reading import ConfigError

if TYPE_CHECKING:  # dvc is imported where it is used: it takes seconds
    from dvc.fs import FileSystem

SECONDS = 15.0  # for a host to answer
EMBEDDED = "published"  # the remote in .dvc/config that is a folder of the repository


def reachable(host: str) -> bool:
    try:
        socket.create_connection((host, 443), timeout=SECONDS).close()
    except OSError:
        return False
    return True


def dvc_remote(folder: Path) -> str:
    """That an object can be written to the default DVC remote and read back; of one behind HTTP, that it answers."""
    if not (folder / ".dvc").is_dir():
        return "none is set up here: artefacts stay on this machine"
    try:
        from dvc.config import NoRemoteError
        from dvc.exceptions import DvcException
        from dvc.repo import Repo
    except ImportError:
        raise ConfigError("DVC: this folder has .dvc/, but dvc is not installed; pip install dvc") from None
    try:
        with Repo(str(folder)) as repo:
            if repo.config["core"].get("remote") == EMBEDDED:
                return "the one in the repository, for what was published with it; to publish, add your own (docs/artifacts.md)"
            store = repo.cloud.get_remote_odb()
            return _takes_objects(store.fs, store.path)
    except NoRemoteError:
        return "no remote is set up: artefacts stay on this machine (docs/artifacts.md)"
    except DvcException as error:
        raise ConfigError(f"DVC: {error}; see `dvc remote list`") from None


def _takes_objects(fs: "FileSystem", folder: str) -> str:
    """``fs`` is one of DVC's file systems, each of which has exceptions of its own."""
    where, content = folder if fs.protocol in ("http", "https") else f"{fs.protocol}:{folder}", os.urandom(32)
    if fs.protocol in ("http", "https"):
        try:
            urllib.request.urlopen(folder, timeout=SECONDS).close()
        except urllib.error.HTTPError:
            pass  # a store need not list its folders
        except OSError as error:
            raise ConfigError(
                f"DVC: {where} does not answer ({getattr(error, 'reason', error)}); see `dvc remote list`"
            ) from None
        return f"{where} answers; HTTP gives and does not take, so `reals publish` needs another"
    path = fs.join(folder, f"check-{socket.gethostname()}-{os.getpid()}")
    try:
        fs.makedirs(folder, exist_ok=True)
        with fs.open(path, "wb") as file:
            file.write(content)
    except Exception as error:
        try:
            readable = fs.exists(folder)
        except Exception:
            readable = False
        state = "can be read but not written" if readable else "is out of reach"
        serves = ": `dvc pull` works, `reals publish` does not" if readable else ""
        raise ConfigError(f"DVC: {where} {state} ({str(error) or type(error).__name__}){serves}; see `dvc remote list`") from None
    try:
        with fs.open(path, "rb") as file:
            same = file.read() == content
        fs.remove(path)
    except Exception as error:
        raise ConfigError(f"DVC: {where} takes objects and cannot give them back ({error}); see `dvc remote list`") from None
    if not same:
        raise ConfigError(f"DVC: {where} gives back other bytes than were written; see `dvc remote list`")
    return f"{where}: an object was written, read and removed"
