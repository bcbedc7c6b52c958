import itertools

import numpy as np
import pytest

from experiments.images import sources
from experiments.localization import dataset, scenes


@pytest.fixture(scope="module")
def wardrobes():
    return scenes.wardrobes(sources.read("digits"))


def test_a_scene_depends_on_its_seed_alone(wardrobes):
    one, same, other = (
        scenes.compose(np.random.default_rng(seed), wardrobes["train"], 32) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.pixels, same.pixels)
    np.testing.assert_array_equal(one.keypoints, same.keypoints)
    assert not np.array_equal(one.pixels, other.pixels)
    assert one.pixels.shape == (32, 32)
    assert one.pixels.mean() == pytest.approx(0, abs=1e-5)


def test_the_parts_share_no_garment_and_no_columns_of_photos(wardrobes):
    images = sources.read("digits")
    train, validation, test = wardrobes.values()
    assert len(train.images) + len(validation.images) == len(images.train.labels)
    np.testing.assert_array_equal(test.images, images.test.images)
    kept = {image.tobytes() for image in train.images}
    assert not kept & {image.tobytes() for image in validation.images}
    assert sorted(np.concatenate(train.of_class)) == list(range(len(train.images)))
    spans = sorted(scenes.COLUMNS.values())
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(spans))
    assert min((b - a) * photo.shape[1] for a, b in spans for photo in scenes.photos()) == (
        scenes.WIDEST
    )


@pytest.mark.parametrize("part", scenes.COLUMNS)
def test_backgrounds_are_from_the_columns_of_their_part(part, wardrobes, monkeypatch):
    columns = np.broadcast_to(np.arange(640.0), (427, 640))
    monkeypatch.setattr(scenes, "photos", lambda: (columns, columns))
    for seed in range(20):
        cut = wardrobes[part].background(np.random.default_rng(seed), 40, 30) / scenes.DIMMED
        assert cut.shape == (40, 30)
        low, high = (640 * share for share in scenes.COLUMNS[part])
        assert low <= cut.min() < cut.max() < high


def test_few_scenes_are_the_first_of_more_and_are_repeated(config):
    config.data.update({"train_scenes": 4, "epoch_scenes": 9})
    few = dataset.load(config.data)
    config.data.update({"train_scenes": 6})
    more = dataset.load(config.data)
    assert len(few.train.targets) == 8
    assert len(more.train.targets) == 6
    for part in ("inputs", "targets"):
        a, b = (np.asarray(getattr(data.train, part)).squeeze() for data in (few, more))
        np.testing.assert_array_equal(a[:4], b[:4])
        np.testing.assert_array_equal(a[:4], a[4:])
    np.testing.assert_array_equal(few.test.inputs[0], more.test.inputs[0])
    assert few.record["train_scenes"] == 4


def test_each_seed_has_training_scenes_of_its_own(config):
    config.data.train_scenes = 3
    one, other = (dataset.load(config.data).parts(seed) for seed in (0, 1))
    assert not np.any(one.train.targets == other.train.targets)
    np.testing.assert_array_equal(one.validation.inputs[0], other.validation.inputs[0])
    np.testing.assert_array_equal(one.test.inputs[0], other.test.inputs[0])
