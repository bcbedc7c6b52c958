import numpy as np
import pytest

from configs.image_classification import get_config
from experiments.errors import InputError
from experiments.images import dataset, sources


@pytest.fixture
def config(folder):
    config = get_config("smoke").data
    config.update({"source": "fashion-mnist", "path": str(folder)})
    config.update({"train_images": 10, "validation_images": 8, "test_images": 0})
    return config


def test_the_images_are_normalized_and_keep_their_labels(config):
    loaded = dataset.load(config)
    [images] = loaded.train.inputs
    assert images.shape == (10, 8, 8, 1)
    assert (images.dtype, loaded.train.targets.dtype) == (np.float32, np.int32)
    np.testing.assert_allclose([images.mean(), images.std()], [0, 1], atol=1e-6)
    for part, count in zip(loaded[:3], (10, 8, 12), strict=True):
        pixels = part.inputs[0] * loaded.record["deviation"] + loaded.record["mean"]
        brightness = 25 * part.targets[:, None, None, None]
        np.testing.assert_allclose(pixels, np.broadcast_to(brightness, pixels.shape), atol=1e-3)
        assert part.counted.shape == (count,)
        assert part.counted.all()
    assert loaded.description == (
        "Fashion-MNIST, 8 x 8 pixels, 10 classes: train 10 images, validation 8, test 12. "
        "The baseline takes the class whose mean image is nearest."
    )
    seen = np.isin(loaded.test.targets, loaded.train.targets)
    assert seen.mean() == loaded.baseline  # it knows the classes that it has seen


def test_parts_are_apart_and_fewer_images_are_a_part_of_more(config):
    config.update({"source": "digits", "path": ""})
    images = sources.read("digits")
    few = dataset.divide(images, config)
    config.train_images = 0
    every = dataset.divide(images, config)
    assert len(every["train"].labels) == 1438 - 8
    assert (every["train"].images[:10] == few["train"].images).all()
    for name in ("validation", "test"):
        assert (every[name].images == few[name].images).all()
    both = np.concatenate([every["train"].labels, every["validation"].labels])
    assert np.bincount(both).tolist() == np.bincount(images.train.labels).tolist()
    config.update({"split_seed": 1})
    assert (dataset.divide(images, config)["train"].images != every["train"].images).any()


@pytest.mark.parametrize(
    ("fields", "got"),
    [
        ({"train_images": 23}, "23 and 8"),
        ({"train_images": 0, "validation_images": 30}, "all and 30"),
        ({"validation_images": 0}, "10 and 0"),
    ],
)
def test_too_few_images_get_one_sentence(config, fields, got):
    config.update(fields)
    with pytest.raises(InputError) as caught:
        dataset.load(config)
    assert str(caught.value) == (
        f"Fashion-MNIST has 30 images for training and validation, and each needs some: got {got}"
    )
