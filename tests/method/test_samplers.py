import math
import threading
import time
from itertools import pairwise

import pytest
import torch
from recorder import CLASSES, Recorder, draw, labels, seeded_noise, velocity

from reals import rng
from reals.method import ddpm, guidance, paths, samplers
from reals.method.sampling import Sampling

M, S = 0.7, 0.5  # the Gaussian data N(M, S^2) for which everything is known in closed form
CHAIN = ddpm.linear_schedule()


def gaussian_velocity(x: torch.Tensor, t: float, path: paths.Path = paths.linear) -> torch.Tensor:
    p = path(torch.tensor(t, dtype=torch.float64))
    variance = p.alpha**2 * S**2 + p.sigma**2
    return p.d_alpha * M + (p.alpha * p.d_alpha * S**2 + p.sigma * p.d_sigma) / variance * (x - p.alpha * M)


@pytest.fixture(scope="module")
def sit() -> Recorder:
    return Recorder(learn_sigma=True)


def test_sde_grid_of_the_paper():
    times = samplers.sde_times(250, 0.96)
    assert len(times) == 250
    assert times[0] == 0
    assert times[-1].item() == pytest.approx(0.96, abs=1e-15)
    assert times.diff().tolist() == pytest.approx([0.96 / 249] * 249)
    assert 0.96 / 249 == pytest.approx(0.0038554217, rel=1e-8)


def test_euler_maruyama_is_repa_sampler_in_reversed_time(sit):
    """REPA: tau from 1 (noise) to 0, velocity -v, drift u - tau score, noise sqrt(2 tau dtau)."""
    x, y, steps = draw(2, 4, 4, 4), labels(2), 30
    noise_at = seeded_noise(x.shape)
    ours = samplers.euler_maruyama(
        guidance.guided(sit, y, 1.8, null=CLASSES, channels="all", interval=(0.0, 0.7)), x, steps, noise_at
    )
    null = torch.full_like(y, CLASSES)
    taus = [*torch.linspace(1, 0.04, steps, dtype=torch.float64).tolist(), 0.0]
    for k, (tau, tau_next) in enumerate(pairwise(taus)):

        def drift(classes, x=x, tau=tau):
            u = -velocity(sit, x, 1 - tau, classes)
            score = -((1 - tau) * u + x) / tau
            return u - tau * score

        d = drift(y)
        if tau <= 0.7:
            d = drift(null) + 1.8 * (d - drift(null))
        x = x + (tau_next - tau) * d
        if k < steps - 1:
            x = x + math.sqrt(2 * tau * (tau - tau_next)) * noise_at(k)
    torch.testing.assert_close(ours, x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("path", [paths.linear, paths.gvp])
def test_order_of_the_ode_solvers(path):
    """Gaussian data: the flow maps x_0 to M + S x_0."""
    x = draw(1, 1, 4, 4)

    def error(solver, steps):
        end = solver(lambda x, t: gaussian_velocity(x, t, path), x, steps)
        return (end - (M + S * x)).abs().max().item()

    assert 1.8 < error(samplers.euler, 64) / error(samplers.euler, 128) < 2.2
    assert 3.6 < error(samplers.heun, 64) / error(samplers.heun, 128) < 4.4
    assert error(samplers.heun, 128) < 1e-3


VP_END = 1 - 1e-3  # SiT's transport: check_interval with sample_eps 1e-3


def test_odes_on_the_vp_path_stop_where_sit_stops():
    """Gaussian data: the flow keeps each sample's quantile, so where it is at any time is known."""
    x = draw(1, 1, 4, 4)

    def flowed(end):
        start, stop = (paths.vp(torch.tensor(t, dtype=torch.float64)) for t in (0.0, end))
        of = [(p.alpha**2 * S**2 + p.sigma**2).sqrt() for p in (start, stop)]
        return stop.alpha * M + of[1] * (x - start.alpha * M) / of[0]

    assert (flowed(VP_END) - flowed(1.0)).abs().max() > 1e-4
    times = []

    def field(x, t):
        times.append(t)
        return gaussian_velocity(x, t, paths.vp)

    end = Sampling("ode", 2000, path="vp").integrate(field, x, seeded_noise(x.shape))
    torch.testing.assert_close(end, flowed(VP_END), rtol=0, atol=1e-5)
    assert times[-1] == VP_END
    for sampler in ("ode", "euler", "dopri5"):  # a field of ones tells how long it was followed
        for path, end in (("vp", VP_END), ("gvp", 1), ("linear", 1)):
            carried = Sampling(sampler, 8, path=path).integrate(lambda x, t: torch.ones_like(x), x, seeded_noise(x.shape))
            torch.testing.assert_close(carried, x + end, rtol=0, atol=1e-12)


def test_an_sde_without_a_last_step_stops_there_on_the_vp_path():
    x, steps = draw(4, 1, 2, 2), 11
    noise_at, expected = seeded_noise(x.shape), x
    times = torch.linspace(0, VP_END, steps, dtype=torch.float64)
    dt = float(times[1])
    for k, t in enumerate(times[:-1]):
        v, d = gaussian_velocity(expected, float(t), paths.vp), paths.vp(t).sigma
        drift = v + d * paths.score_from_velocity(paths.vp, v, expected, t)
        expected = expected + drift * dt + torch.sqrt(2 * d * dt) * noise_at(k)
    sampling = Sampling("sde", steps, last="none", last_size=0.0, path="vp")
    got = sampling.integrate(lambda x, t: gaussian_velocity(x, t, paths.vp), x, noise_at)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("settings", "end"),
    [
        ({"sampler": "ode", "path": "vp"}, VP_END),
        ({"sampler": "sde", "path": "vp", "last": "none", "last_size": 0.0}, VP_END),
        ({"sampler": "sde", "path": "vp"}, 1),
        ({"sampler": "heun-sde", "path": "vp", "last": "tweedie"}, 1),
        ({"sampler": "ode", "path": "gvp"}, 1),
        ({"sampler": "sde", "path": "linear", "last": "none", "last_size": 0.0}, 1),
    ],
)
def test_what_is_printed_says_where_a_solver_stops(settings, end):
    assert Sampling(**settings).end == end
    assert (" up to t = 0.999" in Sampling(**settings).described) == (end == VP_END)


