"""Shards: any number of writers, killed at any moment, leave the same files; another source is refused; reading is exact."""

import json
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reals import files
from reals.data import cache
from reals.data.cache import Cache, Layout, make

LAYOUT = Layout(images=50, flips=2, fields={"a": (3, 2), "b": (4,)}, shard_images=8)
SOURCE = {"id": "cache", "teacher": "t-1", "data_sha256": "d"}


def row(i: int, flip: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng([i, flip, len(shape)]).normal(size=shape).astype(np.float16)


def compute(span, put):
    for start in range(span.start, span.stop, 3):
        some = range(start, min(start + 3, span.stop))
        put(**{f: np.stack([[row(i, k, shape) for k in range(2)] for i in some]) for f, shape in LAYOUT.fields.items()})
    return {"sum": float(sum(span))}


def fill(folder: Path, layout: Layout = LAYOUT, source: dict = SOURCE, work=compute) -> None:
    folder.mkdir(exist_ok=True)
    make(folder, layout, source, work, lambda facts: {"sum": sum(f["sum"] for f in facts)}, "test")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def mortal(folder: Path, cpu_seconds: float) -> None:
    """Fills until the kernel ends this process, at a moment that does not depend on how busy the machine is."""
    cache.POLL_SECONDS = 0.01
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)

    def busy(span, put):
        def after_a_while(**rows):
            sum(range(400_000))  # some 8 ms of CPU
            put(**rows)

        return compute(span, after_a_while)

    fill(folder, work=busy)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "cache"
    fill(folder)
    return folder


def test_rows_come_back_across_shards_and_the_index_says_what_they_are(whole):
    cache = Cache(whole)
    assert len(cache) == 50
    assert cache.manifest["sum"] == sum(range(50))
    assert cache.manifest["teacher"] == "t-1"
    indices, flips = np.random.default_rng(0).permutation(50), np.arange(50) % 2 == 0
    for field, shape in LAYOUT.fields.items():
        expected = np.stack([row(i, int(f), shape) for i, f in zip(indices, flips, strict=True)])
        assert np.array_equal(cache.rows(field, indices, flips), expected)
    with pytest.raises(IndexError, match="holds 50 images and 2 flips"):
        cache.rows("a", [50], [0])
    with pytest.raises(IndexError):
        cache.rows("a", [-1], [0])


def test_a_shard_is_a_plain_npy_file_with_its_checksum_in_the_index(whole):
    names = [n for k in range(7) for n in LAYOUT.names(k).values()]
    assert sorted(json.loads((whole / "index.json").read_text())["files"]) == sorted(names)
    for name, facts in files.opened(whole)["files"].items():
        assert files.sha256(whole / name) == facts["sha256"]
    assert np.load(whole / "a_00006.npy").shape == (2, 2, 3, 2)
    assert not list(whole.glob(".*"))


@given(st.integers(1, 30), st.integers(1, 12))
def test_spans_cover_every_image_once_and_the_cost_is_the_bytes(images, size):
    layout = Layout(images, 2, {"a": (3,)}, size)
    assert [i for k in range(len(layout)) for i in layout.span(k)] == list(range(images))
    assert layout.bytes == images * 2 * 3 * 2


def test_any_sharding_holds_the_same_rows(whole, tmp_path):
    fill(tmp_path / "cache", replace(LAYOUT, shard_images=50))
    one, many = Cache(tmp_path / "cache"), Cache(whole)
    for f in (0, 1):
        assert np.array_equal(one.rows("a", range(50), [f] * 50), many.rows("a", range(50), [f] * 50))


@pytest.mark.process
def test_many_writers_killed_at_random_moments_leave_the_same_files(whole, tmp_path):
    folder, fork = tmp_path / "cache", multiprocessing.get_context("fork")
    draw, killed = np.random.default_rng(1), 0
    folder.mkdir()
    for _ in range(8):
        writers = [fork.Process(target=mortal, args=(folder, draw.uniform(0.001, 0.04))) for _ in range(3)]
        for w in writers:
            w.start()
        for w in writers:
            w.join(120)
            assert w.exitcode in (0, -signal.SIGPROF)
            killed += w.exitcode != 0
    assert killed > 5
    last = [fork.Process(target=fill, args=(folder,)) for _ in range(3)]
    for w in last:
        w.start()
    for w in last:
        w.join(120)
        assert w.exitcode == 0  # those that found nothing left to do end as well
    for left in folder.glob(".*"):  # of writers killed once sealed, or whose shard another was first to finish
        assert left.name.endswith((".partial", ".claims"))
        left.unlink()
    assert contents(folder) == contents(whole)


