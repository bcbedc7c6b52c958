"""The normal draw: the only file that draws noise, once to be kept or each time anew.

Where x's value is multiplied by noise, the noise takes the mask's place: float32, spread over x.
"""

from typing import TypeAlias

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import check_key, is_static
from .._rates import keep_probability
from .._typing import Key, Rate
from .threefry import random_bits

Law: TypeAlias = tuple[np.float32 | jax.Array, np.float32 | jax.Array]
"""Mean and standard deviation of a normal distribution."""

_LOWEST = np.nextafter(np.float32(-1), np.float32(0))
_SQRT2 = np.float32(np.sqrt(2))


def sample_noise(key: Key, rate: Rate, noise_shape: tuple[int, ...]) -> jax.Array:
    """Draws noise, float32[noise_shape], each entry from Normal(1, variance rate / (1 - rate)).

    Bit for bit `1 + sqrt(rate / keep) * jax.random.normal(key, noise_shape)` with each operation
    rounded to float32, under jit or not. All 1 at the number 0; all 0 where an array is 1 or NaN.
    """
    if is_static(rate, 0.0):
        return jnp.ones(noise_shape, np.float32)
    noise = _shifted(jax.random.normal(check_key(key), noise_shape, np.float32), noise_law(rate))
    chex.assert_shape(noise, noise_shape)
    return noise


def redraw_noise(words: jax.Array, rounds: int, law: Law, like: jax.Array) -> jax.Array:
    """`sample_noise` in the shape of `like`, from a key's words, in a form that fuses.

    The steps are those of `jax.random.normal`: 23 bits are the fraction of a number in [1, 2), that
    is laid over (-1, 1), and what the normal distribution has there is looked up.
    """
    fraction = random_bits(words, rounds, like) >> np.uint32(9)
    one_to_two = lax.bitcast_convert_type(fraction | np.float32(1).view(np.uint32), np.float32)
    uniform = (one_to_two - np.float32(1)) * np.float32(2) + _LOWEST
    return _shifted(_SQRT2 * lax.erf_inv(lax.max(uniform, _LOWEST)), law)


def noise_law(rate: Rate) -> Law:
    """The law of noise at a rate below 1; (0, 0) where an array is 1 or NaN; no gradient to it."""
    keep = keep_probability(rate)
    if isinstance(rate, float):
        return np.float32(1), np.float32(np.sqrt(np.float32(rate) / keep))
    drop = jnp.clip(lax.stop_gradient(jnp.asarray(rate).astype(np.float32)), 0, 1)
    zero, one = np.float32(0), np.float32(1)
    deviation = jnp.sqrt(drop / jnp.where(keep > 0, keep, one))
    return jnp.where(keep > 0, one, zero), jnp.where(keep > 0, deviation, zero)


def _shifted(normal, law):
    mean, deviation = law
    return mean + _rounded(deviation * _rounded(normal))


def _rounded(product):
    """A product as it is, float32, which the compiler may not merge with what follows.

    It would make one rounding of two, of a product and a sum as of two products, where it has them
    in one program, so that the noise would depend on what is compiled together.
    """
    return lax.max(product, np.finfo(np.float32).min)
