"""A command line's images and seed take the place of the scale's, and can be said again."""

import pytest

from reals.experiment.load import load
from reals.experiment.overrides import settings, with_images, with_seed
from reals.experiment.reading import ConfigError


def test_own_data_by_path_gets_its_own_name(project):
    scale = load("cifar10", data="/photos/birds").scale
    assert (scale.data.name, scale.data.source, scale.data.path) == ("birds", "folder", "/photos/birds")


def test_a_list_of_classes_stays_for_a_folder_that_may_have_them(project):
    own, named = load("imagenet100", data="/data/imagenet").scale.data, load("imagenet100").scale.data
    assert own.class_list == named.class_list and (own.unlisted, named.unlisted) == ("all", "refuse")
    assert load("cifar10", data="/data/imagenet").scale.data.class_list is None


def test_what_a_scale_says_of_its_own_images_does_not_hold_of_others():
    values = {
        "name": "tiny", "paper": True, "data": {"source": "cifar10", "expected_classes": 10, "held_out": None, "flip": False},
        "evaluation": {"reference": "adm.npz"}, "downstream": {"target": "ink"},
    }  # fmt: skip
    changed = with_images(values, "/my photos/birds!")
    assert (changed["name"], changed["paper"], changed["data"]["name"]) == ("tiny_birds", False, "birds")
    assert changed["data"]["held_out"] == 0.1 and changed["data"]["expected_classes"] is None and changed["data"]["flip"] is False
    assert changed["evaluation"]["reference"] is None and changed["downstream"]["target"] == "foreground"
    assert values["downstream"]["target"] == "ink"  # the file's values stay


def test_a_folder_whose_name_leaves_no_room_for_ids_is_refused(project):
    with pytest.raises(ConfigError, match="named after the folder, and 200 characters are too many"):
        load("cifar10", data="/photos/" + "x" * 200)


def test_a_seed_replaces_all_but_the_splits():
    assert with_seed({"seeds": {"data": 5, "sampling": 4}}, 3)["seeds"] == {
        "data": 5, "autoencoder": 3, "transformer": 3, "sampling": 3, "analysis": 3,
    }  # fmt: skip


def test_choices_are_said_again_as_given():
    assert settings("demo", None, None, rehearsal=False) == ("scale=demo",)
    assert settings("demo", "/x", 1, rehearsal=True) == ("scale=demo", "rehearsal=true", "data=/x", "seed=1")