def test_evaluations_of_the_ode_solvers():
    calls: list[float] = []

    def field(x, t):
        calls.append(t)
        return gaussian_velocity(x, t)

    samplers.euler(field, draw(1, 1, 2, 2), 7)
    assert calls == pytest.approx([k / 7 for k in range(7)])
    calls.clear()
    samplers.heun(field, draw(1, 1, 2, 2), 125)
    assert len(calls) == 250
    assert calls[-1] == 1


def test_dopri5_reaches_its_tolerance(sit):
    x = draw(2, 1, 4, 4)
    end = samplers.dopri5(gaussian_velocity, x, atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(end, M + S * x, rtol=1e-5, atol=1e-5)
    # The solver may look past t = 1, where the last evaluations are still guided.
    sit.calls.clear()
    samplers.dopri5(guidance.guided(sit, labels(2), 2.0, null=CLASSES, channels=3), draw(2, 4, 4, 4))
    assert set(sit.calls) == {4}


@pytest.mark.parametrize("sampler", [samplers.euler_maruyama, samplers.heun_sde])
@pytest.mark.parametrize("form", ["constant", "sigma", "linear", "decreasing", "increasing-decreasing"])
def test_every_sde_has_the_data_distribution_as_its_end(sampler, form):
    shape = (20_000, 1, 1, 1)
    # "euler", since the noiseless "mean" step shrinks the variance where D is large at the end ("constant").
    end = sampler(gaussian_velocity, draw(*shape), 100, seeded_noise(shape), form=form, last="euler")
    assert end.mean().item() == pytest.approx(M, abs=0.02)
    assert end.std().item() == pytest.approx(S, rel=0.03)


@pytest.mark.parametrize("form", ["SBDM", "sigma"])
def test_sde_on_the_vp_path(form):
    shape = (20_000, 1, 1, 1)
    end = samplers.euler_maruyama(
        lambda x, t: gaussian_velocity(x, t, paths.vp),
        draw(*shape),
        250,
        seeded_noise(shape),
        form=form,
        path=paths.vp,
    )
    assert end.mean().item() == pytest.approx(M, abs=0.03)
    assert end.std().item() == pytest.approx(S, rel=0.1)


@pytest.mark.parametrize("sampler", [samplers.euler_maruyama, samplers.heun_sde])
@pytest.mark.parametrize("start", [0.3, 0.8])
def test_sde_from_noised_data_gives_data(sampler, start):
    shape = (20_000, 1, 1, 1)
    data, noise = M + S * draw(*shape, seed=1), draw(*shape, seed=2)
    x = start * data + (1 - start) * noise
    end = sampler(gaussian_velocity, x, 100, seeded_noise(shape), start=start)
    assert end.mean().item() == pytest.approx(M, abs=0.02)
    assert end.std().item() == pytest.approx(S, rel=0.02)


def test_start_is_below_the_last_step():
    x = draw(1, 1, 2, 2)
    for start in (-0.1, 0.96, 1.0):
        with pytest.raises(ValueError, match=r"expected 0 <= start < 0\.96"):
            samplers.euler_maruyama(gaussian_velocity, x, 10, seeded_noise(x.shape), start=start)


def test_variance_of_euler_maruyama_to_rounding():
    """For Gaussian data each step is affine: the end's mean and variance follow from its coefficients."""
    steps, mean, variance = 50, 0.0, 1.0
    dt = 0.96 / (steps - 1)

    def slope_and_offset(t):
        zero, one = gaussian_velocity(torch.tensor([0.0, 1.0], dtype=torch.float64), t).tolist()
        return (1 + t) * (one - zero) - 1, (1 + t) * zero

    for k in range(steps - 1):
        a, b = slope_and_offset(k * dt)
        mean, variance = mean + (a * mean + b) * dt, (1 + a * dt) ** 2 * variance + 2 * (1 - k * dt) * dt
    a, b = slope_and_offset(0.96)
    mean, variance = mean + (a * mean + b) * 0.04, (1 + 0.04 * a) ** 2 * variance

    # One coordinate for each independent noise: unit impulses read the linear response of the sampler.
    x = torch.zeros(1, 1, 1, steps + 1, dtype=torch.float64)
    x[..., 0] = 1

    def impulse(k):
        noise = torch.zeros_like(x)
        noise[..., k + 1] = 1
        return noise

    end = samplers.euler_maruyama(gaussian_velocity, x, steps, impulse).flatten()
    assert end[-1].item() == pytest.approx(mean, rel=1e-12)
    assert (end[:-1] - end[-1]).square().sum().item() == pytest.approx(variance, rel=1e-12)


def test_last_steps():
    x, times = draw(1, 1, 2, 2), samplers.sde_times(3, 0.8)
    x_next = x
    noise_at = seeded_noise(x.shape)
    dt = times[1].item()
    for k, t in enumerate(times[:-1].tolist()):
        drift = (1 + t) * gaussian_velocity(x_next, t) - x_next
        x_next = x_next + drift * dt + math.sqrt(2 * (1 - t) * dt) * noise_at(k)
    v = gaussian_velocity(x_next, 0.8)
    expected = {
        "mean": x_next + 0.2 * (1.8 * v - x_next),
        "euler": x_next + 0.2 * v,
        "tweedie": x_next + (1 - 0.8) * v,
    }
    for last, end in expected.items():
        got = samplers.euler_maruyama(gaussian_velocity, x, 3, noise_at, last=last, last_size=0.2)
        torch.testing.assert_close(got, end, rtol=1e-12, atol=1e-12)


def test_no_last_step_saves_its_evaluation():
    calls: list[float] = []

    def field(x, t):
        calls.append(t)
        return gaussian_velocity(x, t)

    x = draw(4, 1, 2, 2)
    end = samplers.euler_maruyama(field, x, 11, seeded_noise(x.shape), last="none", last_size=0)
    assert calls == pytest.approx([k / 10 for k in range(10)])
    assert end.isfinite().all()


def gaussian_noise_prediction(x: torch.Tensor, t: int, chain: ddpm.Schedule = CHAIN) -> torch.Tensor:
    alpha_bar = chain.alpha_bar[t]
    variance = alpha_bar * S**2 + 1 - alpha_bar
    return (1 - alpha_bar).sqrt() / variance * (x - alpha_bar.sqrt() * M)


def test_ddpm_with_the_exact_reverse_kernel_samples_the_data():
    """For Gaussian data p(x_{t-1} | x_t) is Gaussian; v is chosen so that the model has its variance."""
    schedule = ddpm.respace(CHAIN, 50)
    step_of = {int(t): k for k, t in enumerate(schedule.timesteps)}

    def field(x, t):
        k = step_of[t]
        alpha_bar = schedule.alpha_bar[k]
        uncertainty = S**2 * (1 - alpha_bar) / (alpha_bar * S**2 + 1 - alpha_bar)
        variance = schedule.posterior_variance[k] + schedule.posterior_data[k] ** 2 * uncertainty
        low, high = schedule.posterior_log_variance[k], schedule.beta[k].log()
        v = 2 * (variance.log() - low) / (high - low) - 1 if k else torch.tensor(0.0)
        return torch.cat([gaussian_noise_prediction(x, t), torch.full_like(x, v.item())], dim=1)

    shape = (20_000, 1, 1, 1)
    end = samplers.ddpm_ancestral(field, draw(*shape), schedule, seeded_noise(shape))
    assert end.mean().item() == pytest.approx(M, abs=0.02)
    assert end.std().item() == pytest.approx(S, rel=0.02)


def test_ddim_is_the_ode_of_the_gaussian():
    x = draw(2, 1, 2, 2)
    end = samplers.ddim(gaussian_noise_prediction, x, CHAIN, 0.0)
    torch.testing.assert_close(end, M + S * x, rtol=0.02, atol=0.02)


def diffusers_loop(scheduler, field, x, generator):
    for t in scheduler.timesteps.tolist():
        kwargs = {"eta": 0.7} if type(scheduler).__name__ == "DDIMScheduler" else {}
        x = scheduler.step(field(x, t), t, x, generator=generator, **kwargs).prev_sample
    return x


def test_whole_chains_equal_diffusers(sit):
    from diffusers import DDIMScheduler, DDPMScheduler

    chain, x, y = ddpm.linear_schedule(50), draw(2, 4, 4, 4), labels(2)
    common = {"num_train_timesteps": 50, "beta_start": 0.002, "beta_end": 0.4, "clip_sample": False}
    field = guidance.guided_noise(sit, y, 1.5, null=CLASSES, channels=3)
    no_grad = torch.no_grad()

    def ours(k, generator):
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)

    generator = rng.generator(0, "chain")
    end = samplers.ddpm_ancestral(field, x, chain, lambda k: ours(k, generator))
    theirs = DDPMScheduler(**common, variance_type="learned_range")
    theirs.set_timesteps(50)
    with no_grad:
        expected = diffusers_loop(theirs, field, x, rng.generator(0, "chain"))
    assert (end - expected).abs().max() / expected.abs().max() < 1e-4

    generator = rng.generator(0, "chain")
    end = samplers.ddim(field, x, chain, 0.7, lambda k: ours(k, generator))
    theirs = DDIMScheduler(**common)
    theirs.set_timesteps(50)
    with no_grad:
        expected = diffusers_loop(theirs, lambda x, t: field(x, t)[:, :4], x, rng.generator(0, "chain"))
    assert (end - expected).abs().max() / expected.abs().max() < 1e-4


