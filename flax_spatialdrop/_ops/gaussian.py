"""Gaussian dropout: values are multiplied by noise of mean 1, and none is dropped."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .._apply import Recipe, by_mask, by_redraw, drop, recipe_from, times
from .._checks import check_array, check_rate, is_static
from .._noise_shape import resolve_noise_shape
from .._random.noise import noise_moments, redraw_noise, sample_noise
from .._typing import Array, Key, NoiseShape, Rate


def gaussian_dropout(
    key: Key,
    x: Array,
    rate: Rate,
    *,
    noise_shape: NoiseShape | None = None,
    broadcast_dims: Sequence[int] = (),
) -> jax.Array:
    """Multiplies values of x by normal noise of mean 1, with the variance of dropout's own noise.

        y = x * n,   n[noise_shape] ~ Normal(1, variance rate / (1 - rate)), spread over x

    Equal to `n = 1 + sqrt(rate / (1 - rate)) * jax.random.normal(key, noise_shape)`, each
    operation rounded to float32, in any dtype of x. Nothing is dropped: NaN and Inf stay. The
    backward pass keeps the key where each element has a draw of its own, else n in noise shape.

    Args:
      key: as in `dropout`, but None is allowed at a rate of exactly 0 only.
      x: any shape, floating or complex.
      rate: sets the noise's variance, as if it were the probability to drop, in [0, 1); a number
        or a scalar array (clipped to [0, 1]; where it is 1 or NaN, all of y is 0).
      noise_shape: the shape of the noise, one entry per axis of x: None (or the axis's own size)
        for a draw per index, 1 for one draw shared along the axis. None: a draw per element.
      broadcast_dims: the axes of x that share a draw, in place of noise_shape; negative axes count
        from the end.

    Returns:
      An array of x's shape, dtype and sharding.

    Raises:
      ValueError: for a noise shape or axes that do not fit x, both given, a number for rate
        outside [0, 1), a missing key.
      TypeError: for integer or bool x, or an argument of another type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import gaussian_dropout
      >>> x = jnp.ones((2, 4, 3))
      >>> y = gaussian_dropout(jax.random.key(0), x, 0.5, noise_shape=(None, 1, None))
      >>> bool((y == y[:, :1]).all())  # all 4 steps of a channel share their noise
      True

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, 2014, section 10, https://jmlr.org/papers/v15/srivastava14a.html
    """
    return drop(key, x, rate, gaussian_recipe(x, noise_shape, broadcast_dims))


def _apply_noise(x: Array, noise: Array, rate: Rate) -> jax.Array:
    return by_mask(_multiplied, noise, x)


def _apply_noise_key(x: Array, key: jax.Array, rate: Rate) -> jax.Array:
    return by_redraw(_multiplied, redraw_noise, key, x, noise_moments(rate), prevent_cse=True)


def _multiplied(noise, x):
    """Returns x * noise, and 0 where the noise is 0, as at a rate of 1, even if x is NaN there."""
    return jnp.where(noise == 0, jnp.zeros((), x.dtype), times(x, noise))


def _check_rate_below_1(rate: Any) -> Rate:
    rate = check_rate(rate)
    if is_static(rate, 1.0):
        raise ValueError(
            "Gaussian dropout needs a rate below 1, since the variance of its noise is "
            f"rate / (1 - rate): got rate={rate}"
        )
    return rate


def _check_noise(noise: Any) -> Array:
    noise = check_array(noise, "mask")
    if noise.dtype != jnp.float32:
        raise TypeError(
            "the mask of Gaussian dropout is the noise that x is multiplied by, and must be a "
            f"float32 array: got dtype {noise.dtype}"
        )
    return noise


gaussian_recipe = recipe_from(  # the mask is the noise
    resolve_noise_shape,
    partial(
        Recipe,
        sample=sample_noise,
        apply=_apply_noise,
        apply_key=_apply_noise_key,
        check_rate=_check_rate_below_1,
        check_mask=_check_noise,
    ),
)
