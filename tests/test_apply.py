import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone

from flax_spatialdrop import apply_mask, dropout, sample_mask

from .errors import exactly

ALL_KEPT, ALL_DROPPED = jnp.ones((3,), bool), jnp.zeros((3,), bool)


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0, np.array(0.0), np.array(0.3), np.array(1.0)])
def test_always_uses_the_mask(rate):
    """The mask is used also at 0 and 1, which need no draw. At 1, kept values are not scaled."""
    x = jnp.arange(3.0)
    value = float(rate)
    factor = np.float32(1) / np.float32(1 - value) if value < 1 else np.float32(1)
    np.testing.assert_array_equal(apply_mask(x, ALL_KEPT, rate), np.arange(3) * factor)
    np.testing.assert_array_equal(apply_mask(x, ALL_DROPPED, rate), np.zeros(3, np.float32))


def test_dropout_is_a_mask_drawn_and_applied():
    x = jax.random.normal(jax.random.key(0), (8, 5, 16))
    key = jax.random.key(1)
    mask = sample_mask(clone(key), 0.2, (8, 1, 16))
    expected = dropout(key, x, 0.2, noise_shape=(None, 1, None))
    np.testing.assert_array_equal(apply_mask(x, mask, 0.2), expected)
    spread = jnp.broadcast_to(mask, x.shape)
    np.testing.assert_array_equal(apply_mask(x, spread, 0.2), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_scaled_in_float32(dtype):
    """In half precision, x / keep rounds keep, and the error is 0.2 % at a rate of 0.1."""
    x = jax.random.normal(jax.random.key(0), (1000,)).astype(dtype)
    y = apply_mask(x, jnp.ones((1000,), bool), 0.1)
    scale = np.float32(1) / np.float32(0.9)
    np.testing.assert_array_equal(y, (x.astype(jnp.float32) * scale).astype(dtype))


def test_float64_is_scaled_in_float64():
    with jax.enable_x64(True):
        x = jnp.float64([1 + 1e-12])
        y = apply_mask(x, jnp.ones((1,), bool), 0.3)
        assert y.dtype == jnp.float64
        assert float(y[0]) == (1 + 1e-12) * float(np.float32(1) / np.float32(0.7))


def test_float8_keeps_its_dtype():
    y = apply_mask(jnp.ones((3,), jnp.float8_e4m3fn), ALL_KEPT, 0.5)
    assert y.dtype == jnp.float8_e4m3fn
    np.testing.assert_array_equal(y.astype(jnp.float32), np.full(3, 2, np.float32))


def test_complex_is_scaled_by_parts():
    z = jnp.array([complex(np.inf, 1), complex(np.nan, 2), 1 + 1j], jnp.complex64)
    y, pullback = jax.vjp(lambda z: apply_mask(z, jnp.array([True, False, True]), 0.5), z)
    np.testing.assert_array_equal(y, np.array([complex(np.inf, 2), 0, 2 + 2j], np.complex64))
    np.testing.assert_array_equal(pullback(y)[0], np.array([complex(np.inf, 4), 0, 4 + 4j]))


def test_result_does_not_overflow_before_the_mask():
    x = jnp.full((3,), 60000, jnp.float16)
    np.testing.assert_array_equal(apply_mask(x, ALL_DROPPED, 0.5), np.zeros(3, np.float16))


BAD = [
    (
        [1.0],
        ALL_KEPT,
        TypeError,
        "x must be a JAX or NumPy array: got [1.0]",
    ),
    (
        np.ones(3, np.int32),
        ALL_KEPT,
        TypeError,
        "x must have a floating or complex dtype, since kept values are scaled by "
        "1 / (1 - rate): got dtype int32",
    ),
    (
        np.ones(3, bool),
        ALL_KEPT,
        TypeError,
        "x must have a floating or complex dtype, since kept values are scaled by "
        "1 / (1 - rate): got dtype bool",
    ),
    (
        np.ones(3),
        np.ones(3),
        TypeError,
        "mask must be a bool array, True where a value is kept: got dtype float64",
    ),
    (
        np.ones(3),
        [True],
        TypeError,
        "mask must be a bool array, True where a value is kept: got [True]",
    ),
    (
        np.ones((2, 3)),
        ALL_KEPT,
        ValueError,
        "mask must have the same number of axes as x, each of x's size or 1: got mask.shape=(3,) "
        "for x.shape=(2, 3)",
    ),
    (
        np.ones((2,)),
        ALL_KEPT,
        ValueError,
        "mask must have the same number of axes as x, each of x's size or 1: got mask.shape=(3,) "
        "for x.shape=(2,)",
    ),
    (
        np.ones((4,)),
        ALL_KEPT,
        ValueError,
        "mask must have the same number of axes as x, each of x's size or 1: got mask.shape=(3,) "
        "for x.shape=(4,)",
    ),
]


@pytest.mark.parametrize(("x", "mask", "error", "message"), BAD)
def test_bad_input(x, mask, error, message):
    with pytest.raises(error, match=exactly(message)):
        apply_mask(x, mask, 0.5)
