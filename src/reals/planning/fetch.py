"""Bringing published files into one folder: each whole, with the checksum that its publisher states, and a record of all."""

import http.client
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from reals import files
from reals.planning.pretrained import FETCHED, Published, check, entries, record

SECONDS = 30.0  # without a byte, after which a connection counts as dead
TRIES = 3  # of a download that breaks off
CHUNK = 1 << 20
ABSENT = (404, 410)  # what a server answers where it has no such file


class Unreachable(ValueError):
    """A server does not answer: no later file will come from it either."""


@dataclass(frozen=True)
class Fetched:
    """What the record says of a file."""

    bytes: int
    sha256: str
    source: str
    date: str


def fetch(wanted: list[Published], folder: Path, mirror: str | None, verify: bool, say: Callable[[str], None]) -> dict[str, str]:
    """Brings what ``folder`` lacks, from where it is published or from ``mirror`` (a folder or URL with the same places in it).

    What the folder has and is of the recorded size stays; with ``verify`` it is read, and fetched again where it differs.
    The record, fetched.json, is written after each file. Returns why not, by place, for what could not be had; after a server
    that does not answer, nothing more is asked.
    """
    failed: dict[str, str] = {}
    silent = None  # why nobody is asked any more
    folder.mkdir(parents=True, exist_ok=True)
    with files.lock(folder / ".lock", str(folder)):
        for file in wanted:
            path = folder / file.place
            if _is_there(folder, file, record(folder).get(file.place), verify, say):
                say(f"ok  {file.key + ':':<22} {path}")
                continue
            try:
                if silent is not None:
                    raise Unreachable(silent)
                source, digest = _bring(file, folder, mirror)
            except (ValueError, OSError) as error:
                failed[file.place] = " ".join(str(error).split())
                silent = failed[file.place] if isinstance(error, Unreachable) else None
                continue
            _record(folder, file, digest, source)
            say(f"got {file.key + ':':<22} {path}, {path.stat().st_size / 1e6:,.1f} MB, sha256 {digest[:16]}")
    return failed


def _is_there(folder: Path, file: Published, recorded: dict | None, verify: bool, say: Callable[[str], None]) -> bool:
    """Whether the file need not be fetched. One that was copied by hand is recorded, if it is what its publisher states."""
    path = folder / file.place
    if not path.is_file():
        return False
    if recorded is not None and not verify:
        if recorded["bytes"] == path.stat().st_size:
            return True
        say(f"    {file.key}: {path} has {path.stat().st_size:,} bytes, not {recorded['bytes']:,}; fetched again")
        return False
    try:
        digest = check(folder, file, recorded)
    except ValueError as error:
        say(f"    {error}; fetched again")
        return False
    if recorded is None:
        _record(folder, file, digest, "copied by hand")
    return True


def _record(folder: Path, file: Published, digest: str, source: str) -> None:
    entry = Fetched((folder / file.place).stat().st_size, digest, source, datetime.now(UTC).strftime("%Y-%m-%d"))
    files.write_json(folder / FETCHED, {"files": record(folder) | {file.place: asdict(entry)}})


def _bring(file: Published, folder: Path, mirror: str | None) -> tuple[str, str]:
    """(where it came from, its sha256) of a file that lies in its place now, checked before it got there."""
    place = folder / file.place
    files.sweep(place)
    with files.replacing(place) as partial:
        expected = file.digits
        if mirror is not None:
            source, expected = _from_mirror(file, mirror, partial)
        elif file.url is not None:
            source = file.url
            _download(source, partial)
        else:
            source, expected = _from_hub(file, folder, partial)
        digest = files.sha256(partial)
        if not digest.startswith(expected):
            raise ValueError(
                f"{source}: sha256 is {digest}, expected {expected}; the file is damaged or another, and was not kept"
            )
    return source, digest


def _from_mirror(file: Published, mirror: str, to: Path) -> tuple[str, str]:
    """(its place there, its sha256 by the mirror's own record, or the first digits that its publisher states)."""
    source, book = (f"{mirror.rstrip('/')}/{name}" for name in (file.place, FETCHED))
    recorded: dict[str, dict] = {}
    if "://" not in mirror:
        if not Path(source).is_file():
            raise ValueError(f"{source}: no such file")
        shutil.copyfile(source, to)
        recorded = record(Path(mirror))
    else:
        _download(source, to)
        recorded = _mirrors_record(book)
    return source, recorded[file.place]["sha256"] if file.place in recorded else file.digits


def _mirrors_record(url: str) -> dict[str, dict]:
    """What a mirror's own record says, nothing where it has none."""
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            return entries(answer.read(), url)
    except urllib.error.HTTPError as error:
        if error.code in ABSENT:
            return {}
        raise ValueError(f"{url}: the server answers {error.code} ({error.reason}); without it nothing is compared") from None
    except http.client.HTTPException as error:
        raise ValueError(f"{url}: breaks off ({error})") from None


def _download(url: str, to: Path) -> None:
    """The whole file at a URL. ValueError where it is not there or keeps breaking off, Unreachable where nobody answers."""
    for attempt in range(1, TRIES + 1):
        try:
            with urllib.request.urlopen(url, timeout=SECONDS) as answer, to.open("wb") as file:
                shutil.copyfileobj(answer, file, CHUNK)
                said = answer.headers.get("Content-Length")
            if said is None or said == str(to.stat().st_size):
                return
            expected = f"{int(said):,}" if said.isdecimal() else said
            reason = f"{to.stat().st_size:,} of {expected} bytes came"
        except urllib.error.HTTPError as error:
            raise ValueError(f"{url}: the server answers {error.code} ({error.reason})") from None
        except urllib.error.URLError as error:
            raise Unreachable(f"{url}: cannot be reached ({error.reason})") from None
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
        if attempt == TRIES:
            raise ValueError(f"{url}: breaks off ({reason}), {TRIES} times; try again later")


def _from_hub(file: Published, folder: Path, to: Path) -> tuple[str, str]:
    """(URL with its revision, the sha256 that the hub states, '' for a small file, of which it states none).

    The hub's own package goes on with what an interrupted call left, and heeds HF_ENDPOINT and HF_TOKEN.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    assert file.repository is not None
    name = file.place.removeprefix(f"{file.repository}/")
    scratch = folder / ".hub" / file.repository
    try:
        stated = get_hf_file_metadata(hf_hub_url(file.repository, name))
        came = hf_hub_download(file.repository, name, revision=stated.commit_hash, local_dir=scratch)
    except HfHubHTTPError as error:
        raise ValueError(f"{file.repository}/{name}: {str(error).strip().splitlines()[0]}") from None
    except Exception as error:  # of many kinds, of several packages: no network, or told to use none
        reason = " ".join(str(error).split())[:150]
        raise Unreachable(f"{file.repository}/{name}: the hub cannot be reached ({type(error).__name__}: {reason})") from None
    Path(came).replace(to)
    shutil.rmtree(folder / ".hub")
    etag = stated.etag or ""
    return hf_hub_url(file.repository, name, revision=stated.commit_hash), etag if len(etag) == 64 else ""
