"""Images that a plan counts before there are any."""

from dataclasses import replace

import pytest

from reals.experiment.load import load
from reals.experiment.registry import Registry
from reals.planning.counts import counts


@pytest.mark.parametrize(
    ("given", "held_out"),
    [({"source": "cifar10"}, 10_000), ({"source": "cifar10", "images_per_class": 24}, 240),
     ({"source": "folder", "expected_classes": 100, "expected_images": 90_000}, 5_000),
     ({"source": "folder", "expected_classes": 100, "expected_images": 2_400, "images_per_class": 24}, 2_400),
     ({"source": "procedural", "images_per_class": 24}, 96)],
)  # fmt: skip
def test_held_out_images_are_as_few_as_the_scale_takes(project, given, held_out):
    experiment = load("smoke")
    data = experiment.scale.data.model_copy(update={"held_out": None, "images_per_class": None, **given})
    scale = experiment.scale.model_copy(update={"data": data})
    assert counts(Registry(replace(experiment, scale=scale))).held_out == held_out


def test_expected_images_are_those_left_for_training(project):
    experiment = load("smoke")
    data = experiment.scale.data.model_copy(
        update={"source": "folder", "held_out": 0.1, "images_per_class": None, "expected_images": 9_000, "expected_classes": 10}
    )
    found = counts(Registry(replace(experiment, scale=experiment.scale.model_copy(update={"data": data}))))
    assert (found.train, found.held_out) == (9_000, 1_000)
