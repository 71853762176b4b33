"""LPIPS, the perceptual distance of the autoencoder's loss and of Table 8."""

import urllib.error
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reals import rng, tensors
from reals.method.objectives import wide


class Lpips(nn.Module):
    """The `lpips` package's network, with its backbone in the precision around the call and its distances in float32."""

    def __init__(self, network: Any):
        super().__init__()
        self.network = network
        for module in network.net.modules():
            if isinstance(module, nn.Conv2d):
                module.__class__ = _Convolution
        self.to(memory_format=torch.channels_last)  # as the images of a training come: a call need not copy its weights

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Distances [B, 1, 1, 1] of images [B, 3, H, W] in [-1, 1]; outside autocast those of the package, to rounding."""
        from lpips import normalize_tensor

        layers = [self.network.net(self.network.scaling_layer(x)) for x in (images, others)]
        distance = torch.zeros((), device=images.device)
        with torch.autocast(images.device.type, enabled=False):
            for x, y, weights in zip(*layers, self.network.lins, strict=True):
                difference = normalize_tensor(wide(x)) - normalize_tensor(wide(y))
                distance = distance + weights(difference**2).mean((2, 3), keepdim=True)
        return distance


class _Convolution(nn.Conv2d):
    """Of a map of one pixel it multiplies by the kernel's centre alone: all else of the kernel meets padding.

    Three of AlexNet's five layers, and nine tenths of its weights, see such maps where images have 32 pixels.
    """

    def forward(self, x: Tensor) -> Tensor:
        row, column = self.kernel_size
        centred = self.stride == self.dilation == (1, 1) and self.padding == (row // 2, column // 2)
        if x.shape[2:] == (1, 1) and centred and self.groups == 1:
            return F.conv2d(x, self.weight[:, :, row // 2, column // 2, None, None], self.bias)
        return super().forward(x)


@contextmanager
def _classifier_not_drawn(net: str) -> Iterator[None]:
    """Inside, AlexNet's linear layers are made without numbers: LPIPS leaves them out, and to draw their 59 million takes half a second.

    The convolutions', drawn before them, are the same. Of VGG they are drawn after them, once more.
    """
    draw = nn.Linear.reset_parameters
    if net == "alex":
        nn.Linear.reset_parameters = lambda self: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Linear.reset_parameters = draw  # type: ignore[method-assign]


def lpips_network(net: str, backbone: str, weights: str | None) -> Lpips:
    """LPIPS through the `lpips` package; takes images in [-1, 1].

    ``backbone`` 'pretrained' uses torchvision's ImageNet weights (a download, or the state dict file ``weights``);
    'random' a fixed random backbone under the package's trained linear layers: a perceptual-shaped loss, not LPIPS
    as published, and named so wherever it is reported.
    """
    import lpips

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), _classifier_not_drawn(net):
        # The package calls torchvision by an argument that is about to go; its users can do nothing about it.
        warnings.filterwarnings("ignore", module="torchvision.models")
        torch.manual_seed(rng.key(0, "lpips backbone"))
        random = backbone == "random" or weights is not None
        try:
            network = lpips.LPIPS(net=net, pnet_rand=random, verbose=False)
        except urllib.error.URLError as error:
            raise ValueError(
                f"autoencoder.lpips: the {net} backbone is not in torch's cache and cannot be downloaded ({error.reason}); "
                "run `reals fetch` where there is a network, or give torchvision's file as autoencoder.lpips.weights"
            ) from None
    if weights is not None:
        path = Path(weights)
        state = tensors.named(path, tensors.read(path)[0])
        for name, part in network.net.named_children():
            own = [k for k in part.state_dict() if name.startswith("slice")]
            missing = [k for k in own if f"features.{k}" not in state]
            if missing:
                raise ValueError(f"{path}: no features.{missing[0]}; autoencoder.lpips.weights is torchvision's file of {net}")
            part.load_state_dict({k: state[f"features.{k}"] for k in own}, strict=bool(own))
    return Lpips(network).eval().requires_grad_(False)
