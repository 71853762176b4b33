"""A residual classifier of small images, trained here, as a feature extractor."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reals.experiment.metric_table import ADM_EXTRACTOR
from reals.files import refuse_unreadable, write_atomically, write_text
from reals.measure.extractor import SPATIAL_CHANNELS, Extractor, Features, check_bytes, on_cpu


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
        check_bytes(images)
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

    write_text(folder / "config.json", json.dumps(asdict(model.config), indent=2) + "\n")
    state = {name: t.contiguous() for name, t in model.state_dict().items()}
    write_atomically(folder / "model.safetensors", lambda partial: save_file(state, partial))


def load_small_cnn(folder: Path) -> SmallCNN:
    """The network saved in ``folder``, frozen and in eval mode. ValueError if a file is missing, damaged or of another network."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name}: not found; train the feature extractor first")
        refuse_unreadable(folder / name)
    try:
        model = SmallCNN(SmallCNNConfig(**json.loads((folder / "config.json").read_bytes())))
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder}: holds no whole small CNN ({' '.join(str(error).split())[:200]}); train it again") from None
    return model.requires_grad_(False).eval()


def small_cnn_extractor(model: SmallCNN, name: str) -> Extractor:
    """The classifier as an Extractor, put in eval mode; ValueError if ``name`` is that of ADM's network.

    By default pool is [N, 64], spatial [N, 448]: 7 channels of the 8 x 8 map, as sFID takes them. Logits
    include the bias.
    """
    if name == ADM_EXTRACTOR:
        raise ValueError(f"feature extractor: {name!r} is the name of ADM's extractor, choose another")
    model.eval()

    @torch.no_grad()
    def features(images: Tensor) -> Features:
        pool, middle, logits = model.activations(images)
        return on_cpu(pool, middle[:, :SPATIAL_CHANNELS], logits)

    return Extractor(name, model, features)
