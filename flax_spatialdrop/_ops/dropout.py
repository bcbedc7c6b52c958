"""Dropout, and the regularizers that differ from it only in the shape of the mask."""

from collections.abc import Sequence

import jax

from .._apply import Recipe, drop
from .._checks import check_input
from .._noise_shape import (
    feature_noise_shape,
    head_noise_shape,
    resolve_noise_shape,
    sample_noise_shape,
    spatial_noise_shape,
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
      key: one JAX PRNG key, typed or legacy, which the call consumes. It may be None at a rate of
        exactly 0, where x itself is returned, or 1, where zeros are.
      x: any shape, floating or complex. In a dtype of 8 bits a scaled value may overflow, to inf,
        NaN or the largest value, depending on the dtype.
      rate: the probability to drop, in [0, 1]: a number, or a scalar array, traced or not, whose
        values all share one compile. An array is clipped to [0, 1], and NaN drops everything. Draws
        have 23 bits, so a keep probability between 0 and 2^-23 is drawn as 2^-23.
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
    return drop(key, x, rate, Recipe(noise_shape))


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
      key: as in `dropout`.
      x: [batch, time, channel], floating or complex.
      rate: as in `dropout`; the probability to drop a step.
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
    return drop(key, x, rate, Recipe(noise_shape))


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
      key: as in `dropout`.
      x: [*batch, *space, channel], floating or complex.
      rate: as in `dropout`; the probability to drop a channel.
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
    return drop(key, x, rate, Recipe(noise_shape))


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
      key: as in `dropout`.
      x: [*batch, *space, channel], floating or complex.
      rate: as in `dropout`; the probability to drop a sample.
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
    return drop(key, x, rate, Recipe(noise_shape))


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
      key: as in `dropout`.
      x: [*batch, *space, channel], floating or complex, with any number of space axes.
      rate: as in `dropout`; the probability to drop a channel.
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
    return drop(key, x, rate, Recipe(noise_shape))


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
      key, rate, data_format, batch_dims: as in `spatial_dropout`.
      x: [batch, time, channel], floating or complex.

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
    return drop(key, x, rate, Recipe(noise_shape))


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
      key, rate, data_format, batch_dims: as in `spatial_dropout`.
      x: [batch, height, width, channel], floating or complex.

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
    return drop(key, x, rate, Recipe(noise_shape))


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
      key, rate, data_format, batch_dims: as in `spatial_dropout`.
      x: [batch, depth, height, width, channel], floating or complex.

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
    return drop(key, x, rate, Recipe(noise_shape))


def head_dropout(
    key: Key, x: Array, rate: Rate, *, head_axis: int = -2, batch_dims: int = 1
) -> jax.Array:
    """Drops whole attention heads: one draw per sample and head.

        y[b, t, h, f] = x[b, t, h, f] * m[b, h] / (1 - rate),   m[b, h] ~ Bernoulli(1 - rate)

    For x = [batch, length, heads, features], what an `attention_fn` of Flax returns, the same as
    `dropout` with noise_shape=(None, 1, None, 1). Heads are scaled up so that the mean is kept.
    Zhou et al. scale by heads / (heads kept) of each sample instead, which divides by 0 where all
    are dropped; here each head is on its own, and what one becomes depends on no other.

    Args:
      key: as in `dropout`.
      x: [*batch, length, heads, features], floating or complex.
      rate: as in `dropout`; the probability to drop a head.
      head_axis: the axis of heads; -3 for attention weights [*batch, heads, queries, keys].
      batch_dims: how many leading axes are batch axes; 0 for one example.

    Returns:
      An array of x's shape, dtype and sharding.

    Raises:
      ValueError: for a head_axis that x has not, or that is a batch axis, a number for rate
        outside [0, 1], a missing key.
      TypeError: for integer or bool x, or an argument of another type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import head_dropout
      >>> y = head_dropout(jax.random.key(0), jnp.ones((2, 5, 4, 3)), 0.5)
      >>> bool((y == y[:, :1, :, :1]).all())  # all of a head shares its draw
      True

    Reference: Zhou et al., Scheduled DropHead: A Regularization Method for Transformer Models,
    2020, https://arxiv.org/abs/2004.13342; Michel et al., Are Sixteen Heads Really Better than
    One?, 2019, https://arxiv.org/abs/1905.10650 (which prunes heads after training)
    """
    noise_shape = head_noise_shape(check_input(x).shape, head_axis, batch_dims)
    return drop(key, x, rate, Recipe(noise_shape))
