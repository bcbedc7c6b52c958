"""Spatial dropout: whole channels, for all of space, with the contract of `_dropout.py`."""

import jax

from ._checks import check_input
from ._choices import Choices, drop
from ._noise_shape import spatial_noise_shape
from ._typing import Array, DataFormat, Key, Rate


def spatial_dropout(
    key: Key,
    x: Array,
    rate: Rate,
    *,
    data_format: DataFormat = "channels_last",
    batch_dims: int = 1,
) -> jax.Array:
    """Drops whole channels: one draw per sample and channel, for all of space, at any rank.

        y[b, s, c] = x[b, s, c] * m[b, c] / (1 - rate),   m[b, c] ~ Bernoulli(1 - rate)

    Args:
      key: one JAX PRNG key; consumed. None will do at a rate of exactly 0 or 1.
      x: [*batch, *space, channel], floating or complex, with any number of space axes.
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
      >>> from flax_spatialdrop import spatial_dropout
      >>> spatial_dropout(jax.random.key(1), jnp.ones((2, 4)), 0.5, batch_dims=0)
      Array([[2., 0., 2., 2.],
             [2., 0., 2., 2.]], dtype=float32)

    Reference: Tompson et al., Efficient Object Localization Using Convolutional Networks, 2015,
    https://arxiv.org/abs/1411.4280
    """
    noise_shape = spatial_noise_shape(check_input(x).shape, data_format, batch_dims)
    return drop(key, x, rate, Choices(noise_shape))


def spatial_dropout_1d(
    key: Key,
    x: Array,
    rate: Rate,
    *,
    data_format: DataFormat = "channels_last",
    batch_dims: int = 1,
) -> jax.Array:
    """Drops whole channels of a sequence: one draw per sample and channel, for all time steps.

        y[b, t, c] = x[b, t, c] * m[b, c] / (1 - rate),   m[b, c] ~ Bernoulli(1 - rate)

    The same as `dropout` with noise_shape=(None, 1, None).

    Args:
      key: one JAX PRNG key; consumed. None will do at a rate of exactly 0 or 1.
      x: [batch, time, channel], floating or complex.
      rate: probability to drop a channel, in [0, 1]; a number or a scalar array
        (clipped to [0, 1]; NaN drops all).
      data_format: "channels_last", or "channels_first" for [batch, channel, time].
      batch_dims: how many leading axes are batch axes; 0 for one example.

    Returns:
      An array of x's shape, dtype and sharding.

    Raises:
      ValueError: for x of another rank (the message names the function that takes it), an
        unknown data_format, a number for rate outside [0, 1], a missing key.
      TypeError: for integer or bool x, or an argument of another type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import spatial_dropout_1d
      >>> y = spatial_dropout_1d(jax.random.key(0), jnp.ones((2, 3, 4)), 0.5)
      >>> bool((y == y[:, :1]).all())  # all time steps of a channel share their draw
      True

    Reference: Tompson et al., Efficient Object Localization Using Convolutional Networks, 2015,
    https://arxiv.org/abs/1411.4280
    """
    noise_shape = spatial_noise_shape(check_input(x).shape, data_format, batch_dims, 1)
    return drop(key, x, rate, Choices(noise_shape))


def spatial_dropout_2d(
    key: Key,
    x: Array,
    rate: Rate,
    *,
    data_format: DataFormat = "channels_last",
    batch_dims: int = 1,
) -> jax.Array:
    """Drops whole channels of an image: one draw per sample and channel, for all pixels.

        y[b, h, w, c] = x[b, h, w, c] * m[b, c] / (1 - rate),   m[b, c] ~ Bernoulli(1 - rate)

    The same as `dropout` with noise_shape=(None, 1, 1, None).

    Args:
      key: one JAX PRNG key; consumed. None will do at a rate of exactly 0 or 1.
      x: [batch, height, width, channel], floating or complex.
      rate: probability to drop a channel, in [0, 1]; a number or a scalar array
        (clipped to [0, 1]; NaN drops all).
      data_format: "channels_last", or "channels_first" for [batch, channel, height, width].
      batch_dims: how many leading axes are batch axes; 0 for one example.

    Returns:
      An array of x's shape, dtype and sharding.

    Raises:
      ValueError: for x of another rank (the message names the function that takes it), an
        unknown data_format, a number for rate outside [0, 1], a missing key.
      TypeError: for integer or bool x, or an argument of another type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import spatial_dropout_2d
      >>> y = spatial_dropout_2d(jax.random.key(0), jnp.ones((2, 5, 5, 4)), 0.5)
      >>> bool((y == y[:, :1, :1]).all())  # all pixels of a channel share their draw
      True

    Reference: Tompson et al., Efficient Object Localization Using Convolutional Networks, 2015,
    https://arxiv.org/abs/1411.4280
    """
    noise_shape = spatial_noise_shape(check_input(x).shape, data_format, batch_dims, 2)
    return drop(key, x, rate, Choices(noise_shape))


def spatial_dropout_3d(
    key: Key,
    x: Array,
    rate: Rate,
    *,
    data_format: DataFormat = "channels_last",
    batch_dims: int = 1,
) -> jax.Array:
    """Drops whole channels of a volume or a video: one draw per sample and channel, for all voxels.

        y[b, d, h, w, c] = x[b, d, h, w, c] * m[b, c] / (1 - rate),   m[b, c] ~ Bernoulli(1 - rate)

    The same as `dropout` with noise_shape=(None, 1, 1, 1, None).

    Args:
      key: one JAX PRNG key; consumed. None will do at a rate of exactly 0 or 1.
      x: [batch, depth, height, width, channel], floating or complex.
      rate: probability to drop a channel, in [0, 1]; a number or a scalar array
        (clipped to [0, 1]; NaN drops all).
      data_format: "channels_last", or "channels_first" for [batch, channel, depth, height, width].
      batch_dims: how many leading axes are batch axes; 0 for one example.

    Returns:
      An array of x's shape, dtype and sharding.

    Raises:
      ValueError: for x of another rank (the message names the function that takes it), an
        unknown data_format, a number for rate outside [0, 1], a missing key.
      TypeError: for integer or bool x, or an argument of another type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import spatial_dropout_3d
      >>> y = spatial_dropout_3d(jax.random.key(0), jnp.ones((2, 3, 5, 5, 4)), 0.5)
      >>> bool((y == y[:, :1, :1, :1]).all())  # all voxels of a channel share their draw
      True

    Reference: Tompson et al., Efficient Object Localization Using Convolutional Networks, 2015,
    https://arxiv.org/abs/1411.4280
    """
    noise_shape = spatial_noise_shape(check_input(x).shape, data_format, batch_dims, 3)
    return drop(key, x, rate, Choices(noise_shape))
