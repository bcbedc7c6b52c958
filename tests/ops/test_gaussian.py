"""Gaussian dropout, in addition to the contracts: its noise, and a comparison to Keras."""

import os
from functools import partial

import flax.linen as nn
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone

from flax_spatialdrop import gaussian_dropout, linen, nnx
from flax_spatialdrop._random.noise import sample_noise
from flax_spatialdrop.linen import GaussianDropout, summarize

from ..catalogue import noise
from ..errors import exactly

KEY = jax.random.key(31)


def promise(key, rate, shape):
    return noise(clone(key), rate, shape)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn"])
@pytest.mark.parametrize("noise_shape", [(40, 50), (40, 1)], ids=str)
def test_narrow_floats_are_multiplied_in_float32_by_the_same_noise(dtype, noise_shape):
    x = jax.random.normal(jax.random.key(0), (40, 50)).astype(dtype)
    y = gaussian_dropout(clone(KEY), x, 0.3, noise_shape=noise_shape)
    assert y.dtype == dtype
    wide = np.asarray(x.astype(jnp.float32)) * promise(KEY, 0.3, noise_shape)
    expected = jnp.asarray(wide).astype(dtype)
    np.testing.assert_array_equal(y.astype(jnp.float32), expected.astype(jnp.float32))


def test_complex_is_multiplied_by_parts():
    x = jnp.full((50,), complex(np.inf, 1), jnp.complex64)
    y = gaussian_dropout(clone(KEY), x, 0.01)
    factors = promise(KEY, 0.01, (50,))
    assert (factors > 0).all()
    np.testing.assert_array_equal(y.real, np.full(50, np.inf))
    np.testing.assert_array_equal(y.imag, factors)


def test_nothing_is_dropped_so_that_nan_stays_nan():
    x = jnp.array([np.nan, 1.0, np.inf, 2.0])
    y = gaussian_dropout(clone(KEY), x, 0.01)
    np.testing.assert_array_equal(np.isnan(y), [True, False, False, False])
    np.testing.assert_array_equal(np.isinf(y), [False, False, True, False])


def test_spatial_gaussian_shares_the_noise_of_a_channel():
    x = jax.random.normal(jax.random.key(0), (8, 5, 16))
    y = gaussian_dropout(clone(KEY), x, 0.3, noise_shape=(None, 1, None))
    noise = promise(KEY, 0.3, (8, 1, 16))
    np.testing.assert_array_equal(y, np.asarray(x) * noise)
    assert np.unique(noise).size == noise.size
    again = gaussian_dropout(clone(KEY), x, 0.3, broadcast_dims=(-2,))
    np.testing.assert_array_equal(y, again)


@pytest.mark.parametrize("rate", [jnp.float32(1), jnp.float32(1.5), jnp.float32(np.nan)])
@pytest.mark.parametrize("noise_shape", [(4,), (1,)], ids=str)
def test_all_is_0_where_a_traced_rate_is_1(rate, noise_shape):
    x = jnp.array([1.0, -2.0, np.nan, np.inf])

    @jax.jit
    def run(x, rate):
        f = lambda x: gaussian_dropout(clone(KEY), x, rate, noise_shape=noise_shape)  # noqa: E731
        y, pullback = jax.vjp(f, x)
        return y, pullback(x)[0]

    for found in run(x, rate):
        np.testing.assert_array_equal(found, np.zeros(4))


@pytest.mark.parametrize("rate", [jnp.float32(0), jnp.float32(-1)])
def test_a_traced_rate_of_0_returns_the_values_of_x(rate):
    x = jax.random.normal(jax.random.key(0), (1000,))
    np.testing.assert_array_equal(gaussian_dropout(clone(KEY), x, rate), x)


AT_1 = (
    "Gaussian dropout needs a rate below 1, since the variance of its noise is "
    "rate / (1 - rate): got rate=1.0"
)


def test_the_number_1_is_refused_even_where_nothing_would_be_drawn():
    x = jnp.ones(3)
    for call in (
        lambda: gaussian_dropout(clone(KEY), x, 1),
        lambda: linen.GaussianDropout(1.0).apply({}, x, True),
        lambda: linen.GaussianDropout(0.1).apply({}, x, False, rate=1.0, mask=x),
        lambda: linen.GaussianDropout(1.0).apply({}, x, True, method="sample_mask"),
        lambda: nnx.GaussianDropout(1.0, deterministic=True)(x),
        lambda: nnx.GaussianDropout(1.0).sample_mask(x),
    ):
        with pytest.raises(ValueError, match=exactly(AT_1)):
            call()


BAD_MASKS = [
    (np.ones(3, bool), "dtype bool"),
    (np.ones(3), "dtype float64"),
    (jnp.ones(3, jnp.bfloat16), "dtype bfloat16"),
    ([1.0, 1.0, 1.0], "[1.0, 1.0, 1.0]"),
    (flax.nnx.Rngs(0), "a value of type Rngs"),
    (np.ma.ones(3, np.float32), "a masked array of shape (3,) and dtype float32"),
]


