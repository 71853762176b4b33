"""The sampler table and the samplers agree: each name draws, each sampler has a name, and evaluations are as many as it says."""

import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reals.experiment.sampler_table import CHAIN_STEPS, PATH_NAMES, SAMPLERS
from reals.method import paths, samplers
from reals.method.models.transformer import TransformerConfig
from reals.method.sampling import Sampling, shard_range

CONFIG = TransformerConfig(
    width=8, depth=1, heads=1, patch=2, latent_channels=1, latent_size=2, classes=2, learn_sigma=True
)  # fmt: skip
ZERO = torch.zeros(1, 1, 1, 1)


def solvers() -> set[str]:
    """The functions of `samplers` that carry x along a field."""
    functions = inspect.getmembers(samplers, inspect.isfunction)
    return {
        name for name, f in functions if not name.startswith("_") and list(inspect.signature(f).parameters)[:2] == ["field", "x"]
    }


def drawn(name: str, steps: int = 6) -> int:
    """Draws one number by a sampler; how often its field was evaluated."""
    sampling, calls = Sampling(name, steps), 0

    def field(x, t):
        nonlocal calls
        calls += 1
        return torch.zeros(1, 2, 1, 1) if sampling.diffuses else torch.zeros_like(x)

    sampling.integrate(field, ZERO, lambda k: ZERO)
    return calls


def test_every_sampler_of_the_table_draws_and_every_solver_has_a_name(monkeypatch):
    called: set[str] = set()
    known = solvers()
    for name in known:
        solve = getattr(samplers, name)
        monkeypatch.setattr(samplers, name, lambda *a, solve=solve, name=name, **k: (called.add(name), solve(*a, **k))[1])
    for name, sampler in SAMPLERS.items():
        before = len(called)
        Sampling(name, steps=6).check(sampler.family, CONFIG)
        drawn(name)
        assert len(called) == before + 1, f"{name} is drawn as another sampler"
    assert called == known


@pytest.mark.parametrize("steps", [2, 6, 50])
@pytest.mark.parametrize("name", [name for name, sampler in SAMPLERS.items() if sampler.times])
def test_evaluations_are_as_many_as_the_table_says(name, steps):
    if SAMPLERS[name].even and steps < 4:
        return  # refused: two steps of two evaluations are the least
    assert drawn(name, steps) == SAMPLERS[name].evaluations(steps) == Sampling(name, steps).evaluations


def test_a_name_that_nothing_has_is_told_at_once():
    for named, says in (
        ({"sampler": "odee"}, "sampler: got 'odee', expected one of sde"),
        ({"path": "cosine"}, "path: got 'cosine'"),
    ):
        with pytest.raises(ValueError, match=says):
            Sampling(**named)


def test_every_path_of_the_table_is_implemented():
    assert set(paths.PATHS) == set(PATH_NAMES)


def test_the_chain_has_as_many_steps_as_the_table_says():
    from reals.method import ddpm

    assert len(ddpm.linear_schedule()) == CHAIN_STEPS


@given(st.integers(1, 60), st.integers(1, 12))
def test_shards_cover_every_sample_once(n, shards):
    ranges = [list(shard_range(n, k, shards)) for k in range(shards)]
    assert [i for r in ranges for i in r] == list(range(n))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1
