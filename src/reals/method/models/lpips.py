"""LPIPS, the perceptual distance of the autoencoder's loss and of Table 8."""

import urllib.error
import warnings
from pathlib import Path

import torch
from torch import nn

from reals import rng, tensors


def lpips_network(net: str, backbone: str, weights: str | None) -> nn.Module:
    """LPIPS through the `lpips` package; takes images in [-1, 1].

    ``backbone`` 'pretrained' uses torchvision's ImageNet weights (a download, or the state dict file ``weights``);
    'random' a fixed random backbone under the package's trained linear layers: a perceptual-shaped loss, not LPIPS
    as published, and named so wherever it is reported.
    """
    import lpips

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
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
    return network.eval().requires_grad_(False)