def test_a_dead_writers_shard_is_taken_over_and_finished_ones_stay(whole, tmp_path):
    folder, made = tmp_path / "cache", []

    def until_three(span, put):
        if len(made) == 3:
            put(a=np.zeros((2, 2, 3, 2)), b=np.zeros((2, 2, 4)))
            raise KeyboardInterrupt
        made.append(span.start)
        return compute(span, put)

    with pytest.raises(KeyboardInterrupt):
        fill(folder, work=until_three)
    ages = {k: (folder / f"a_{k:05d}.npy").stat().st_mtime_ns for k in range(3)}
    assert not (folder / "index.json").exists()
    assert not list(folder.glob("*_00003*"))
    again = []
    fill(folder, work=lambda span, put: (again.append(span.start), compute(span, put))[1])
    assert again == [24, 32, 40, 48]
    assert ages == {k: (folder / f"a_{k:05d}.npy").stat().st_mtime_ns for k in range(3)}
    assert contents(folder) == contents(whole)


def test_a_damaged_or_missing_shard_alone_is_made_again(whole, tmp_path, capsys):
    folder = tmp_path / "cache"
    fill(folder)
    (folder / "index.json").unlink()  # as if killed before sealing
    bytes_ = bytearray((folder / "a_00002.npy").read_bytes())
    bytes_[-1] ^= 1
    (folder / "a_00002.npy").write_bytes(bytes_)
    (folder / "b_00004.npy").unlink()
    again = []
    fill(folder, work=lambda span, put: (again.append(span.start), compute(span, put))[1])
    assert sorted(again) == [16, 32]
    assert "a_00002.npy: damaged" in capsys.readouterr().out
    assert contents(folder) == contents(whole)
    (folder / "a_00005.npy").unlink()  # and after sealing
    with pytest.raises(files.MissingArtefact, match=r"a_00005\.npy: missing"):
        Cache(folder)
    fill(folder)
    assert contents(folder) == contents(whole)


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize(
    ("source", "layout", "says"),
    [
        ({"teacher": "t-2"}, {}, "made with teacher t-1, now it is t-2"),
        ({"data_sha256": "e"}, {}, "made with data_sha256 d, now it is e"),
        ({}, {"images": 49}, "made with images 50, now it is 49"),
        ({}, {"flips": 1}, "made with flips 2, now it is 1"),
        ({}, {"fields": {"a": (3, 3), "b": (4,)}}, "made with fields"),
    ],
)
def test_another_source_is_refused_in_one_line(tmp_path, sealed, source, layout, says):
    folder = tmp_path / "cache"
    fill(folder)
    if not sealed:
        (folder / "index.json").unlink()
    before = contents(folder)
    with pytest.raises(ValueError, match=says) as caught:
        fill(folder, replace(LAYOUT, **layout), SOURCE | source)
    assert "\n" not in str(caught.value)
    assert contents(folder) == before


def test_a_sealed_cache_is_left_alone_and_one_under_another_name_is_refused(whole, tmp_path):
    before = {p.name: p.stat().st_mtime_ns for p in whole.iterdir()}
    fill(whole, replace(LAYOUT, shard_images=16), work=None)
    assert before == {p.name: p.stat().st_mtime_ns for p in whole.iterdir()}
    (tmp_path / "other").symlink_to(whole)
    with pytest.raises(ValueError, match="other holds the cache of cache"):
        Cache(tmp_path / "other")


def test_what_does_not_fit_float16_is_named_and_leaves_nothing(tmp_path):
    def overflow(span, put):
        put(a=np.full((len(span), 2, 3, 2), 7e4), b=np.zeros((len(span), 2, 4)))

    with pytest.raises(ValueError, match="a of images 0 to 7 do not fit float16"):
        fill(tmp_path / "cache", work=overflow)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [".claims"]


def test_a_disk_too_small_is_said_before_anything_is_computed(tmp_path):
    with pytest.raises(ValueError, match=r"200\.0 PB are still to be written, the disk has .* free"):
        fill(tmp_path / "cache", replace(LAYOUT, fields={"a": (10**15,)}), work=None)


@pytest.mark.process
def test_a_full_disk_ends_in_an_error_and_no_half_file(tmp_path):
    """A file size limit stands for the full disk: the write itself fails."""
    import resource

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
        with pytest.raises(OSError, match=r"no room for .*run the same command again"):
            fill(tmp_path / "cache")
        os._exit(0 if [p.name for p in (tmp_path / "cache").iterdir()] == [".claims"] else 1)

    process = multiprocessing.get_context("fork").Process(target=limited)
    process.start()
    process.join(120)
    assert process.exitcode == 0