def test_ddpm_feeds_training_steps_and_ends_without_noise():
    fed: list[int] = []
    asked: list[int] = []

    def noise_at(k):
        asked.append(k)
        return draw(1, 1, 2, 2, seed=k)

    def field(x, t):
        fed.append(t)
        return torch.cat([gaussian_noise_prediction(x, t), torch.zeros_like(x)], dim=1)

    samplers.ddpm_ancestral(field, draw(1, 1, 2, 2), ddpm.respace(CHAIN, 250), noise_at)
    assert len(fed) == 250
    assert fed[:3] == [999, 995, 991]
    assert fed[-2:] == [4, 0]
    assert asked == list(range(249))


def test_noise_of_a_sample_does_not_depend_on_its_batch():
    together = samplers.per_sample_noise(3, range(10), (4, 2, 2), "sde")
    alone = samplers.per_sample_noise(3, [7], (4, 2, 2), "sde")
    other_purpose = samplers.per_sample_noise(3, [7], (4, 2, 2), "latent")
    steps = [(together(k)[7], alone(k)[0], other_purpose(k)[0]) for k in range(5)]
    assert all(torch.equal(a, b) and not torch.equal(a, c) for a, b, c in steps)
    assert not torch.equal(steps[0][0], steps[1][0])


@pytest.mark.parametrize("shape", [(2,), (4, 2, 2), (3, 5, 7), (4, 32, 32)])
def test_noise_is_each_samples_stream_read_in_order(shape):
    indices = [5, 0, 49_999]
    generators = [rng.generator(3, "sde", index) for index in indices]
    noise_at = samplers.per_sample_noise(3, indices, shape, "sde")
    expected = [torch.stack([torch.randn(shape, generator=generator) for generator in generators]) for _ in range(4)]
    assert all(torch.equal(noise_at(k), expected[k]) for k in range(4))
    assert torch.equal(samplers.start_noise(3, indices, shape, "sde"), expected[0])


