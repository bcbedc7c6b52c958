"""Tests of equal bits that hold only with XLA's optimizations; test_optimized.py runs them.

All other tests run without most optimizations, so that they compile quickly. Then XLA may round a
product and the sum after it once in one program, and twice in another.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone

from flax_spatialdrop import embedding_noise, gaussian_dropout, sample_mask

from .ops import test_noise
from .ops.test_alpha import apply as apply_alpha
from .ops.test_residual_drop_path import KEYS, W, X, block, composed
from .random.test_noise import KEY, each_key, each_way, promise


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
@pytest.mark.parametrize("rate", [0.25, 0.75])
def test_noise_of_a_traced_rate_is_that_of_the_number(rate, way):
    expected = promise(KEY, rate, (9, 7))
    f = jax.jit(lambda rate: way(KEY, rate, (9, 7)))
    np.testing.assert_array_equal(f(jnp.float32(rate)), expected)
    np.testing.assert_array_equal(jax.vmap(f)(jnp.float32([rate] * 2)), np.stack([expected] * 2))
    with jax.enable_x64(True):
        np.testing.assert_array_equal(f(jnp.float64(rate)), expected)


def test_embedding_noise_is_rounded_before_it_is_added():
    expected = test_noise.X + test_noise.noise(KEY, test_noise.LENGTHS, 5.3)

    def f(alpha, lengths):
        return embedding_noise(clone(KEY), test_noise.X, alpha, lengths=lengths)

    lengths = jnp.asarray(test_noise.LENGTHS)
    programs = jax.jit(f), jax.jit(partial(f, lengths=lengths)), jax.jit(partial(f, 5.3))
    given = (5.3, lengths), (jnp.float32(5.3),), (lengths,)
    for program, arguments in zip(programs, given, strict=True):
        test_noise.assert_same_bits(program(*arguments), expected)
    program = jax.jit(partial(f, lengths=None))
    expected = test_noise.X + test_noise.noise(KEY, np.full(4, 7), 5.3)
    test_noise.assert_same_bits(program(jnp.float32(5.3)), expected)


def test_alpha_of_numbers_and_of_traced_rates_agree():
    x = jax.random.normal(jax.random.key(0), (64,))
    mask = sample_mask(clone(KEY), 0.5, (64,))
    traced = jax.jit(lambda rate: apply_alpha(x, mask, rate))
    for rate in np.arange(0, 33) / 32:
        expected = apply_alpha(x, mask, float(rate))
        np.testing.assert_array_equal(traced(np.float32(rate)), expected)
        of_number = jax.jit(partial(apply_alpha, x, mask, float(rate)))
        np.testing.assert_array_equal(of_number(), expected)
        np.testing.assert_array_equal(apply_alpha(x, mask, jnp.float32(rate)), expected)


def test_float64_is_multiplied_in_float64():
    with jax.enable_x64(True):
        x = jnp.full((50,), 1 + 1e-12)
        y = gaussian_dropout(clone(KEY), x, 0.3)
        np.testing.assert_array_equal(y, np.asarray(x) * promise(KEY, 0.3, (50,)).astype(float))


def test_eager_equals_the_composition_jitted_bit_for_bit():
    f = partial(composed, mode="batch")
    for key in KEYS[:4]:
        y = block(clone(key), X, W, mode="batch")
        np.testing.assert_array_equal(y, jax.jit(f)(clone(key), X, W))
        # Without jit, each part is a program of its own, which may round differently.
        np.testing.assert_array_max_ulp(y, f(clone(key), X, W))
