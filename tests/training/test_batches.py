"""The order of the data is one stream of permutations, whatever the batch; batches are made ahead, in order, by threads that end."""

import os
import signal
import threading
import time
from contextlib import closing

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lines import EACH_STEP, Line

from reals import rng
from reals.training.batches import Ahead, data_order, mirrored
from reals.training.loop import Stopped, train


@given(st.integers(1, 40), st.integers(1, 30), st.integers(0, 5))
def test_the_data_order_is_one_stream_of_permutations(n, batch, seed):
    steps = -(-3 * n // batch)
    stream = [i for step in range(steps) for i in data_order(seed, step, batch, n)]
    for epoch in range(3):
        assert sorted(stream[epoch * n : (epoch + 1) * n]) == list(range(n))
    assert stream[:n] == np.asarray(rng.permutation(seed, "data order", 0, n=n)).tolist()


def loaders():
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_come_in_order_whatever_thread_is_done_first(threads):
    def make(step):
        time.sleep(0.002 * (step % 3))
        return step

    with closing(Ahead(make, threads)) as batches:
        assert [batches(step) for step in range(20)] == list(range(20))
        assert [batches(step) for step in (7, 8, 3)] == [7, 8, 3]  # as after a resume
    assert not loaders()
    assert batches(5) == 5  # and anew
    batches.close()


def test_as_many_batches_as_threads_are_under_way_and_no_more():
    begun, go_on = [], threading.Event()

    def make(step):
        begun.append(step)
        if step:
            assert go_on.wait(10)
        return step

    with closing(Ahead(make, 3)) as batches:
        batches(0)
        until = time.monotonic() + 10
        while len(begun) < 4 and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(0.02)
        assert sorted(begun) == [0, 1, 2, 3]
        go_on.set()


def test_a_loader_that_fails_fails_the_step_that_asked(tmp_path):
    def make(step):
        if step == 2:
            raise OSError("image 7 is gone")
        return step

    with closing(Ahead(make, 3)) as batches:
        assert [batches(0), batches(1)] == [0, 1]
        for _ in range(2):
            with pytest.raises(OSError, match="image 7 is gone"):
                batches(2)
        assert batches(3) == 3
    assert not loaders()


def test_what_calls_waited_is_counted():
    with closing(Ahead(lambda step: time.sleep(0.05), 1)) as batches:
        batches(0)
        first = batches.waited
        time.sleep(0.1)
        batches(1)
        assert first >= 0.05 and batches.waited < first + 0.04


class Loaded(Line):
    """Its data come from threads, which may fail."""

    def __init__(self, broken=None):
        super().__init__()
        self.broken, self.batches = broken, Ahead(self.batch, 2)

    def batch(self, step):
        if step == self.broken:
            raise OSError("the disk is gone")
        return step

    def update(self, step):
        assert self.batches(step) == step
        if step == 3 and self.broken is None:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().update(step)


@pytest.mark.parametrize(("broken", "ends"), [(4, OSError), (None, Stopped)])
def test_no_loader_is_left_however_training_ends(broken, ends, tmp_path):
    with pytest.raises(ends):
        train(Loaded(broken), tmp_path, 10, label="line", engine=EACH_STEP)
    assert not loaders()
    task = Loaded(broken=11)  # never asked for
    train(task, tmp_path, 10, label="line", engine=EACH_STEP)
    assert not loaders() and task.batches.waited > 0


def test_images_are_mirrored_where_flips_say_so():
    pixels = torch.randint(0, 256, (5, 3, 4, 6), dtype=torch.uint8)
    flips = torch.tensor([True, False, False, True, True])
    expected = np.where(flips.numpy()[:, None, None, None], pixels.numpy()[..., ::-1], pixels.numpy())
    made = mirrored(pixels, flips, torch.device("cpu"))
    assert made.dtype == torch.uint8 and np.array_equal(made.numpy(), expected)
