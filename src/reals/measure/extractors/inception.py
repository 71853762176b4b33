"""ADM's Inception-v3, by torch-fidelity: the feature extractor of every published FID."""

from pathlib import Path

import torch
from torch import Tensor, nn

from reals import tensors
from reals.experiment.metric_table import ADM_EXTRACTOR
from reals.measure.extractor import SPATIAL_CHANNELS, Extractor, Features, check_bytes, check_weights, on_cpu


def inception(weights: Path | None, sha256: str | None = None) -> Extractor:
    """ADM's network: pool 2048, spatial 2023, logits 1008 without bias.

    torch-fidelity's Inception-v3 with the 2015 weights and TensorFlow-1 resizing, fed with bytes of any size.
    ``weights`` is its .pth file (None: its own download, which needs the network, checked against the checksum
    in its name); ``sha256`` is compared before the file is read, ValueError if it differs. Spatial features
    are the first 7 channels of ``Mixed_6d.branch1x1``, ADM's ``mixed_6/conv``, in (row, column, channel) order,
    that of the statistics in ADM's reference files. That this node stands after the ReLU is inferred from its
    name, not yet compared with ADM's output.
    """
    check_weights(weights, sha256)
    network = _published(weights)

    @torch.no_grad()
    def features(images: Tensor) -> Features:
        check_bytes(images)
        seen: list[Tensor] = []
        hook = network.get_submodule("Mixed_6d.branch1x1").register_forward_hook(
            lambda module, inputs, output: seen.append(output[:, :SPATIAL_CHANNELS].clone())
        )
        try:
            pool, logits = network(images)
        finally:
            hook.remove()
        return on_cpu(pool, seen[0], logits)

    return Extractor(ADM_EXTRACTOR, network, features)


def _published(weights: Path | None) -> nn.Module:
    """torch-fidelity's network with the weights of a file, or with its own download; ValueError where they are not its own."""
    from torch_fidelity import feature_extractor_inceptionv3 as published

    if weights is None:
        _download(published.URL_INCEPTION_V3)
    else:
        tensors.named(weights, tensors.read(weights)[0])  # torch-fidelity would run whatever else the file holds
    try:
        return published.FeatureExtractorInceptionV3(
            ADM_EXTRACTOR,
            ["2048", "logits_unbiased"],
            feature_extractor_weights_path=None if weights is None else str(weights),
        )
    except RuntimeError as error:
        raise ValueError(f"{weights}: not torch-fidelity's Inception ({str(error).splitlines()[0].rstrip(':')})") from None


def _download(url: str) -> None:
    """Fetches the weights into torch's cache, from which torch-fidelity takes them without checking what it downloaded."""
    try:
        torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True)
    except OSError as error:
        raise ValueError(
            f"Inception: {url} cannot be downloaded ({error}); fetch it elsewhere and give the file with --weights"
        ) from None
    except RuntimeError as error:
        raise ValueError(f"Inception: the download of {url} is damaged ({error}); try again") from None
