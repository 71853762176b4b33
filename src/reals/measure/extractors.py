"""Feature networks behind the generation metrics: ADM's Inception-v3, DINOv2, CLIP and a CNN judge of small images."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reals import tensors
from reals.experiment.vocabulary import METRIC_NAMES
from reals.files import sha256 as file_sha256

ADM_NETWORK = "inception-v3-compat"
SPATIAL_CHANNELS = 7  # of the spatial map, as in ADM's sFID
POOL_WIDTH, SPATIAL_WIDTH = 2048, SPATIAL_CHANNELS * 17 * 17  # of ADM's network


@dataclass(frozen=True)
class Features:
    """Of N images: ``pool`` [N, D], ``spatial`` [N, S] (for sFID), ``logits`` [N, K]; float32 on the CPU.

    A network without a spatial map or without classes gives S = 0 or K = 0: there is no sFID or IS then.
    """

    pool: Tensor
    spatial: Tensor
    logits: Tensor

    def __len__(self) -> int:
        return len(self.pool)


@dataclass(frozen=True)
class Extractor:
    """A named network; ``features`` maps bytes [N, 3, H, W], on its device, to Features without gradients."""

    name: str
    network: nn.Module
    features: Callable[[Tensor], Features]

    def to(self, device: torch.device | str) -> Extractor:
        """Move the network to ``device``; returns self."""
        self.network.to(device)
        return self

    @cached_property
    def sha256(self) -> str:
        """Of the weights themselves (names, shapes, bytes), so that it is the same for every file format."""
        digest = hashlib.sha256()
        for name, value in sorted(self.network.state_dict().items()):
            array = value.detach().cpu().contiguous()
            digest.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
            digest.update(array.reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def metric_name(metric: str, network: str) -> str:
    """How a metric is printed: "FID" with ADM's network, else with the network's name, "FID (digits-cnn)"."""
    if metric not in METRIC_NAMES:
        raise ValueError(f"metric: got {metric!r}, expected one of {', '.join(METRIC_NAMES)}")
    return METRIC_NAMES[metric] if network == ADM_NETWORK else f"{METRIC_NAMES[metric]} ({network})"


def extract(extractor: Extractor, batches: Iterable[Tensor], progress: Callable[[int], None] | None = None) -> Features:
    """Features of all images in one pass over ``batches`` of bytes [B, 3, H, W].

    Batches are moved to the network's device; ``progress`` is called with the number of images done.
    ValueError if there is no batch or one is not bytes.
    """
    device = next(extractor.network.parameters()).device
    parts: list[Features] = []
    done = 0
    for batch in batches:
        _check_bytes(batch)
        parts.append(extractor.features(batch.to(device)))
        done += len(batch)
        if progress is not None:
            progress(done)
    if not parts:
        raise ValueError("extract: no images; expected at least one batch [B, 3, H, W] of uint8")
    return Features(*(torch.cat([getattr(p, field) for p in parts]) for field in ("pool", "spatial", "logits")))


def make_extractor(spec: dict[str, str], folder: Path | None) -> Extractor:
    """The network a spec describes, with its files in ``folder``.

    ``{"kind": "inception", "weights": file name, "sha256": digest}``: ADM's network; without ``folder`` the
    weights are torch-fidelity's own download. Kinds ``dinov2`` and ``clip`` likewise; without ``folder`` timm
    takes its published weights from the hub. ``{"kind": "small-cnn", "name": ...}``: a trained judge.
    ValueError for an unknown kind and for missing or unknown keys.
    """
    published = {"inception": inception} | {kind: partial(vision_transformer, vit) for kind, vit in VITS.items()}
    kind = spec.get("kind")
    if kind not in (*published, "small-cnn"):
        raise ValueError(f"feature network: kind {kind!r}, expected one of {', '.join([*published, 'small-cnn'])}")
    given = set(spec) - {"kind"}
    wanted = {"name"} if kind == "small-cnn" else set() if folder is None else {"weights", "sha256"}
    if given != wanted:
        raise ValueError(f"feature network {kind}: keys {sorted(given)}, expected {sorted(wanted)}")
    if kind in published:
        return published[kind](folder / spec["weights"], spec["sha256"]) if folder is not None else published[kind](None)
    if folder is None:
        raise ValueError("feature network small-cnn: no folder given; train the judge first")
    return small_cnn_extractor(load_small_cnn(folder), spec["name"])


def inception(weights: Path | None, sha256: str | None = None) -> Extractor:
    """ADM's network: pool 2048, spatial 2023, logits 1008 without bias.

    torch-fidelity's Inception-v3 with the 2015 weights and TensorFlow-1 resizing, fed with bytes of any size.
    ``weights`` is its .pth file (None: its own download, which needs the network, checked against the checksum
    in its name); ``sha256`` is compared before the file is read, ValueError if it differs. Spatial features are the first 7 channels of
    ``Mixed_6d.branch1x1``, ADM's ``mixed_6/conv``, in (row, column, channel) order, that of the statistics in
    ADM's reference files. That this node stands after the ReLU is inferred from its name, not yet compared
    with ADM's output.
    """
    from torch_fidelity import feature_extractor_inceptionv3 as published

    _check_file(weights, sha256)
    if weights is not None:
        tensors.named(weights, tensors.read(weights)[0])  # torch-fidelity would run whatever else the file holds
    if weights is None:
        # Its own loader does not check what it downloads.
        url = published.URL_INCEPTION_V3
        try:
            torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True)
        except OSError as error:
            raise ValueError(
                f"Inception: {url} cannot be downloaded ({error}); fetch it elsewhere and give the file with --weights"
            ) from None
        except RuntimeError as error:
            raise ValueError(f"Inception: the download of {url} is damaged ({error}); try again") from None
    try:
        network = published.FeatureExtractorInceptionV3(
            ADM_NETWORK,
            ["2048", "logits_unbiased"],
            feature_extractor_weights_path=None if weights is None else str(weights),
        )
    except RuntimeError as error:
        raise ValueError(f"{weights}: not torch-fidelity's Inception ({str(error).splitlines()[0].rstrip(':')})") from None

    @torch.no_grad()
    def features(images: Tensor) -> Features:
        _check_bytes(images)
        seen: list[Tensor] = []
        hook = network.Mixed_6d.branch1x1.register_forward_hook(
            lambda module, inputs, output: seen.append(output[:, :SPATIAL_CHANNELS].clone())
        )
        try:
            pool, logits = network(images)
        finally:
            hook.remove()
        return _on_cpu(pool, seen[0], logits)

    return Extractor(ADM_NETWORK, network, features)


def _check_file(weights: Path | None, sha256: str | None) -> None:
    if weights is None:
        if sha256 is not None:
            raise ValueError("sha256: given without a weights file; give both or neither")
        return
    if not weights.is_file():
        raise ValueError(f"{weights}: no such file; give the weights' own path")
    if sha256 is not None and (digest := file_sha256(weights)) != sha256:
        raise ValueError(f"{weights}: sha256 is {digest}, expected {sha256}; fetch the file again")


@dataclass(frozen=True)
class Vit:
    """A timm image tower: its name here, timm's name, the side it is fed with, and which output is the feature."""

    name: str
    timm: str
    side: int = 224
    projected: bool = False  # the output of the head (CLIP's shared space), else the pooled token before it


