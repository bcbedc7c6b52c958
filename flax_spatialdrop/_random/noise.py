"""Noise, normal for Gaussian dropout or uniform: drawn as an array, or where it is used.

The noise is float32, in noise shape.
"""

from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding

from .._checks import check_key, is_static
from .._compat import assert_shape
from .._rates import fence, keep_probability
from .._typing import Key, Rate
from .sharding import drawn
from .threefry import random_bits

Moments: TypeAlias = tuple[np.float32 | jax.Array, np.float32 | jax.Array]
"""Mean and standard deviation of a normal distribution."""

_LOWEST = np.nextafter(np.float32(-1), np.float32(0))
_SQRT2 = np.float32(np.sqrt(2))


def sample_noise(
    key: Key, rate: Rate, noise_shape: tuple[int, ...], sharding: NamedSharding | None = None
) -> jax.Array:
    """Draws noise, float32[noise_shape], from Normal(1, variance rate / (1 - rate)).

    The noise is `1 + sqrt(rate / keep) * jax.random.normal(key, noise_shape)`, where each operation
    is rounded to float32, with and without jit. If rate is the number 0, the noise is 1 everywhere.
    If rate is an array that is 1 or NaN, the noise is 0 everywhere. On meshes of explicit axes, the
    noise has `sharding`.
    """
    if is_static(rate, 0.0):
        return jnp.ones(noise_shape, np.float32, out_sharding=sharding)
    draw = partial(jax.random.normal, check_key(key), noise_shape, np.float32)
    noise = _shifted(drawn(draw, sharding), noise_moments(rate))
    assert_shape(noise, noise_shape)
    return noise


def redraw_noise(words: jax.Array, rounds: int, moments: Moments, like: jax.Array) -> jax.Array:
    """Returns the noise of `sample_noise` in the shape of `like`, in a form that XLA fuses.

    The steps are those of `jax.random.normal`: a uniform number in (-1, 1) is mapped to a normal
    variable by the inverse of erf.
    """
    uniform = _redraw_uniform(words, rounds, _LOWEST, like)
    return _shifted(_SQRT2 * lax.erf_inv(uniform), moments)


def sample_uniform(
    key: Key,
    scale: np.float32 | jax.Array,
    shape: tuple[int, ...],
    sharding: NamedSharding | None,
) -> jax.Array:
    """Draws `scale * jax.random.uniform(key, shape, minval=-1, maxval=1)` in float32."""
    draw = partial(jax.random.uniform, check_key(key), shape, np.float32, -1.0, 1.0)
    return _scaled(scale, drawn(draw, sharding))


def redraw_uniform(
    words: jax.Array, rounds: int, scale: np.float32 | jax.Array, like: jax.Array
) -> jax.Array:
    """Returns the noise of `sample_uniform` in the shape of `like`, in a form that XLA fuses."""
    return _scaled(scale, _redraw_uniform(words, rounds, np.float32(-1), like))


def _redraw_uniform(words: jax.Array, rounds: int, low: np.float32, like: jax.Array) -> jax.Array:
    """Returns `jax.random.uniform(key, like.shape, minval=low, maxval=1)`, for low = -1 or above.

    The upper 23 bits become the fraction of a float in [1, 2), which is mapped to [low, 1).
    """
    fraction = random_bits(words, rounds, like) >> np.uint32(9)
    one_to_two = lax.bitcast_convert_type(fraction | np.float32(1).view(np.uint32), np.float32)
    return lax.max((one_to_two - np.float32(1)) * np.float32(2) + low, low)


def noise_moments(rate: Rate) -> Moments:
    """Returns the moments of noise, (0, 0) for an array of 1 or NaN; the rate has no gradient."""
    keep = keep_probability(rate)
    if isinstance(rate, float):
        return np.float32(1), np.float32(np.sqrt(np.float32(rate) / keep))
    drop = jnp.clip(lax.stop_gradient(jnp.asarray(rate).astype(np.float32)), 0, 1)
    zero, one = np.float32(0), np.float32(1)
    deviation = jnp.sqrt(drop / jnp.where(keep > 0, keep, one))
    return jnp.where(keep > 0, one, zero), jnp.where(keep > 0, deviation, zero)


def _scaled(scale: np.float32 | jax.Array, uniform: jax.Array) -> jax.Array:
    return fence(jnp.multiply(scale, uniform))


def _shifted(normal: jax.Array, moments: Moments) -> jax.Array:
    mean, deviation = moments
    return jnp.add(mean, fence(deviation * fence(normal)))
