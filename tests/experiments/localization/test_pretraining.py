import numpy as np

from experiments.images import sources
from experiments.localization import pretraining
from experiments.localization.scenes import wardrobes


def test_garments_are_of_all_classes_in_turn_on_photos_of_the_train_part():
    wardrobe = wardrobes(sources.read("digits"))["train"]
    data = pretraining.garments(wardrobe, 23)
    assert data.targets.tolist() == [*range(10), *range(10), 0, 1, 2]
    assert data.inputs[0].shape == (23, pretraining.SIDE, pretraining.SIDE)
    empty = wardrobe._replace(images=np.zeros_like(wardrobe.images))
    without = pretraining.garments(empty, 23)
    assert np.all(np.abs(data.inputs[0] - without.inputs[0]).max((1, 2)) > 0.1)


def test_the_trunk_is_trained_once_and_always_in_the_same_way():
    options = ("digits", "", 128, 1, 2)
    one = pretraining.trunk(*options)
    assert pretraining.trunk(*options) is one
    pretraining.trunk.cache_clear()
    other = pretraining.trunk(*options)
    for name in one:
        np.testing.assert_array_equal(one[name]["kernel"], other[name]["kernel"])
        assert np.any(one[name]["bias"] != 0)  # biases begin at 0