VITS = {
    # FD-DINOv2 (Stein et al. 2023): the cls token after the last norm, 1024 wide.
    "dinov2": Vit("dinov2-vit-l-14", "vit_large_patch14_dinov2.lvd142m"),
    # Kynkäänniemi et al. 2023 take CLIP's ViT-B/32: its 512-wide image embedding, before normalisation.
    "clip": Vit("clip-vit-b-32", "vit_base_patch32_clip_quickgelu_224.openai", projected=True),
}


def vision_transformer(vit: Vit, weights: Path | None, sha256: str | None = None) -> Extractor:
    """A row of ``VITS`` as an Extractor: pool features alone, so that it gives FD, precision, recall and KID.

    Bytes are resized by bicubic interpolation with antialiasing to ``side`` pixels, scaled to [0, 1] and
    normalised with the mean and deviation of timm's table: EDM2's fast variant of FD-DINOv2, which differs
    slightly from resizing each image with Pillow. ``weights`` is a local file in timm's or the authors' own
    layout; None takes timm's published ones from the hub. ValueError for a missing or wrong file.
    """
    import timm
    from timm.models import load_state_dict
    from timm.models.vision_transformer import checkpoint_filter_fn

    _check_file(weights, sha256)
    classes = {} if vit.projected else {"num_classes": 0}
    try:
        # At its own grid first: positions are resampled below, not by timm.
        network = timm.create_model(vit.timm, pretrained=weights is None, **classes)
        if weights is not None:
            network.load_state_dict(checkpoint_filter_fn(load_state_dict(str(weights)), network))
    except (RuntimeError, OSError, KeyError, EOFError) as error:
        where = weights or f"{vit.timm} from the hub"
        raise ValueError(
            f"{vit.name}: {where} cannot be loaded ({' '.join(str(error).split())[:200]}); give {vit.timm}'s file with --weights"
        ) from None
    grid = network.patch_embed.grid_size[0]
    if vit.side // network.patch_embed.patch_size[0] != grid:
        own = network.pos_embed.detach()
        network.set_input_size((vit.side, vit.side))
        with torch.no_grad():
            network.pos_embed.copy_(dinov2_positions(own, network.patch_embed.grid_size[0]))
    network.requires_grad_(False).eval()
    statistics = timm.get_pretrained_cfg(vit.timm)
    mean, std = (255 * torch.tensor(v).view(1, 3, 1, 1) for v in (statistics.mean, statistics.std))

    @torch.no_grad()
    def features(images: Tensor) -> Features:
        _check_bytes(images)
        x = F.interpolate(images.float(), size=(vit.side, vit.side), mode="bicubic", antialias=True)
        pool = network((x - mean.to(x.device)) / std.to(x.device))
        return _on_cpu(pool, pool.new_zeros(len(pool), 0, 1, 1), pool.new_zeros(len(pool), 0))

    return Extractor(vit.name, network, features)


