"""The noise of Gaussian dropout is that of jax.random.normal, wherever it is drawn."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone
from scipy import stats

from flax_spatialdrop import fast_key, gaussian_dropout
from flax_spatialdrop._random.noise import sample_noise

from ..catalogue import noise

KEY = jax.random.key(31)
FALSE_ALARM = 1e-9
KEYS = {
    "threefry2x32": clone(KEY),
    "fast": fast_key(clone(KEY)),
    "rbg": jax.random.key(31, impl="rbg"),
    "unsafe_rbg": jax.random.key(31, impl="unsafe_rbg"),
    "legacy": jax.random.key_data(clone(KEY)),
}
each_key = pytest.mark.parametrize("key", KEYS.values(), ids=list(KEYS))


def again(key):
    return clone(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key


def promise(key, rate, shape):
    return noise(again(key), rate, shape)


def draw(key, rate, shape):
    return sample_noise(again(key), rate, shape)


def fused(key, rate, shape):
    return gaussian_dropout(again(key), jnp.ones(shape), rate)


each_way = pytest.mark.parametrize("way", [draw, fused], ids=["drawn small", "in the apply"])


@each_way
@pytest.mark.parametrize("rate", [1e-9, 0.1, 0.5, 0.9, 1 - 1e-7])
@pytest.mark.parametrize("shape", [(37, 111), (5,), (), (0, 3)], ids=str)
def test_noise_of_any_rate_and_shape(rate, shape, way):
    expected = promise(KEY, rate, shape)
    np.testing.assert_array_equal(way(KEY, rate, shape), expected)


@each_key
def test_the_gradient_redraws_the_same_noise_or_keeps_it(key):
    shape = (9, 7)
    expected = promise(key, 0.3, shape)
    _, pullback = jax.vjp(lambda x: gaussian_dropout(again(key), x, 0.3), jnp.ones(shape))
    np.testing.assert_array_equal(pullback(jnp.ones(shape))[0], expected)
    (kept,) = jax.tree.leaves(pullback)
    is_threefry = key.dtype in (KEY.dtype, KEYS["fast"].dtype, jnp.uint32)
    assert (kept.dtype, kept.shape) == ((jnp.uint32, (2,)) if is_threefry else (np.float32, shape))


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("noise_shape", [(1000, 1000), (1000, 1, 1000)], ids=str)
def test_mean_and_variance_of_a_million_draws(rate, noise_shape):
    """Exact bounds for the mean and (chi-squared) the variance, with false alarms at 1e-9 each."""
    x = jnp.ones((*noise_shape[:1], 2, *noise_shape[2:]) if 1 in noise_shape else noise_shape)
    y = np.asarray(gaussian_dropout(clone(KEY), x, rate, noise_shape=noise_shape), np.float64)
    draws = y[:, 0] if 1 in noise_shape else y
    n, variance = draws.size, rate / (1 - rate)
    assert n == 1_000_000
    assert abs(draws.mean() - 1) < stats.norm.isf(FALSE_ALARM / 2) * math.sqrt(variance / n)
    low, high = stats.chi2.interval(1 - FALSE_ALARM, n - 1)
    assert low < draws.var(ddof=1) * (n - 1) / variance < high