def test_the_thread_that_draws_ahead_ends_with_its_noise():
    def drawing():
        return [thread for thread in threading.enumerate() if thread.name.startswith("sample noise")]

    noise_at = samplers.per_sample_noise(3, range(4), (4, 2, 2), "sde")
    noise_at(0)
    assert drawing()
    del noise_at
    until = time.monotonic() + 10
    while drawing() and time.monotonic() < until:
        time.sleep(0.001)
    assert not drawing()


def test_noise_is_standard_normal_in_the_asked_type():
    noise = samplers.per_sample_noise(0, range(200), (4, 8, 8), "sde", dtype=torch.float64)(0)
    assert noise.dtype == torch.float64
    assert noise.shape == (200, 4, 8, 8)
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.std().item() == pytest.approx(1, abs=0.02)


def test_noise_out_of_order_is_caught():
    noise_at = samplers.per_sample_noise(0, [0], (2,), "sde")
    noise_at(0)
    with pytest.raises(AssertionError, match="step 1 is next"):
        noise_at(2)


@pytest.mark.parametrize("kind", ["sde", "ddpm"])
def test_images_do_not_depend_on_the_batch_split(sit, kind):
    def sample(indices):
        shape, dtype = (4, 4, 4), torch.float64
        x = samplers.per_sample_noise(0, indices, shape, "latent", dtype=dtype)(0)
        noise_at = samplers.per_sample_noise(0, indices, shape, "steps", dtype=dtype)
        y = torch.tensor(indices) % CLASSES
        if kind == "sde":
            field = guidance.guided(sit, y, 1.5, null=CLASSES, channels=3, interval=(0, 0.75))
            return samplers.euler_maruyama(field, x, 20, noise_at)
        field = guidance.guided_noise(sit, y, 1.5, null=CLASSES, channels=3)
        return samplers.ddpm_ancestral(field, x, ddpm.respace(CHAIN, 20), noise_at)

    split = torch.cat([sample([0, 1, 2]), sample([3]), sample([4, 5])])
    torch.testing.assert_close(sample([0, 1, 2, 3, 4, 5]), split, rtol=1e-9, atol=1e-9)


