"""Alpha dropout, in addition to the contracts: constants, comparisons to PyTorch and Keras."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone
from scipy import stats

from flax_spatialdrop import alpha_dropout, feature_alpha_dropout, linen, nnx, sample_mask
from flax_spatialdrop._ops.alpha import alpha_recipe

KEY = jax.random.key(21)
LIMIT = -1.7580993408473766
FALSE_ALARM = 1e-9


def apply(x, mask, rate):
    return alpha_recipe(x, mask.shape, ()).apply(x, mask, rate)


def scale_of(rate):
    return ((1 - rate) * (1 + rate * LIMIT**2)) ** -0.5


def test_is_the_mask_of_dropout_applied():
    x = jax.random.normal(jax.random.key(0), (8, 5, 16))
    for noise_shape in ((8, 5, 16), (8, 1, 16)):
        mask = sample_mask(clone(KEY), 0.3, noise_shape)
        y = alpha_dropout(clone(KEY), x, 0.3, noise_shape=noise_shape)
        np.testing.assert_array_equal(y, apply(x, mask, 0.3))
        np.testing.assert_array_equal(np.unique(y[y == y.min()]).size, 1)
        dropped = np.broadcast_to(~np.asarray(mask), x.shape)
        np.testing.assert_allclose(y[dropped], scale_of(0.3) * LIMIT * 0.7, rtol=3e-7)


def test_feature_alpha_dropout_shares_a_channel_s_draw():
    x = jax.random.normal(jax.random.key(0), (3, 5, 4, 6))
    for options, noise_shape in (
        ({}, (None, 1, 1, None)),
        ({"data_format": "channels_first"}, (None, None, 1, 1)),
        ({"batch_dims": 0}, (1, 1, 1, None)),
    ):
        y = feature_alpha_dropout(clone(KEY), x, 0.5, **options)
        expected = alpha_dropout(clone(KEY), x, 0.5, noise_shape=noise_shape)
        np.testing.assert_array_equal(y, expected)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
def test_keeps_mean_and_variance_of_selu_activations(rate):
    """1e6 draws, with bounds of the central limit theorem and false alarms at 1e-9 per bound.

    A SELU of normal values has mean 0 and variance 1.
    """
    n = 1_000_000
    x = jax.nn.selu(jax.random.normal(jax.random.key(1), (n,)))
    y = np.asarray(alpha_dropout(clone(KEY), x, rate), np.float64)
    deviations = stats.norm.isf(FALSE_ALARM / 2)
    assert abs(y.mean()) < deviations * y.std() / np.sqrt(n)
    squares = y**2
    assert abs(squares.mean() - 1) < deviations * squares.std() / np.sqrt(n)
    assert deviations * squares.std() / np.sqrt(n) < 0.03  # the bound is tight enough


RATES = [1e-9, 1e-4, 0.1, 0.5, 0.9, 1 - 1e-4, 1 - 1e-7, 1 - 1e-12]


@pytest.mark.parametrize("rate", RATES)
def test_constants_to_the_last_bits(rate):
    """Near a rate of 1, computing alpha' a + b as a sum of large numbers would cancel."""
    y = apply(jnp.array([0.0, 1.0, np.nan]), jnp.array([True, True, False]), rate)
    keep = float(np.float32(1 - rate))
    a, drop = scale_of(1 - keep), 1 - keep
    np.testing.assert_allclose(y[2], a * LIMIT * keep, rtol=5e-7)
    np.testing.assert_allclose(y[:2], [-a * drop * LIMIT, a - a * drop * LIMIT], rtol=5e-7)


@pytest.mark.parametrize("rate", [1.0, jnp.float32(1), jnp.float32(2), jnp.float32(np.nan)])
def test_all_is_0_where_the_rate_is_1(rate):
    x = jnp.array([1.0, -2.0, np.nan, np.inf])
    y, pullback = jax.vjp(lambda x: alpha_dropout(clone(KEY), x, rate), x)
    np.testing.assert_array_equal(y, np.zeros(4))
    assert not np.signbit(y).any()
    np.testing.assert_array_equal(pullback(x)[0], np.zeros(4))
    kept = apply(x, jnp.ones((4,), bool), rate)  # a mask of the user may keep values at a rate of 1
    np.testing.assert_array_equal(kept, x)