@pytest.mark.parametrize(("mask", "got"), BAD_MASKS, ids=[got for _, got in BAD_MASKS])
def test_masks_that_are_no_noise_are_refused(mask, got):
    message = f"mask must be a JAX or NumPy array: got {got}"
    if got.startswith("dtype"):
        message = (
            "the mask of Gaussian dropout is the noise that x is multiplied by, and must be a "
            f"float32 array: got {got}"
        )
    for deterministic in (True, False):
        with pytest.raises(TypeError, match=exactly(message)):
            linen.GaussianDropout(0.3).apply({}, jnp.ones(3), deterministic, mask=mask)
        with pytest.raises(TypeError, match=exactly(message)):
            nnx.GaussianDropout(0.3, deterministic=deterministic)(jnp.ones(3), mask=mask)


@pytest.mark.parametrize("rate", [0.3, jnp.float32(0.25)])
def test_modules_give_and_take_the_noise(rate):
    x = jax.random.normal(jax.random.key(0), (4, 5, 6))
    ours = linen.GaussianDropout(rate, noise_shape=(None, 1, None), deterministic=False)
    rngs = {"dropout": clone(KEY)}
    noise = ours.apply({}, x, rngs=rngs, method="sample_mask")
    assert (noise.dtype, noise.shape) == (jnp.float32, (4, 1, 6))
    np.testing.assert_array_equal(ours.apply({}, x, mask=noise), ours.apply({}, x, rngs=rngs))
    twin = nnx.GaussianDropout(rate, broadcast_dims=(1,))
    noise = twin.sample_mask(x, rngs=clone(KEY))
    np.testing.assert_array_equal(noise, sample_noise(clone(KEY), rate, (4, 1, 6)))
    np.testing.assert_array_equal(twin(x, mask=noise), twin(x, rngs=clone(KEY)))
    spread = jnp.broadcast_to(noise, x.shape)
    np.testing.assert_array_equal(twin(x, mask=spread), twin(x, mask=noise))
    off = twin.sample_mask(x, deterministic=True)
    assert off.dtype == jnp.float32
    np.testing.assert_array_equal(off, np.ones((4, 1, 6)))


def test_noise_learned_by_the_user_has_a_gradient():
    x, noise = jnp.arange(6.0).reshape(2, 3), jnp.full((2, 1), 0.5)
    layer = nnx.GaussianDropout(0.3, noise_shape=(None, 1))
    slope = jax.grad(lambda noise: layer(x, mask=noise).sum())(noise)
    np.testing.assert_array_equal(slope, [[3], [12]])


class TwoNoises(nn.Module):
    @nn.compact
    def __call__(self, x, one, other):
        x = GaussianDropout(0.3, deterministic=False, name="a")(x, mask=one)
        return GaussianDropout(0.3, deterministic=False, name="b")(x.T, mask=other)


def test_a_summary_tells_noises_apart_by_values_and_shape():
    x, one = jnp.ones((2, 3)), jnp.full((2, 3), 0.5)
    assert summarize(TwoNoises(), x, one, one.T, rngs={}).remarks == ()
    again = summarize(TwoNoises(), x[:2, :2], one[:2, :2], one[:2, :2], rngs={}).remarks
    assert again == ("b shares its mask with a",)


def temporary_bytes(drop):
    """Returns the temporary memory of one program with the forward and the backward pass."""

    def both_passes(key, x, weights):
        return jax.value_and_grad(lambda x: (nn.relu(drop(key, x) @ weights) @ weights).sum())(x)

    key = jax.eval_shape(lambda: jax.random.key(0))
    x = jax.ShapeDtypeStruct((64, 256, 512), jnp.float32)
    weights = jax.ShapeDtypeStruct((512, 512), jnp.float32)
    return (
        jax.jit(both_passes).lower(key, x, weights).compile().memory_analysis().temp_size_in_bytes
    )


def test_no_noise_of_x_s_size_is_written_down_or_kept_for_the_backward_pass():
    without = temporary_bytes(lambda key, x: jnp.sin(x))
    for noise_shape in (None, (None, None, 1)):
        drop = partial(gaussian_dropout, rate=0.5, noise_shape=noise_shape)
        assert temporary_bytes(drop) < 1.01 * without
    assert temporary_bytes(lambda key, x: x * jax.random.normal(key, x.shape)) > 1.2 * without


def test_keras_s_values_for_its_key():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    x = np.asarray(jax.random.normal(jax.random.key(0), (8, 5, 6)))
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        theirs = keras.layers.GaussianDropout(0.3, seed=0)
        key = jnp.asarray(theirs.seed_generator.state.value).astype(jnp.uint32)
        expected = theirs(x, training=True)
    np.testing.assert_allclose(gaussian_dropout(key, x, 0.3), expected, rtol=1e-5, atol=1e-6)