def test_progress_and_gradients(sit):
    seen: list[tuple[int, int]] = []

    def progress(done, total):
        seen.append((done, total))

    x = draw(1, 4, 4, 4)
    flow = guidance.guided(sit, labels(1), 1.0, null=CLASSES, channels=3)
    noise = guidance.guided_noise(sit, labels(1), 1.0, null=CLASSES, channels=3)
    noise_at, chain = seeded_noise(x.shape), ddpm.respace(CHAIN, 5)
    ends = [
        samplers.euler_maruyama(flow, x, 5, noise_at, progress=progress),
        samplers.heun_sde(flow, x, 5, noise_at, progress=progress),
        samplers.euler(flow, x, 5, progress=progress),
        samplers.heun(flow, x, 5, progress=progress),
        samplers.ddpm_ancestral(noise, x, chain, noise_at, progress=progress),
        samplers.ddim(noise, x, chain, 0.0, progress=progress),
    ]
    assert seen == [(k, 5) for k in range(1, 6)] * 6
    assert not any(end.requires_grad for end in ends)


def test_float32_stays_float32():
    x = draw(2, 1, 2, 2).float()
    noise_at = samplers.per_sample_noise(0, [0, 1], (1, 2, 2), "sde")
    assert samplers.euler_maruyama(lambda x, t: -x, x, 4, noise_at).dtype == torch.float32
    assert samplers.heun_sde(lambda x, t: -x, x, 4, seeded_noise(x.shape)).dtype == torch.float64
    assert samplers.ddim(lambda x, t: -x, x, ddpm.respace(CHAIN, 4), 0.0).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 1}, "got 1, expected at least 2"),
        ({"form": "gamma"}, "diffusion form: got 'gamma'"),
        ({"form": "SBDM"}, "infinite at t = 0"),
        ({"norm": -1.0}, "diffusion norm"),
        ({"last": "Mean"}, "last step: got 'Mean', expected one of mean"),
        ({"last": "none"}, "got last_size 0.04, expected 0"),
        ({"last_size": 0.0}, "expected 0 < last_size < 1"),
        ({"last_size": 1.0}, "expected 0 < last_size < 1"),
    ],
)
@pytest.mark.parametrize("sampler", [samplers.euler_maruyama, samplers.heun_sde])
def test_unusable_sde_settings_are_refused(sampler, change, message):
    if sampler is samplers.heun_sde and change.get("last") == "none":
        message = "Heun"
    x = draw(1, 1, 2, 2)
    with pytest.raises(ValueError, match=message):
        sampler(gaussian_velocity, x, **{"steps": 10, "noise_at": seeded_noise(x.shape), **change})


def test_dopri5_says_of_a_field_that_is_not_finite_that_it_is_so():
    with pytest.raises(
        FloatingPointError, match=r"dopri5: no step is small enough \(underflow in dt .*\); the network has diverged"
    ):
        samplers.dopri5(lambda x, t: x * torch.nan, draw(1, 1, 2, 2))


def test_unusable_steps_and_eta_are_refused():
    x = draw(1, 1, 2, 2)
    for solver in (samplers.euler, samplers.heun):
        with pytest.raises(ValueError, match="got 1, expected at least 2"):
            solver(gaussian_velocity, x, 1)
    with pytest.raises(ValueError, match="got -1"):
        samplers.ddim(gaussian_noise_prediction, x, CHAIN, -1.0)
    with pytest.raises(ValueError, match="give noise_at"):
        samplers.ddim(gaussian_noise_prediction, x, CHAIN, 0.5)
