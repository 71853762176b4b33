"""Networks and tasks at the smallest size, for tests in more than one room."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from reals import rng
from reals.experiment.specs import AlignSpec, GanSpec, LpipsSpec, RunSpec, TrainedAutoencoderSpec, VfSpec
from reals.measure.extractors.small_cnn import SmallCNN, SmallCNNConfig, initialise_small_cnn
from reals.method import alignment
from reals.method.models import autoencoder as models
from reals.method.models.lpips import lpips_network
from reals.rng import generator
from reals.training.processes import Processes
from reals.training.tasks.autoencoder import AutoencoderTask, align_networks


def tiny(seed: int = 0):
    vae = models.build(32, 4, (8, 8, 8), 1, 4)
    models.initialise(vae, seed)
    return vae


class Pictures:
    labels = np.zeros(8, np.int64)

    def __init__(self):
        self.pixels = np.random.default_rng(0).integers(0, 256, (8, 3, 32, 32), dtype=np.uint8)

    def __len__(self):
        return 8

    def batch(self, indices, flips=None):
        return self.pixels[np.asarray(indices)]


LPIPS = lpips_network("alex", "random", None)


ALIGN = AlignSpec(
    patch=True, cls=True, layers=2, hidden=8, lambda_a=1.0, lambda_1=0.9, lambda_2=0.1, smooth_l1_beta=1.0, balance="constant",
    cells=None,
)  # fmt: skip
VF = VfSpec(lambda_a=0.1, cosine_margin=0.5, distance_margin=0.25, cells=None)
GAN = GanSpec(start=0, ramp=0, channels=4, layers=1)
AUTOENCODER = TrainedAutoencoderSpec(
    data="d", features=None, teacher="t", latent_channels=4, block_out_channels=(8, 8, 8), layers_per_block=1, norm_num_groups=8,
    pixel="mse", lambda_p=1.0, lambda_g=0.1, gan_weight="constant", betas=(0.9, 0.95), weight_decay=0.0, grad_clip=1.0, flip=True,
    gan=GAN, lpips=LpipsSpec(net="alex", backbone="random", precision=None), ema=None, scale_images=8, seed=0, precision=None, init=None,
    unit_scale=None, steps=10, batch=4, lr=1e-3, lambda_k=1e-4, align=ALIGN, equivariance=None,
    normalise=None,
)  # fmt: skip
RUN = RunSpec(
    latents="l", features=None, teacher=None, family="SiT", patch=2, width=16, depth=2, heads=2, latent_channels=2, latent_size=4,
    batch=7, lr=1e-3, ema=0.9, precision=None, label_dropout=0.3, learn_sigma=True, flip=True, seed=3, repa=None, interpolant=None,
    scaling_factor=None, times=None,
)  # fmt: skip


def task(processes=None, **changes):
    spec = replace(AUTOENCODER, **changes)
    vae = tiny().train()
    align = align_networks(spec, spec.align, 6) if spec.align else None
    if align is not None:
        alignment.initialise(align, rng.generator(0, "align"))

    def teacher(indices, flips, images):
        return torch.ones(len(indices), 64, 6), torch.ones(len(indices), 6)

    pictures = Pictures()
    return AutoencoderTask(spec, vae, align, teacher, LPIPS, pictures, pictures, processes or Processes(), 4)


def random_inception_weights(path):
    """Random weights in the layout of torch-fidelity's published file, scaled to keep activations alive."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    state: dict[str, torch.Tensor] = {}

    def catch(url, progress):
        return state

    # The class builds its layers only in a constructor that also loads: an idle load names what it needs.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", catch)
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda self, loaded: None)
        network = module.FeatureExtractorInceptionV3("template", ["2048"])
    draw = generator(0, "inception")
    for name, value in network.state_dict().items():
        if value.ndim >= 2:
            state[name] = torch.randn(value.shape, generator=draw) * (2 / value[0].numel()) ** 0.5
        else:
            state[name] = value
    torch.save(state, path)
    return path


def image_bytes(n: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    """uint8 [n, 3, size, size]."""
    return torch.randint(0, 256, (n, 3, size, size), generator=generator(seed, "bytes"), dtype=torch.uint8)


def small_cnn(**config) -> SmallCNN:
    """An untrained feature extractor of small images, in eval mode."""
    model = SmallCNN(SmallCNNConfig(**{"classes": 10, **config}))
    initialise_small_cnn(model, generator(0, "judge"))
    model.train()
    with torch.no_grad():
        model(image_bytes(16, model.config.resolution))  # moves the running statistics off their start
    return model.eval()
