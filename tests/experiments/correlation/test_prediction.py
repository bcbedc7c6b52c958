import numpy as np
import pytest

from experiments.correlation import prediction
from experiments.correlation.prediction import Maps


def rng():
    return np.random.default_rng(0)


def center_dropped():
    mask = np.ones((1, 5, 5, 1), bool)
    mask[0, 2, 2] = False
    return mask


@pytest.mark.parametrize("correlation", [0.1, 0.5, 0.9])
def test_all_neighbors_give_back_what_theory_says(correlation):
    """In one direction, both neighbors leave (1 - r^2) / (1 + r^2) of the variance."""
    left = (1 - correlation**2) / (1 + correlation**2)
    given = prediction.share(prediction.law(correlation), center_dropped(), 1, rng())
    assert given == pytest.approx(1 - left**2, abs=1e-4)


def smooth(count, seed):
    """Returns maps of two channels with a correlation of 0.8 between adjacent values."""
    along = 0.8 ** np.abs(np.arange(12) - np.arange(12)[:, None])
    root = np.linalg.cholesky(along)
    noise = np.random.default_rng(seed).normal(size=(count, 12, 12, 2))
    return np.einsum("ij,kl,njlc->nikc", root, root, noise)


def measured(maps):
    return prediction.measure(maps, 20_000, 2, rng())


def test_measured_maps_follow_the_law():
    maps = Maps(smooth(300, 1), smooth(300, 2))
    mask = np.concatenate([center_dropped()] * 2, axis=-1)
    given = prediction.share(measured(maps), mask, 2, rng())
    exact = prediction.share(prediction.law(0.8), center_dropped(), 1, rng())
    assert given == pytest.approx(exact, abs=0.01)
    assert prediction.adjacent_correlation(maps.others) == pytest.approx(0.8, abs=0.01)


def test_another_channel_gives_back_a_whole_channel():
    one = smooth(200, 1)[..., :1]
    maps = Maps(np.concatenate([one, 3 * one + 1], -1), np.concatenate([one, 3 * one + 1], -1))
    moments, mask = measured(maps), np.ones((1, 5, 5, 2), bool)
    mask[..., 1] = False
    assert prediction.share(moments, mask, 1, rng()) == pytest.approx(1, abs=1e-3)
    own = {channel: found.of_own_channel() for channel, found in moments.items()}
    assert prediction.share(own, mask, 1, rng()) == 0


def test_a_predictor_of_noise_gives_nothing_back_on_other_maps():
    noise = np.random.default_rng(3).normal(size=(2, 40, 12, 12, 1))
    moments = prediction.measure(Maps(noise[0], noise[1]), 60, 1, rng())
    assert prediction.share(moments, center_dropped(), 1, rng()) < 0  # it fits chance


def test_the_share_is_over_values_that_are_dropped():
    moments = prediction.law(0.9)
    mask = np.ones((1, 9, 9, 1), bool)
    mask[0, 4, 4] = False
    mask[0, :, 0] = False  # too close to the border to have neighbors on all sides
    whole = prediction.share(moments, mask, 100, rng())
    assert whole == prediction.share(moments, center_dropped(), 1, rng())


def test_sequences_are_maps_of_width_one():
    steps = np.random.default_rng(0).normal(size=(2, 100, 12, 1, 1)).cumsum(axis=2)
    moments = prediction.measure(Maps(steps[0], steps[1]), 2000, 1, rng())
    assert moments[0].fitted.shape == (5, 5)
    mask = np.ones((1, 5, 1, 1), bool)
    mask[0, 2] = False
    given = prediction.share(moments, mask, 1, rng())
    mask[0, [1, 3]] = False
    assert 0.8 < prediction.share(moments, mask, 100, rng()) < given < 1


def test_constant_channels_are_left_out():
    maps = smooth(20, 1)
    maps[..., 1] = 5
    assert list(measured(Maps(maps, maps))) == [0]


def test_only_dropped_values_of_measured_channels_count():
    masks = np.ones((2, 6, 6, 4), bool)
    masks[1, 3, 2, 3] = masks[0, 2, 2, 1] = masks[1, 0, 0, 3] = False
    found = prediction.dropped({2: None, 3: None}, masks)
    assert found.tolist() == [[1, 3, 2, 3]]  # not at the border, and not channel 1


def test_fill_predicts_dropped_values_only():
    maps = Maps(smooth(300, 1), smooth(300, 2))
    moments = measured(maps)
    values, mask = maps.others[0], np.ones((12, 12, 2), bool)
    mask[0, 0, 0] = mask[5, 5, 0] = False
    filled = prediction.fill(values, mask, 0, moments[0])
    assert filled.shape == (12, 12)
    assert (filled == values[..., 0])[mask[..., 0]].all()
    around = values[4:7, 4:7, 0]
    assert filled[5, 5] == pytest.approx(np.delete(around.ravel(), 4).mean(), abs=1)
    assert filled[5, 5] != values[5, 5, 0]
