"""The paper: alignment (Eqs. 1-2), the autoencoder's loss (Eqs. 3-5), the generators' losses, their paths, networks and samplers.

What ``__all__`` names is for other people's code, and stays (docs/library.md).
"""

from typing import TYPE_CHECKING

from reals import lazy

if TYPE_CHECKING:
    from reals.method import checkpoints, ddpm, equivariance, paths, samplers
    from reals.method.alignment import AlignNetworks, AlignWeights, align_loss, feature_loss
    from reals.method.autoencoder_objective import (
        AutoencoderLoss,
        LossWeights,
        adaptive_weight,
        autoencoder_loss,
        gradient_balance,
    )
    from reals.method.checkpoints import Checkpoint
    from reals.method.guidance import guided, guided_noise
    from reals.method.models.transformer import Transformer, TransformerConfig
    from reals.method.models.transformer import initialise as initialise_transformer
    from reals.method.objectives import Losses, ddpm_loss, drop_labels, flow_loss, projection_loss, repa_loss
    from reals.method.sampling import Sampling, decode, draw
    from reals.method.vf import Margins, vf_loss
else:
    __getattr__, __dir__ = lazy.imports_of(__name__, __file__)

__all__ = [
    "AlignNetworks",
    "AlignWeights",
    "AutoencoderLoss",
    "Checkpoint",
    "LossWeights",
    "Losses",
    "Margins",
    "Sampling",
    "Transformer",
    "TransformerConfig",
    "adaptive_weight",
    "align_loss",
    "autoencoder_loss",
    "checkpoints",
    "ddpm",
    "ddpm_loss",
    "decode",
    "draw",
    "drop_labels",
    "equivariance",
    "feature_loss",
    "flow_loss",
    "gradient_balance",
    "guided",
    "guided_noise",
    "initialise_transformer",
    "paths",
    "projection_loss",
    "repa_loss",
    "samplers",
    "vf_loss",
]
