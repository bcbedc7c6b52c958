"""Alpha dropout: dropped values are set to the limit of a SELU; mean and variance are kept."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._apply import Recipe, by_key, by_mask, drop, kept_or_zero, recipe_from, times, widened
from .._noise_shape import resolve_noise_shape, spatial_noise_shape
from .._rates import fence, keep_probability
from .._typing import Array, DataFormat, Key, NoiseShape, Rate

_DEPTH = np.float32(1.7580993408473766)  # -alpha', the SELU's lambda * alpha
_SQUARE = np.float32(1.7580993408473766**2)
_INVERSE = np.float32(1 / 1.7580993408473766**2)  # times _SQUARE exactly 1, in float32 too


def alpha_dropout(
    key: Key,
    x: Array,
    rate: Rate,
    *,
    noise_shape: NoiseShape | None = None,
    broadcast_dims: Sequence[int] = (),
) -> jax.Array:
    """Drops values to the limit of a SELU, and keeps mean 0 and variance 1 of its activations.

        y = a * (x * m + alpha' * (1 - m)) + b,   m[noise_shape] ~ Bernoulli(1 - rate)
        alpha' = -1.7580993,   a = ((1 - rate) * (1 + rate * alpha'^2))^(-1/2),   b = -a rate alpha'

    For networks of SELUs (jax.nn.selu), whose activations stay near mean 0 and variance 1: so they
    do here. Complex x is mapped in the same way, along the real line.

    Args:
      key: as in `dropout`.
      x: any shape, floating or complex.
      rate: as in `dropout`. At 1 all of y is 0, its limit.
      noise_shape: the shape of the mask, one entry per axis of x: None (or the axis's own size)
        for a draw per index, 1 for one draw shared along the axis. None: a draw per element.
      broadcast_dims: the axes of x that share a draw, in place of noise_shape; negative axes count
        from the end.

    Returns:
      An array of x's shape, dtype and sharding.

    Raises:
      ValueError: for a noise shape or axes that do not fit x, both given, a number for rate
        outside [0, 1], a missing key.
      TypeError: for integer or bool x, or an argument of another type.

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
    """Drops whole channels to the limit of a SELU: one draw per sample and channel, at any rank.

        y[b, s, c] = a * (x[b, s, c] * m[b, c] + alpha' * (1 - m[b, c])) + d

    with m[b, c] ~ Bernoulli(1 - rate), a and alpha' as of `alpha_dropout`, and d its b: alpha
    dropout with the mask of `spatial_dropout`.

    Args:
      key: as in `dropout`.
      x: [*batch, *space, channel], floating or complex, with any number of space axes.
      rate: as in `dropout`; the probability to drop a channel. At 1 all of y is 0, its limit.
      data_format: "channels_last", or "channels_first" for [*batch, channel, *space].
      batch_dims: how many leading axes are batch axes; 0 for one example.

    Returns:
      An array of x's shape, dtype and sharding.

    Raises:
      ValueError: for x with fewer than batch_dims + 1 axes, an unknown data_format, a rate
        outside [0, 1], a missing key.
      TypeError: for integer or bool x, or an argument of another type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import feature_alpha_dropout
      >>> y = feature_alpha_dropout(jax.random.key(0), jnp.ones((2, 5, 5, 4)), 0.5)
      >>> bool((y == y[:, :1, :1]).all())  # all pixels of a channel share their draw
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
    """Returns shift and scale of a kept value, which is scale * (x + shift), and the dropped value.

    In terms of the equation, scale = a and shift = b / a. Sums come before products, so there is
    no product and sum that XLA could round once.
    """
    keep = keep_probability(rate)
    xp = np if isinstance(keep, np.float32) else jnp
    zero, one = np.float32(0), np.float32(1)
    safe = xp.where(keep > 0, keep, one)
    dropping = fence(one - safe)
    scale = xp.sqrt(one / (safe * ((dropping + _INVERSE) * _SQUARE)))
    dropped = zero - _DEPTH * scale * keep  # a minus sign would make -0 at a rate of 1
    return _DEPTH * dropping, scale, dropped


def _kept_or_saturated(mask, x, shift, scale, dropped):
    """Returns scale * (x + shift) where the mask is True and `dropped` elsewhere, in x's dtype."""
    if jnp.iscomplexobj(x):
        real = _kept_or_saturated(mask, x.real, shift, scale, dropped)
        return jax.lax.complex(real, kept_or_zero(mask, x.imag, scale))
    wide = widened(x)
    kept = times(wide + shift.astype(wide.dtype), scale)
    return jnp.where(mask, kept, dropped.astype(wide.dtype)).astype(x.dtype)
