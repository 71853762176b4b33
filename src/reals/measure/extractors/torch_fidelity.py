"""A small CNN's features for `torch_fidelity.calculate_metrics`, to check our metrics against its own."""

from pathlib import Path

import torch
from torch import Tensor

from reals.measure.extractor import SPATIAL_CHANNELS, flat
from reals.measure.extractors.small_cnn import load_small_cnn


def register_with_torch_fidelity(name: str, folder: Path) -> None:
    """Make the small CNN in ``folder`` known to ``torch_fidelity.calculate_metrics(feature_extractor=name)``.

    Features are called ``pool``, ``spatial`` and ``logits``. torch-fidelity refuses a name that is already
    taken.
    """
    from torch_fidelity import register_feature_extractor
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    side = load_small_cnn(folder).config.resolution

    class Registered(FeatureExtractorBase):
        def __init__(self, name: str, features_list: list[str], **kwargs: object):
            super().__init__(name, features_list)
            self.model = load_small_cnn(folder)

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            pool, middle, logits = self.model.activations(images)
            features = {"pool": pool, "spatial": flat(middle[:, :SPATIAL_CHANNELS]), "logits": logits}
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

    register_feature_extractor(name, Registered)
