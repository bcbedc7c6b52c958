"""The Bernoulli draw: the only file that flips coins, once to be kept or each time anew."""

from collections.abc import Sequence
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_key, check_rate, is_static, needs_no_key
from .._noise_shape import check_shape
from .._rates import keep_probability
from .._typing import Key, Rate
from .threefry import Index, Words, is_unrollable, random_bits, rounds_of


def sample_mask(key: Key, rate: Rate, noise_shape: Sequence[int]) -> jax.Array:
    """Draws a mask: True where a value is kept, each entry on its own.

        mask[i] ~ Bernoulli(1 - rate)

    Bit for bit `jax.random.bernoulli(key, keep, noise_shape)` with `keep = float32(1 - rate)` for
    a number and `float32(1) - float32(rate)` for an array. It depends on nothing else: not on the
    dtype of x, not on jit, vmap or x64, and with threefry keys not on the number of devices.

    Args:
      key: one JAX PRNG key, typed or legacy; consumed. None will do at a rate of exactly 0 or 1.
      rate: probability to drop, in [0, 1]; a number or a scalar array, traced or not. An array is
        clipped to [0, 1]; NaN drops everything.
      noise_shape: the shape of the mask, whole numbers only.

    Returns:
      bool[noise_shape], to be used with `apply_mask`.

    Raises:
      ValueError: for a rate outside [0, 1], a negative size, a missing key or a batch of keys.
      TypeError: for a rate, key or noise_shape of another type.

    Example:
      >>> import jax
      >>> from flax_spatialdrop import sample_mask
      >>> sample_mask(jax.random.key(0), 0.5, (2, 1, 3)).shape
      (2, 1, 3)

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """
    rate = check_rate(rate)
    shape = check_shape(noise_shape, "the noise_shape of a mask")
    if needs_no_key(rate):
        return jnp.full(shape, is_static(rate, 0.0))
    mask = jax.random.bernoulli(check_key(key), keep_probability(rate), shape)
    chex.assert_shape(mask, shape)
    return mask


def is_redrawn(key: jax.Array, noise_shape: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a mask is best hashed where it is applied, and again for the gradient: never kept.

    That is so where each element has a draw of its own. One shared by just two would already be
    hashed twice; drawn once, written down and kept, it is the faster on TPUs, though on CPUs
    hashing would still win at two (`python -m experiments.benchmarks --only=line`).
    """
    return noise_shape == shape and is_unrollable(key, shape)


def keep_threshold(keep: np.float32 | jax.Array) -> np.uint32 | jax.Array:
    """What the upper 23 bits of a draw must be below, for `jax.random.bernoulli(key, keep)`.

    It compares a multiple of 2^-23 to the float32 `keep`, and so does the whole number here.
    """
    count = keep * np.float32(2**23)  # exact: a power of two
    if isinstance(count, np.float32):
        return np.uint32(np.ceil(count))
    return jnp.ceil(count).astype(np.uint32)


def redraw_mask(
    words: Words,
    rounds: int,
    threshold: np.uint32 | jax.Array,
    like: jax.Array,
    start: tuple[Index, ...] | None = None,
    shape: tuple[int, ...] | None = None,
) -> jax.Array:
    """`sample_mask` in the shape of `like`, from a key's words, in a form that fuses.

    With `start` and `shape`, the part of the mask of that shape which begins there.
    """
    return random_bits(words, rounds, like, start, shape) >> np.uint32(9) < threshold


def draw_in_one_pass(
    key: Key,
    keep: np.float32 | jax.Array,
    shape: tuple[int, ...],
    sharding: jax.sharding.NamedSharding | None = None,
) -> jax.Array:
    """`jax.random.bernoulli(key, keep, shape)`, where JAX's loop over a large shape costs too much.

    On meshes of explicit axes `sharding` is that of the result.
    """
    key = check_key(key)
    if not is_unrollable(key, shape):
        return jax.random.bernoulli(key, keep, shape)
    return _draw_in_one_pass(key, keep_threshold(keep), shape, sharding)


@partial(jax.jit, static_argnums=(2, 3))
def _draw_in_one_pass(key, threshold, shape, sharding):
    words = jax.random.key_data(key)
    jax.random.bits(key, (0,))  # draws nothing, but marks the key as used
    like = jnp.zeros(shape, bool, out_sharding=sharding)
    return redraw_mask(words, rounds_of(key), threshold, like)
