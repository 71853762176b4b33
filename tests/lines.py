"""A line fitted by the training loop: the smallest task with optimizer state, EMA and randomness, for tests of the loop itself."""

import time

import torch

from reals import rng
from reals.experiment.engine import EngineConfig
from reals.training import loop
from reals.training.ema import update_ema
from reals.training.states import States
from reals.training.task import Task

EACH_STEP = EngineConfig(log_every=1)


def states(folder):
    return States(folder / "state")


class Line(Task):
    """Fits a line by Adam on noise keyed by step: small, but with optimizer state, EMA and randomness."""

    def __init__(self, fail_at: int | None = None):
        self.model = torch.nn.Linear(3, 1)
        torch.nn.init.constant_(self.model.weight, 0.5)
        torch.nn.init.zeros_(self.model.bias)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.05)
        self.ema = [p.detach().clone() for p in self.model.parameters()]
        self.fail_at = fail_at

    def update(self, step):
        x = torch.randn(8, 3, generator=rng.generator(0, "x", step))
        loss = (self.model(x) - x.sum(1, keepdim=True)).square().mean()
        if step == self.fail_at:
            loss = loss * float("nan")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        update_ema(self.ema, self.model.parameters(), 0.9)
        return {"loss": loss.detach(), "bias": self.model.bias.detach().mean()}

    def state(self):
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "ema": self.ema}

    def load(self, state):
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for mine, saved in zip(self.ema, state["ema"], strict=True):
            mine.copy_(saved)


def run(folder, *stops, **kwargs):
    """Trains to each of ``stops`` with a fresh task each time, as separate jobs would; the last task."""
    for steps in stops:
        task = Line(**kwargs)
        loop.train(task, folder, steps, label="line", engine=EACH_STEP)
    return task


def same(a, b):
    pairs = zip([*a.model.parameters(), *a.ema], [*b.model.parameters(), *b.ema], strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


class Slow(Line):
    """Takes its time, and tells when it has begun."""

    def __init__(self, told=None, seconds=0.005, ballast=0):
        super().__init__()
        self.told, self.seconds, self.ballast = told, seconds, torch.zeros(ballast)

    def update(self, step):
        time.sleep(self.seconds)
        if step == 1 and self.told is not None:
            self.told.touch()
        return super().update(step)

    def state(self):
        return super().state() | {"ballast": self.ballast}
