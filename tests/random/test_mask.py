import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.random import clone

from flax_spatialdrop import sample_mask

from ..errors import exactly

IMPLEMENTATIONS = ["threefry2x32", "rbg", "unsafe_rbg"]


def promise(key, keep, shape):
    return np.asarray(jax.random.bernoulli(clone(key), keep, shape))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9, 1e-9, 1 - 1e-7])
def test_is_bernoulli_bit_for_bit(impl, rate):
    shape = (37, 1, 111)
    key = jax.random.key(3, impl=impl)
    expected = promise(key, np.float32(1 - rate), shape)
    from_array = promise(key, np.float32(1) - np.float32(rate), shape)

    def draw(rate):
        return sample_mask(clone(key), rate, shape)

    np.testing.assert_array_equal(draw(rate), expected)
    np.testing.assert_array_equal(jax.jit(lambda: draw(rate))(), expected)
    np.testing.assert_array_equal(jax.checkpoint(lambda: draw(rate))(), expected)
    np.testing.assert_array_equal(draw(jnp.float32(rate)), from_array)
    np.testing.assert_array_equal(jax.jit(draw)(jnp.float32(rate)), from_array)
    _, scanned = jax.lax.scan(lambda c, _: (c, draw(rate)), 0, length=2)
    np.testing.assert_array_equal(scanned, np.stack([expected] * 2))
    with jax.enable_x64(True):
        np.testing.assert_array_equal(draw(rate), expected)
        np.testing.assert_array_equal(draw(jnp.float64(rate)), from_array)


def test_vmap_over_keys_and_rates():
    keys = jax.random.split(jax.random.key(3), 4)
    rates = jnp.array([0.0, 0.3, 0.6, 1.0])
    masks = jax.vmap(lambda k, r: sample_mask(k, r, (5, 7)))(clone(keys), rates)
    looped = [sample_mask(k, r, (5, 7)) for k, r in zip(keys, rates, strict=True)]
    np.testing.assert_array_equal(masks, jnp.stack(looped))


@settings(max_examples=20)
@given(st.floats(0, 1), st.lists(st.integers(0, 5), max_size=4), st.integers(0, 2**32 - 1))
def test_any_rate_shape_and_seed(rate, shape, seed):
    mask = sample_mask(jax.random.key(seed), rate, tuple(shape))
    assert mask.dtype == jnp.bool_
    expected = promise(jax.random.key(seed), np.float32(1 - rate), tuple(shape))
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_legacy_keys(impl):
    key = jax.random.key(5, impl=impl)
    with jax.default_prng_impl(impl):
        legacy = sample_mask(jax.random.PRNGKey(5), 0.3, (50,))
    np.testing.assert_array_equal(legacy, sample_mask(key, 0.3, (50,)))


def test_exports_with_symbolic_shapes():
    (batch,) = jax.export.symbolic_shape("b")
    x = jax.ShapeDtypeStruct((batch, 4), jnp.float32)
    words = jax.random.key_data(jax.random.key(0))
    exported = jax.export.export(jax.jit(lambda k, x: sample_mask(k, 0.5, x.shape)))(words, x)
    expected = sample_mask(jax.random.key(0), 0.5, (3, 4))
    np.testing.assert_array_equal(exported.call(words, jnp.ones((3, 4))), expected)


BAD_KEYS = [
    (
        None,
        ValueError,
        "key must be a JAX PRNG key where anything is drawn: got key=None; pass one, such as "
        "jax.random.key(0)",
    ),
    (0, TypeError, "key must be a JAX PRNG key, such as jax.random.key(0): got 0"),
    (
        np.ones((2, 3), np.float32),
        TypeError,
        "key must be a JAX PRNG key, such as jax.random.key(0): got an array of shape (2, 3) and "
        "dtype float32; the key comes first",
    ),
    (
        np.zeros(3, np.uint32),
        TypeError,
        "key must be a JAX PRNG key, such as jax.random.key(0): got an array of shape (3,) and "
        "dtype uint32",
    ),
    (
        jax.random.split(jax.random.key(0), 3),
        ValueError,
        "key must be one PRNG key: got keys of shape (3,); use jax.vmap to draw with each of them",
    ),
    (
        np.zeros((3, 2), np.uint32),
        ValueError,
        "key must be one PRNG key: got keys of shape (3,); use jax.vmap to draw with each of them",
    ),
]


@pytest.mark.parametrize(("key", "error", "message"), BAD_KEYS)
@pytest.mark.parametrize("rate", [0.5, np.array(0.0)])
def test_bad_keys(key, rate, error, message):
    with pytest.raises(error, match=exactly(message)):
        sample_mask(key, rate, (2,))