@pytest.mark.parametrize("rate", [jnp.float32(0), jnp.float32(-1)])
def test_a_traced_rate_of_0_returns_the_values_of_x(rate):
    x = jax.random.normal(jax.random.key(0), (1000,))
    np.testing.assert_array_equal(alpha_dropout(clone(KEY), x, rate), x)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn"])
def test_narrow_floats_are_mapped_in_float32(dtype):
    x = jax.random.normal(jax.random.key(0), (1000,)).astype(dtype)
    y = alpha_dropout(clone(KEY), x, 0.1)
    assert y.dtype == dtype
    expected = alpha_dropout(clone(KEY), x.astype(jnp.float32), 0.1).astype(dtype)
    np.testing.assert_array_equal(y.astype(jnp.float32), expected.astype(jnp.float32))


def test_float64_is_mapped_in_float64():
    with jax.enable_x64(True):
        y = apply(jnp.float64([1e-12, 0]), jnp.ones((2,), bool), 0.5)
        assert y.dtype == jnp.float64
        np.testing.assert_allclose(y[0] - y[1], 1e-12 * scale_of(0.5), rtol=1e-3)


def test_complex_is_mapped_along_the_real_line_by_parts():
    x = jnp.array([complex(np.inf, 1), complex(np.nan, np.nan), 1 + 2j], jnp.complex64)
    mask = jnp.array([True, False, True])
    y, pullback = jax.vjp(lambda x: apply(x, mask, 0.5), x)
    real = apply(x.real, mask, 0.5)
    a = np.float32(scale_of(0.5))
    np.testing.assert_allclose(y.real, real, rtol=1e-6)
    np.testing.assert_allclose(y.imag, [a, 0, 2 * a], rtol=1e-6)
    (dx,) = pullback(jnp.array([1, complex(np.nan, np.inf), 1j], jnp.complex64))
    np.testing.assert_allclose(dx, [a, 0, a * 1j], rtol=1e-6)


def test_pytorch_s_two_values_for_its_masks():
    functional = pytest.importorskip("torch").nn.functional
    torch = pytest.importorskip("torch")
    x = np.asarray(jax.random.normal(jax.random.key(0), (8, 16, 6)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for rate in (0.1, 0.5):
            for theirs, layer, noise_shape in (
                (functional.alpha_dropout, linen.AlphaDropout(rate), x.shape),
                (
                    functional.feature_alpha_dropout,
                    linen.FeatureAlphaDropout(rate, data_format="channels_first"),
                    (8, 16, 1),
                ),
            ):
                expected = theirs(torch.tensor(x), rate, True).numpy()
                mask = ~np.isclose(expected, scale_of(rate) * LIMIT * (1 - rate), rtol=1e-5)
                mask = mask.all(tuple(np.flatnonzero(np.array(noise_shape) == 1)), keepdims=True)
                assert mask.shape == noise_shape
                assert 0.5 * rate < 1 - mask.mean() < 2 * rate
                y = layer.apply({}, x, False, mask=mask)
                np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(
            functional.alpha_dropout(torch.tensor(x), 1.0, True).numpy(),
            alpha_dropout(None, x, 1.0),
        )


def test_keras_s_values_for_its_masks():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    x = np.asarray(jax.random.normal(jax.random.key(0), (8, 5, 6)))
    for noise_shape in (None, (None, 1, None)):
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            theirs = keras.layers.AlphaDropout(0.3, noise_shape, seed=0)
            expected = np.asarray(theirs(x, training=True))
        mask = ~np.isclose(expected, scale_of(0.3) * LIMIT * 0.7, rtol=1e-5)
        assert 0.1 < 1 - mask.mean() < 0.6
        y = nnx.AlphaDropout(0.3, noise_shape=noise_shape)(x, mask=mask)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
