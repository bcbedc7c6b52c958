import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.localization import heat_maps

bumps = jax.jit(heat_maps.bumps, static_argnums=(1, 2))
peaks = jax.jit(heat_maps.peaks)

PLACES = np.random.default_rng(0).uniform(4, 43, (5, 7, 2)).astype(np.float32)


def test_a_bump_is_1_at_its_keypoint_and_falls_with_the_distance():
    map_ = bumps(jnp.array([[9.5, 21.5]]), 12, 12)[..., 0]  # the middle of place (2, 5)
    assert map_[2, 5] == pytest.approx(1)
    assert map_[3, 5] == map_[2, 4] == pytest.approx(np.exp(-0.5))
    assert map_[3, 6] == pytest.approx(np.exp(-1))


def test_peaks_find_keypoints_between_the_places_of_a_map():
    found = peaks(bumps(PLACES, 12, 12))
    assert found.shape == PLACES.shape
    np.testing.assert_allclose(found, PLACES, atol=0.02)


def test_a_flat_map_and_a_peak_in_a_corner_give_a_place_of_the_map():
    for place in ((0, 0), (11, 11)):
        corner = jnp.full((12, 12, 1), -1.0).at[place].set(1.0)
        np.testing.assert_allclose(peaks(corner)[0], 4 * np.array(place) + 1.5, atol=2)
    assert np.all(np.isfinite(peaks(jnp.zeros((12, 12, 1)))))
