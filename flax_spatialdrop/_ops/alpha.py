"""Alpha dropout: sets dropped values to the limit of a SELU, and keeps the mean and variance."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._apply import (
    Constant,
    Recipe,
    by_key,
    by_mask,
    drop,
    kept_or_zero,
    recipe_from,
    times,
    widened,
)
from .._noise_shape import resolve_noise_shape, spatial_noise_shape
from .._rates import fence, keep_probability
from .._typing import Array, DataFormat, Key, NoiseShape, Rate

_DEPTH = np.float32(1.7580993408473766)  # -alpha', which is lambda * alpha of the SELU
_SQUARE = np.float32(1.7580993408473766**2)
_INVERSE = np.float32(1 / 1.7580993408473766**2)  # _INVERSE * _SQUARE is exactly 1 in float32


def alpha_dropout(
    key: Key,
    x: Array,
    rate: Rate,
    *,
    noise_shape: NoiseShape | None = None,
    broadcast_dims: Sequence[int] = (),
) -> jax.Array:
    """Sets dropped values to the limit of a SELU, and keeps a mean of 0 and a variance of 1.

        y = a * (x * m + alpha' * (1 - m)) + b,   m[noise_shape] ~ Bernoulli(1 - rate)
        alpha' = -1.7580993,   a = ((1 - rate) * (1 + rate * alpha'^2))^(-1/2),   b = -a rate alpha'

    Use it in networks of SELUs (jax.nn.selu), whose activations stay near mean 0 and variance 1. If
    x is complex, the imaginary part is only scaled by a, and its dropped values are 0.

    Args:
      key: as in `dropout`.
      x: any shape, floating or complex.
      rate: as in `dropout`. At a rate of 1, y is 0, its limit.
      noise_shape, broadcast_dims: as in `dropout`.

    Returns:
      An array with the shape, dtype and sharding of x.

    Raises:
      ValueError, TypeError: as in `dropout`.

    Example:
      >>> import jax
      >>> from flax_spatialdrop import alpha_dropout
      >>> key, normal = jax.random.key(0), jax.random.normal(jax.random.key(1), (100, 1000))
      >>> y = alpha_dropout(key, normal, 0.2)
      >>> bool(abs(y.mean()) < 0.02), bool(abs(y.var() - 1) < 0.02)
      (True, True)

    Reference: Klambauer et al., Self-Normalizing Neural Networks, 2017,
    https://arxiv.org/abs/1706.02515
    """
    return drop(key, x, rate, alpha_recipe(x, noise_shape, broadcast_dims))


def feature_alpha_dropout(
    key: Key,
    x: Array,
    rate: Rate,
    *,
    data_format: DataFormat = "channels_last",
    batch_dims: int = 1,
) -> jax.Array:
    """Alpha dropout of whole channels: one draw per sample and channel, for all positions.

        y[b, s, c] = a * (x[b, s, c] * m[b, c] + alpha' * (1 - m[b, c])) + d

    Here m[b, c] ~ Bernoulli(1 - rate), a and alpha' are those of `alpha_dropout`, and d is its b.
    This is `alpha_dropout` with the mask of `spatial_dropout`.

    Args:
      key, rate: as in `alpha_dropout`.
      x: [*batch, *space, channel], floating or complex, with any number of space axes.
      data_format, batch_dims: as in `spatial_dropout`.

    Returns:
      An array with the shape, dtype and sharding of x.

    Raises:
      ValueError, TypeError: as in `spatial_dropout`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import feature_alpha_dropout
      >>> y = feature_alpha_dropout(jax.random.key(0), jnp.ones((2, 5, 5, 4)), 0.5)
      >>> bool((y == y[:, :1, :1]).all())  # all pixels of a channel share a draw
      True

    Reference: Klambauer et al., Self-Normalizing Neural Networks, 2017,
    https://arxiv.org/abs/1706.02515
    """
    return drop(key, x, rate, feature_alpha_recipe(x, data_format, batch_dims))


def _apply_alpha(x: Array, mask: Array, rate: Rate) -> jax.Array:
    return by_mask(_kept_or_saturated, mask, x, *_constants(rate))


def _apply_alpha_key(x: Array, key: jax.Array, rate: Rate) -> jax.Array:
    return by_key(_kept_or_saturated, key, x, rate, *_constants(rate))


# Dropout with another way to apply the mask.
_recipe = partial(Recipe, apply=_apply_alpha, apply_key=_apply_alpha_key)
alpha_recipe = recipe_from(resolve_noise_shape, _recipe)
feature_alpha_recipe = recipe_from(spatial_noise_shape, _recipe)


def _constants(rate: Rate) -> tuple[Any, Any, Any]:
    """Returns `shift`, `scale` and `dropped`: a kept value is scale * (x + shift).

    In terms of the equation, scale = a and shift = b / a. The sum comes before the product, so XLA
    cannot contract them to one operation that rounds once (see `fence`).
    """
    keep = keep_probability(rate)
    xp = np if isinstance(keep, np.float32) else jnp
    zero, one = np.float32(0), np.float32(1)
    safe = xp.where(keep > 0, keep, one)
    dropping = fence(one - safe)
    scale = xp.sqrt(one / (safe * ((dropping + _INVERSE) * _SQUARE)))
    dropped = zero - _DEPTH * scale * keep  # a unary minus would return -0 at a rate of 1
    return _DEPTH * dropping, scale, dropped


def _kept_or_saturated(
    mask: Array, x: jax.Array, shift: Constant, scale: Constant, dropped: Constant
) -> jax.Array:
    """Returns scale * (x + shift) where the mask is True and `dropped` elsewhere, in x's dtype."""
    if jnp.iscomplexobj(x):
        real = _kept_or_saturated(mask, x.real, shift, scale, dropped)
        return jax.lax.complex(real, kept_or_zero(mask, x.imag, scale))
    wide = widened(x)
    kept = times(wide + shift.astype(wide.dtype), scale)
    return jnp.where(mask, kept, dropped.astype(wide.dtype)).astype(x.dtype)