def dinov2_positions(positions: Tensor, grid: int) -> Tensor:
    """Positions [1, 1 + G G, D] (cls first) resampled to [1, 1 + grid grid, D] as DINOv2's hub models do."""
    side = math.isqrt(positions.shape[1] - 1)
    patches = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, scale_factor=((grid + 0.1) / side,) * 2, mode="bicubic")
    return torch.cat([positions[:, :1], patches.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


@dataclass(frozen=True)
class SmallCNNConfig:
    """``resolution``: pixels, at least 16, dividing by 8; ``width`` of the first stage; residual ``blocks`` a stage."""

    classes: int
    resolution: int = 32
    width: int = 16
    blocks: int = 1

    def __post_init__(self) -> None:
        if self.resolution < 16 or self.resolution % 8:
            raise ValueError(f"small CNN: resolution {self.resolution}, expected at least 16 and a multiple of 8")
        if self.classes < 2 or self.width < 2 or self.blocks < 1:
            raise ValueError(f"small CNN: {self}, expected classes >= 2, width >= 2, blocks >= 1")


class SmallCNN(nn.Module):
    """Residual classifier of small RGB images (basic blocks of He et al. 2016), 13.7 million MACs by default.

    A first convolution whose stride is the resolution over 32, at least 1 and rounded down, then stages at full,
    half, quarter and eighth of what it leaves (32, 16, 8 and 4 pixels of a 32- or 64-pixel image), with width
    1, 2, 4 and 4 times ``width``. Input is bytes [N, 3, R, R]; ``channels_last`` order is kept.
    """

    def __init__(self, config: SmallCNNConfig):
        super().__init__()
        self.config = config
        w = config.width
        stride = max(1, config.resolution // 32)
        self.stem = nn.Sequential(*_conv_norm(3, w, stride, kernel=max(3, 2 * stride - 1)), nn.ReLU(inplace=True))
        self.stages = nn.ModuleList(
            _stage(before, after, config.blocks, stride)
            for before, after, stride in ((w, w, 1), (w, 2 * w, 2), (2 * w, 4 * w, 2), (4 * w, 4 * w, 2))
        )
        self.head = nn.Linear(4 * w, config.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class logits [N, K] of bytes [N, 3, R, R]."""
        return self.activations(images)[2]

    def activations(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pool [N, 4 width], the third stage's map [N, 4 width, h, w] (h = 8 for R = 32) and logits [N, K]."""
        _check_bytes(images)
        side = self.config.resolution
        if images.shape[2:] != (side, side):
            raise ValueError(f"small CNN: images are {tuple(images.shape[2:])}, expected {(side, side)}")
        x = self.stem((images.to(self.head.weight.dtype) - 127.5) / 127.5)
        for stage in self.stages[:3]:
            x = stage(x)
        middle = x
        pool = self.stages[3](middle).mean(dim=(2, 3))
        return pool, middle, self.head(pool)


class _Residual(nn.Module):
    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(*_conv_norm(before, after, stride), nn.ReLU(inplace=True), *_conv_norm(after, after, stride=1))
        same = before == after and stride == 1
        self.stride = stride
        self.skip = nn.Identity() if same else nn.Sequential(*_conv_norm(before, after, 1, kernel=1))

    def forward(self, x: Tensor) -> Tensor:
        # Not a convolution with a stride: that one crashes oneDNN on CPUs without AVX-512 (channels last, fewer than 8 channels).
        return F.relu(self.body(x) + self.skip(x[:, :, :: self.stride, :: self.stride]))


def _conv_norm(before: int, after: int, stride: int, kernel: int = 3) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(after)


def _stage(before: int, after: int, blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(_Residual(before, after, stride), *(_Residual(after, after, 1) for _ in range(blocks - 1)))


def initialise_small_cnn(model: SmallCNN, generator: torch.Generator) -> None:
    """Draw every weight from ``generator``: He-normal convolutions, head N(0, 0.01^2), norms 1, biases 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01, generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()


def save_small_cnn(model: SmallCNN, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` into ``folder``, which is made if needed."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(model.config), indent=2) + "\n")
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, folder / "model.safetensors")


def load_small_cnn(folder: Path) -> SmallCNN:
    """The judge saved in ``folder``, frozen and in eval mode. ValueError if a file is missing."""
    from safetensors.torch import load_file

    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name}: not found; train the judge first")
    model = SmallCNN(SmallCNNConfig(**json.loads((folder / "config.json").read_text())))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.requires_grad_(False).eval()


def small_cnn_extractor(model: SmallCNN, name: str) -> Extractor:
    """The judge as an Extractor, put in eval mode; ValueError if ``name`` is that of ADM's network.

    By default pool is [N, 64], spatial [N, 448]: 7 channels of the 8 x 8 map, as sFID takes them. Logits
    include the bias.
    """
    if name == ADM_NETWORK:
        raise ValueError(f"feature network: {name!r} is the name of ADM's network, choose another for the judge")
    model.eval()

    @torch.no_grad()
    def features(images: Tensor) -> Features:
        pool, middle, logits = model.activations(images)
        return _on_cpu(pool, middle[:, :SPATIAL_CHANNELS], logits)

    return Extractor(name, model, features)


def register_with_torch_fidelity(name: str, folder: Path) -> None:
    """Make the judge in ``folder`` known to ``torch_fidelity.calculate_metrics(feature_extractor=name)``.

    Features are called ``pool``, ``spatial`` and ``logits``. torch-fidelity refuses a name that is already
    taken.
    """
    from torch_fidelity import register_feature_extractor
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    side = load_small_cnn(folder).config.resolution

    class Judge(FeatureExtractorBase):
        def __init__(self, name: str, features_list: list[str], **kwargs: object):
            super().__init__(name, features_list)
            self.model = load_small_cnn(folder)

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            pool, middle, logits = self.model.activations(images)
            features = {"pool": pool, "spatial": _flat(middle[:, :SPATIAL_CHANNELS]), "logits": logits}
            return tuple(features[name] for name in self.features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return "pool", "spatial", "logits"

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return {"isc": "logits", "fid": "pool", "kid": "pool", "prc": "pool"}[metric]

        @staticmethod
        def can_be_compiled() -> bool:
            return True

        @staticmethod
        def get_dummy_input_for_compile() -> Tensor:
            return torch.zeros(1, 3, side, side, dtype=torch.uint8)

    register_feature_extractor(name, Judge)


def _flat(spatial: Tensor) -> Tensor:
    """[N, h w c] from [N, c, h, w], in the (row, column, channel) order of ADM's reference statistics."""
    return spatial.permute(0, 2, 3, 1).flatten(1)


def _on_cpu(pool: Tensor, spatial: Tensor, logits: Tensor) -> Features:
    return Features(*(t.to("cpu", torch.float32) for t in (pool, _flat(spatial), logits)))


def _check_bytes(images: Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images: got {images.dtype} {tuple(images.shape)}, expected uint8 [N, 3, H, W]")
