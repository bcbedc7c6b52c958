"""Gaussian dropout, beyond what the contracts say: its noise, and that of Keras."""

import math
import os
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone
from scipy import stats

from flax_spatialdrop import fast_key, gaussian_dropout, linen, nnx
from flax_spatialdrop._noise import sample_noise
from flax_spatialdrop.linen import GaussianDropout, summarize

from .errors import exactly

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
    """As it is documented, each operation rounded on its own, by NumPy."""
    normal = np.asarray(jax.random.normal(again(key), shape, jnp.float32))
    deviation = np.sqrt(np.float32(rate) / np.float32(1 - rate))
    return np.float32(1) + deviation * normal


def draw(key, rate, shape):
    return sample_noise(again(key), rate, shape)


def fused(key, rate, shape):
    return gaussian_dropout(again(key), jnp.ones(shape), rate)


each_way = pytest.mark.parametrize("way", [draw, fused], ids=["drawn small", "in the apply"])


@each_way
@each_key
def test_noise_is_jax_s_own_bit_for_bit_in_every_mode(key, way):
    expected = promise(key, 0.3, (37, 1, 111))
    assert expected.dtype == np.float32

    def f():
        return way(key, 0.3, (37, 1, 111))

    np.testing.assert_array_equal(f(), expected)
    np.testing.assert_array_equal(jax.jit(f)(), expected)
    np.testing.assert_array_equal(jax.checkpoint(f)(), expected)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(f(), expected)


@each_way
@pytest.mark.parametrize("rate", [1e-9, 0.1, 0.5, 0.9, 1 - 1e-7])
@pytest.mark.parametrize("shape", [(37, 111), (5,), (), (0, 3)], ids=str)
def test_noise_of_any_rate_and_shape(rate, shape, way):
    expected = promise(KEY, rate, shape)
    np.testing.assert_array_equal(way(KEY, rate, shape), expected)


@each_way
@pytest.mark.parametrize("rate", [0.25, 0.75])
def test_noise_of_a_traced_rate_is_that_of_the_number(rate, way):
    expected = promise(KEY, rate, (9, 7))
    f = jax.jit(lambda rate: way(KEY, rate, (9, 7)))
    np.testing.assert_array_equal(f(jnp.float32(rate)), expected)
    np.testing.assert_array_equal(jax.vmap(f)(jnp.float32([rate] * 2)), np.stack([expected] * 2))
    with jax.enable_x64(True):
        np.testing.assert_array_equal(f(jnp.float64(rate)), expected)


@each_key
def test_the_gradient_redraws_the_same_noise_or_keeps_it(key):
    shape = (9, 7)
    expected = promise(key, 0.3, shape)
    _, pullback = jax.vjp(lambda x: gaussian_dropout(again(key), x, 0.3), jnp.ones(shape))
    np.testing.assert_array_equal(pullback(jnp.ones(shape))[0], expected)
    (kept,) = jax.tree.leaves(pullback)
    is_threefry = key.dtype in (KEY.dtype, KEYS["fast"].dtype, jnp.uint32)
    assert (kept.dtype, kept.shape) == ((jnp.uint32, (2,)) if is_threefry else (np.float32, shape))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn"])
@pytest.mark.parametrize("noise_shape", [(40, 50), (40, 1)], ids=str)
def test_narrow_floats_are_multiplied_in_float32_by_the_same_noise(dtype, noise_shape):
    x = jax.random.normal(jax.random.key(0), (40, 50)).astype(dtype)
    y = gaussian_dropout(clone(KEY), x, 0.3, noise_shape=noise_shape)
    assert y.dtype == dtype
    wide = np.asarray(x.astype(jnp.float32)) * promise(KEY, 0.3, noise_shape)
    expected = jnp.asarray(wide).astype(dtype)
    np.testing.assert_array_equal(y.astype(jnp.float32), expected.astype(jnp.float32))


def test_float64_is_multiplied_in_float64():
    with jax.enable_x64(True):
        x = jnp.full((50,), 1 + 1e-12)
        y = gaussian_dropout(clone(KEY), x, 0.3)
        np.testing.assert_array_equal(y, np.asarray(x) * promise(KEY, 0.3, (50,)).astype(float))


def test_complex_is_multiplied_by_parts():
    x = jnp.full((50,), complex(np.inf, 1), jnp.complex64)
    y = gaussian_dropout(clone(KEY), x, 0.01)
    noise = promise(KEY, 0.01, (50,))
    assert (noise > 0).all()
    np.testing.assert_array_equal(y.real, np.full(50, np.inf))
    np.testing.assert_array_equal(y.imag, noise)


def test_nothing_is_dropped_so_that_nan_stays_nan():
    x = jnp.array([np.nan, 1.0, np.inf, 2.0])
    y = gaussian_dropout(clone(KEY), x, 0.01)
    np.testing.assert_array_equal(np.isnan(y), [True, False, False, False])
    np.testing.assert_array_equal(np.isinf(y), [False, False, True, False])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("noise_shape", [(1000, 1000), (1000, 1, 1000)], ids=str)
def test_mean_and_variance_of_a_million_draws(rate, noise_shape):
    """Exact bounds of the mean and, by chi squared, of the variance; false alarm 1e-9 each."""
    x = jnp.ones((*noise_shape[:1], 2, *noise_shape[2:]) if 1 in noise_shape else noise_shape)
    y = np.asarray(gaussian_dropout(clone(KEY), x, rate, noise_shape=noise_shape), np.float64)
    draws = y[:, 0] if 1 in noise_shape else y
    n, variance = draws.size, rate / (1 - rate)
    assert n == 1_000_000
    assert abs(draws.mean() - 1) < stats.norm.isf(FALSE_ALARM / 2) * math.sqrt(variance / n)
    low, high = stats.chi2.interval(1 - FALSE_ALARM, n - 1)
    assert low < draws.var(ddof=1) * (n - 1) / variance < high


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
]


@pytest.mark.parametrize(("mask", "got"), BAD_MASKS, ids=[got for _, got in BAD_MASKS])
def test_masks_that_are_no_noise_are_refused(mask, got):
    message = (
        "the mask of Gaussian dropout is its noise and must be a float32 array, what x is "
        f"multiplied by: got {got}"
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
    """What a program of forward and backward pass needs, in which the compiler sees both."""

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
