"""Dropout, and those that drop whole steps, features or samples: other shapes of its mask.

All share one contract. `key` is one JAX PRNG key, typed or legacy, and is consumed; None will do
where no mask is drawn. `rate` is the probability to drop, in [0, 1]: a number, or a scalar array,
traced or not, which costs one compile for all its values (clipped to [0, 1]; NaN drops all). At
the number 0 x itself comes back, at 1 zeros. `x` is floating or complex; the result has its shape,
dtype and sharding.
"""

from collections.abc import Sequence

import jax

from .._checks import check_input
from .._choices import Choices, drop
from .._noise_shape import (
    feature_noise_shape,
    resolve_noise_shape,
    sample_noise_shape,
    timestep_noise_shape,
)
from .._typing import Array, DataFormat, Key, NoiseShape, Rate


def dropout(
    key: Key,
    x: Array,
    rate: Rate,
    *,
    noise_shape: NoiseShape | None = None,
    broadcast_dims: Sequence[int] = (),
) -> jax.Array:
    """Drops values of x at random, each on its own or in groups that share one draw.

        y = x * m / (1 - rate),   m[noise_shape] ~ Bernoulli(1 - rate), spread over x

    Args:
      key: one JAX PRNG key; consumed. None will do at a rate of exactly 0 or 1.
      x: any shape, floating or complex. In types of 8 bits, scaled values that are too large become
        what such a type makes of them: inf, NaN or its largest value.
      rate: probability to drop, in [0, 1]; a number or a scalar array
        (clipped to [0, 1]; NaN drops all). Draws have 23 bits: a keep probability between 0 and
        2^-23 is drawn as 2^-23.
      noise_shape: the shape of the mask, one entry per axis of x: None (or the axis's own size)
        for a draw per index, 1 for one draw shared along the axis. None: a draw per element.
      broadcast_dims: the same, said with the axes that share a draw; negative axes count from the
        end. At most one of the two may be given.

    Returns:
      An array of x's shape, dtype and sharding.

    Raises:
      ValueError: for a noise shape or axes that do not fit x, both given, a number for rate
        outside [0, 1], a missing key.
      TypeError: for integer or bool x, or an argument of another type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import dropout
      >>> x = jnp.ones((2, 4, 3))
      >>> y = dropout(jax.random.key(0), x, 0.5, noise_shape=(None, 1, None))
      >>> bool((y == y[:, :1]).all())  # all 4 steps share their draw
      True

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """
    noise_shape = resolve_noise_shape(check_input(x).shape, noise_shape, broadcast_dims)
    return drop(key, x, rate, Choices(noise_shape))


def timestep_dropout(
    key: Key,
    x: Array,
    rate: Rate,
    *,
    data_format: DataFormat = "channels_last",
    batch_dims: int = 1,
) -> jax.Array:
    """Drops whole steps of a sequence: one draw per sample and step, for all channels.

        y[b, t, c] = x[b, t, c] * m[b, t] / (1 - rate),   m[b, t] ~ Bernoulli(1 - rate)

    The same as `dropout` with noise_shape=(None, None, 1).

    Args:
      key: one JAX PRNG key; consumed. None will do at a rate of exactly 0 or 1.
      x: [batch, time, channel], floating or complex.
      rate: probability to drop a step, in [0, 1]; a number or a scalar array
        (clipped to [0, 1]; NaN drops all).
      data_format: "channels_last", or "channels_first" for [*batch, channel, time].
      batch_dims: how many leading axes are batch axes; 0 for one example.

    Returns:
      An array of x's shape, dtype and sharding.

    Raises:
      ValueError: for x that has not batch_dims + 2 axes, an unknown data_format, a rate
        outside [0, 1], a missing key.
      TypeError: for integer or bool x, or an argument of another type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import timestep_dropout
      >>> y = timestep_dropout(jax.random.key(0), jnp.ones((2, 3, 4)), 0.5)
      >>> bool((y == y[..., :1]).all())  # all channels of a step share their draw
      True

    Reference: Gal & Ghahramani, A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks, 2016, https://arxiv.org/abs/1512.05287 (which drops words of a sequence)
    """
    noise_shape = timestep_noise_shape(check_input(x).shape, data_format, batch_dims)
    return drop(key, x, rate, Choices(noise_shape))


def feature_dropout(
    key: Key,
    x: Array,
    rate: Rate,
    *,
    data_format: DataFormat = "channels_last",
    batch_dims: int = 1,
) -> jax.Array:
    """Drops channels for the whole batch: one draw per channel, for all samples and all of space.

        y[b, s, c] = x[b, s, c] * m[c] / (1 - rate),   m[c] ~ Bernoulli(1 - rate)

    For x = [batch, time, channel] the same as `dropout` with noise_shape=(1, 1, None).

    Args:
      key: one JAX PRNG key; consumed. None will do at a rate of exactly 0 or 1.
      x: [*batch, *space, channel], floating or complex.
      rate: probability to drop a channel, in [0, 1]; a number or a scalar array
        (clipped to [0, 1]; NaN drops all).
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
      >>> from flax_spatialdrop import feature_dropout
      >>> y = feature_dropout(jax.random.key(0), jnp.ones((2, 3, 4)), 0.5)
      >>> bool((y == y[:1, :1]).all())  # all samples and steps share a channel's draw
      True

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, 2014, https://jmlr.org/papers/v15/srivastava14a.html (with the draw shared)
    """
    noise_shape = feature_noise_shape(check_input(x).shape, data_format, batch_dims)
    return drop(key, x, rate, Choices(noise_shape))


def sample_dropout(
    key: Key,
    x: Array,
    rate: Rate,
    *,
    data_format: DataFormat = "channels_last",
    batch_dims: int = 1,
) -> jax.Array:
    """Drops whole samples: one draw per sample, for all of it.

        y[b, s, c] = x[b, s, c] * m[b] / (1 - rate),   m[b] ~ Bernoulli(1 - rate)

    For x = [batch, time, channel] the same as `dropout` with noise_shape=(None, 1, 1). On the
    branch of a residual block this is stochastic depth, or drop path.

    Args:
      key: one JAX PRNG key; consumed. None will do at a rate of exactly 0 or 1.
      x: [*batch, *space, channel], floating or complex.
      rate: probability to drop a sample, in [0, 1]; a number or a scalar array
        (clipped to [0, 1]; NaN drops all).
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
      >>> from flax_spatialdrop import sample_dropout
      >>> y = sample_dropout(jax.random.key(0), jnp.ones((2, 3, 4)), 0.5)
      >>> bool((y == y[:, :1, :1]).all())  # all of a sample shares its draw
      True

    Reference: Huang et al., Deep Networks with Stochastic Depth, 2016,
    https://arxiv.org/abs/1603.09382
    """
    noise_shape = sample_noise_shape(check_input(x).shape, data_format, batch_dims)
    return drop(key, x, rate, Choices(noise_shape))
