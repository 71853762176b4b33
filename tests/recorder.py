"""A transformer that counts its calls, and what samplers and guidance are tried with."""

import torch

from reals import rng
from reals.method.models.transformer import Transformer, TransformerConfig, initialise
from reals.method.samplers import NoiseAt

CLASSES = 10


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=rng.generator(seed, "draw"), dtype=torch.float64)


class Recorder(torch.nn.Module):
    """A transformer whose calls are counted, with the batch size of each."""

    def __init__(self, learn_sigma: bool):
        super().__init__()
        config = TransformerConfig(
            width=32,
            depth=1,
            heads=2,
            patch=2,
            latent_channels=4,
            latent_size=4,
            classes=CLASSES,
            learn_sigma=learn_sigma,
        )
        generator = rng.generator(0, "weights")
        self.network = Transformer(config)
        initialise(self.network, generator)
        with torch.no_grad():
            for parameter in self.network.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        self.double()
        self.calls: list[int] = []

    def forward(self, x, t, y):
        self.calls.append(len(x))
        return self.network(x, t, y)


def labels(batch: int) -> torch.Tensor:
    return torch.arange(batch) % CLASSES


def velocity(sit: Recorder, x: torch.Tensor, t: float, y: torch.Tensor) -> torch.Tensor:
    return sit.network(x, torch.full((len(x),), t), y)[:, :4]


def seeded_noise(shape: tuple[int, ...]) -> NoiseAt:
    return lambda k: draw(*shape, seed=1000 + k)
