"""Gaussian dropout: multiplies values by normal noise of mean 1; no value is dropped."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .._apply import Recipe, by_mask, by_redraw, check_given_mask, drop, recipe_from, times
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
    """Multiplies x by normal noise of mean 1, with the same variance as the noise of dropout.

        y = x * n,   n[noise_shape] ~ Normal(1, variance rate / (1 - rate)), broadcast to x.shape

    The noise is `n = 1 + sqrt(rate / (1 - rate)) * jax.random.normal(key, noise_shape)`, where each
    operation is rounded to float32, for any dtype of x. No value is dropped, so NaN and Inf remain.
    The backward pass keeps n in noise shape, or only the key if each element has its own draw.

    Args:
      key: as in `dropout`, but it may be None only if rate is the number 0.
      x: any shape, floating or complex.
      rate: the rate of dropout with the same variance, in [0, 1): a number or a scalar array. An
        array is clipped to [0, 1]; if it is 1 or NaN, y is 0.
      noise_shape, broadcast_dims: as in `dropout`.

    Returns:
      An array with the shape, dtype and sharding of x.

    Raises:
      ValueError: if rate is the number 1; else as in `dropout`.
      TypeError: as in `dropout`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import gaussian_dropout
      >>> x = jnp.ones((2, 4, 3))
      >>> y = gaussian_dropout(jax.random.key(0), x, 0.5, noise_shape=(None, 1, None))
      >>> bool((y == y[:, :1]).all())  # all 4 steps of a channel share a draw
      True

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, 2014, section 10, https://jmlr.org/papers/v15/srivastava14a.html
    """
    return drop(key, x, rate, gaussian_recipe(x, noise_shape, broadcast_dims))


def _apply_noise(x: Array, noise: Array, rate: Rate) -> jax.Array:
    return by_mask(_multiplied, noise, x)


def _apply_noise_key(x: Array, key: jax.Array, rate: Rate) -> jax.Array:
    return by_redraw(_multiplied, redraw_noise, key, x, noise_moments(rate), prevent_cse=True)


def _multiplied(noise: Array, x: jax.Array) -> jax.Array:
    """Returns x * noise. Where the noise is 0, as at a rate of 1, it is 0 even if x is NaN."""
    return jnp.where(noise == 0, jnp.zeros((), x.dtype), times(x, noise))


def _check_rate_below_1(rate: Any) -> Rate:
    checked = check_rate(rate)
    if is_static(checked, 1.0):
        raise ValueError(
            "Gaussian dropout needs a rate below 1, since the variance of its noise is "
            f"rate / (1 - rate): got rate={checked}"
        )
    return checked


def _check_noise(noise: Any) -> Array:
    checked = check_array(noise, "mask")
    if checked.dtype != jnp.float32:
        raise TypeError(
            "the mask of Gaussian dropout is the noise that x is multiplied by, and must be a "
            f"float32 array: got dtype {checked.dtype}"
        )
    return checked


gaussian_recipe = recipe_from(  # the mask is the noise
    resolve_noise_shape,
    partial(
        Recipe,
        sample=sample_noise,
        apply=_apply_noise,
        apply_key=_apply_noise_key,
        check_rate=_check_rate_below_1,
        check_mask=partial(check_given_mask, check=_check_noise),
        is_bernoulli=False,
    ),
)
