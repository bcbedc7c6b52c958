"""Dropout and its structured variants, which differ only in the shape of the mask."""

from collections.abc import Sequence
from functools import partial

import jax

from .._apply import drop, recipe_from
from .._noise_shape import (
    feature_noise_shape,
    head_noise_shape,
    resolve_noise_shape,
    sample_noise_shape,
    spatial_noise_shape,
    timestep_noise_shape,
)
from .._typing import Array, DataFormat, Key, NoiseShape, Rate

dropout_recipe = recipe_from(resolve_noise_shape)
timestep_recipe = recipe_from(timestep_noise_shape)
feature_recipe = recipe_from(feature_noise_shape)
sample_recipe = recipe_from(sample_noise_shape)
spatial_recipe = recipe_from(spatial_noise_shape)
spatial_1d_recipe = recipe_from(partial(spatial_noise_shape, num_space=1))
spatial_2d_recipe = recipe_from(partial(spatial_noise_shape, num_space=2))
spatial_3d_recipe = recipe_from(partial(spatial_noise_shape, num_space=3))
head_recipe = recipe_from(head_noise_shape)


def dropout(
    key: Key,
    x: Array,
    rate: Rate,
    *,
    noise_shape: NoiseShape | None = None,
    broadcast_dims: Sequence[int] = (),
) -> jax.Array:
    """Drops elements of x at random, independently or in groups that share a draw.

        y = x * m / (1 - rate),   m[noise_shape] ~ Bernoulli(1 - rate), broadcast to x.shape

    Args:
      key: a JAX PRNG key, typed or legacy, which the call consumes. It may be None if rate is the
        number 0 (x is returned) or 1 (zeros are returned).
      x: any shape, floating or complex. In an 8-bit dtype a scaled value may overflow to inf, NaN
        or the largest value, depending on the dtype.
      rate: the probability to drop, in [0, 1]: a number or a scalar array. An array may be traced
        and changes value without recompiling; it is clipped to [0, 1], and NaN drops everything.
        Draws have 23 bits, so a keep probability between 0 and 2^-23 is rounded up to 2^-23. (With
        a `fast_key`, the rate is rounded to a multiple of 2^-16.)
      noise_shape: the shape of the mask, with one entry per axis of x: 1 where the whole axis
        shares a draw; None, or the axis's own size, where each index has its own. By default each
        element has its own draw.
      broadcast_dims: the axes of x that share a draw, instead of noise_shape. Negative axes count
        from the end.

    Returns:
      An array with the shape, dtype and sharding of x.

    Raises:
      ValueError: if noise_shape or broadcast_dims does not fit x, if both are given, if a number
        for rate is outside [0, 1], or if the key is missing.
      TypeError: if x has an integer or bool dtype, or an argument has the wrong type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import dropout
      >>> x = jnp.ones((2, 4, 3))
      >>> y = dropout(jax.random.key(0), x, 0.5, noise_shape=(None, 1, None))
      >>> bool((y == y[:, :1]).all())  # all 4 steps share a draw
      True

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """
    return drop(key, x, rate, dropout_recipe(x, noise_shape, broadcast_dims))


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

    This is `dropout` with noise_shape=(None, None, 1).

    Args:
      key, rate: as in `dropout`.
      x: [batch, time, channel], floating or complex.
      data_format, batch_dims: as in `spatial_dropout`.

    Returns:
      An array with the shape, dtype and sharding of x.

    Raises:
      ValueError: if x does not have batch_dims + 2 axes, or data_format is unknown; else as in
        `dropout`.
      TypeError: as in `dropout`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import timestep_dropout
      >>> y = timestep_dropout(jax.random.key(0), jnp.ones((2, 3, 4)), 0.5)
      >>> bool((y == y[..., :1]).all())  # all channels of a step share a draw
      True

    Reference: Gal & Ghahramani, A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks, 2016, https://arxiv.org/abs/1512.05287 (which drops words of a sequence)
    """
    return drop(key, x, rate, timestep_recipe(x, data_format, batch_dims))


def feature_dropout(
    key: Key,
    x: Array,
    rate: Rate,
    *,
    data_format: DataFormat = "channels_last",
    batch_dims: int = 1,
) -> jax.Array:
    """Drops channels for the whole batch: one draw per channel, for all samples and positions.

        y[b, s, c] = x[b, s, c] * m[c] / (1 - rate),   m[c] ~ Bernoulli(1 - rate)

    For x of [batch, time, channel] this is `dropout` with noise_shape=(1, 1, None).

    Args:
      key, rate: as in `dropout`.
      x: [*batch, *space, channel], floating or complex.
      data_format, batch_dims: as in `spatial_dropout`.

    Returns:
      An array with the shape, dtype and sharding of x.

    Raises:
      ValueError: if x has fewer than batch_dims + 1 axes, or data_format is unknown; else as in
        `dropout`.
      TypeError: as in `dropout`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import feature_dropout
      >>> y = feature_dropout(jax.random.key(0), jnp.ones((2, 3, 4)), 0.5)
      >>> bool((y == y[:1, :1]).all())  # all samples and steps of a channel share a draw
      True

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, 2014, https://jmlr.org/papers/v15/srivastava14a.html (here with a shared draw)
    """
    return drop(key, x, rate, feature_recipe(x, data_format, batch_dims))


def sample_dropout(
    key: Key,
    x: Array,
    rate: Rate,
    *,
    data_format: DataFormat = "channels_last",
    batch_dims: int = 1,
) -> jax.Array:
    """Drops whole samples: one draw per sample.

        y[b, s, c] = x[b, s, c] * m[b] / (1 - rate),   m[b] ~ Bernoulli(1 - rate)

    For x of [batch, time, channel] this is `dropout` with noise_shape=(None, 1, 1). On the branch
    of a residual block it is called stochastic depth, or drop path.

    Args:
      key, rate: as in `dropout`.
      x: [*batch, *space, channel], floating or complex.
      data_format, batch_dims: as in `spatial_dropout`.

    Returns:
      An array with the shape, dtype and sharding of x.

    Raises:
      ValueError: if x has fewer than batch_dims + 1 axes, or data_format is unknown; else as in
        `dropout`.
      TypeError: as in `dropout`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import sample_dropout
      >>> y = sample_dropout(jax.random.key(0), jnp.ones((2, 3, 4)), 0.5)
      >>> bool((y == y[:, :1, :1]).all())  # all elements of a sample share a draw
      True

    Reference: Huang et al., Deep Networks with Stochastic Depth, 2016,
    https://arxiv.org/abs/1603.09382
    """
    return drop(key, x, rate, sample_recipe(x, data_format, batch_dims))


def spatial_dropout(
    key: Key,
    x: Array,
    rate: Rate,
    *,
    data_format: DataFormat = "channels_last",
    batch_dims: int = 1,
) -> jax.Array:
    """Drops whole channels: one draw per sample and channel, for all positions.

        y[b, s, c] = x[b, s, c] * m[b, c] / (1 - rate),   m[b, c] ~ Bernoulli(1 - rate)

    Args:
      key, rate: as in `dropout`.
      x: [*batch, *space, channel], floating or complex, with any number of space axes.
      data_format: "channels_last", or "channels_first" for x of [*batch, channel, *space].
      batch_dims: the number of leading batch axes; 0 for a single example.

    Returns:
      An array with the shape, dtype and sharding of x.

    Raises:
      ValueError: if x has fewer than batch_dims + 1 axes, or data_format is unknown; else as in
        `dropout`.
      TypeError: as in `dropout`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import spatial_dropout
      >>> spatial_dropout(jax.random.key(1), jnp.ones((2, 4)), 0.5, batch_dims=0)
      Array([[2., 0., 2., 2.],
             [2., 0., 2., 2.]], dtype=float32)

    Reference: Tompson et al., Efficient Object Localization Using Convolutional Networks, 2015,
    https://arxiv.org/abs/1411.4280
    """
    return drop(key, x, rate, spatial_recipe(x, data_format, batch_dims))


def spatial_dropout_1d(
    key: Key,
    x: Array,
    rate: Rate,
    *,
    data_format: DataFormat = "channels_last",
    batch_dims: int = 1,
) -> jax.Array:
    """Drops whole channels of a sequence: one draw per sample and channel, for all steps.

        y[b, t, c] = x[b, t, c] * m[b, c] / (1 - rate),   m[b, c] ~ Bernoulli(1 - rate)

    This is `spatial_dropout` for x with one space axis, and `dropout` with
    noise_shape=(None, 1, None).

    Args:
      key, rate, data_format, batch_dims: as in `spatial_dropout`.
      x: [batch, time, channel], floating or complex.

    Returns:
      An array with the shape, dtype and sharding of x.

    Raises:
      ValueError: if x has another number of axes (the message names the function to use instead);
        else as in `spatial_dropout`.
      TypeError: as in `dropout`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import spatial_dropout_1d
      >>> y = spatial_dropout_1d(jax.random.key(0), jnp.ones((2, 3, 4)), 0.5)
      >>> bool((y == y[:, :1]).all())  # all steps of a channel share a draw
      True

    Reference: Tompson et al., Efficient Object Localization Using Convolutional Networks, 2015,
    https://arxiv.org/abs/1411.4280
    """
    return drop(key, x, rate, spatial_1d_recipe(x, data_format, batch_dims))


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

    This is `spatial_dropout` for x with two space axes, and `dropout` with
    noise_shape=(None, 1, 1, None).

    Args:
      key, rate, data_format, batch_dims: as in `spatial_dropout`.
      x: [batch, height, width, channel], floating or complex.

    Returns:
      An array with the shape, dtype and sharding of x.

    Raises:
      ValueError: if x has another number of axes (the message names the function to use instead);
        else as in `spatial_dropout`.
      TypeError: as in `dropout`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import spatial_dropout_2d
      >>> y = spatial_dropout_2d(jax.random.key(0), jnp.ones((2, 5, 5, 4)), 0.5)
      >>> bool((y == y[:, :1, :1]).all())  # all pixels of a channel share a draw
      True

    Reference: Tompson et al., Efficient Object Localization Using Convolutional Networks, 2015,
    https://arxiv.org/abs/1411.4280
    """
    return drop(key, x, rate, spatial_2d_recipe(x, data_format, batch_dims))


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

    This is `spatial_dropout` for x with three space axes, and `dropout` with
    noise_shape=(None, 1, 1, 1, None).

    Args:
      key, rate, data_format, batch_dims: as in `spatial_dropout`.
      x: [batch, depth, height, width, channel], floating or complex.

    Returns:
      An array with the shape, dtype and sharding of x.

    Raises:
      ValueError: if x has another number of axes (the message names the function to use instead);
        else as in `spatial_dropout`.
      TypeError: as in `dropout`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import spatial_dropout_3d
      >>> y = spatial_dropout_3d(jax.random.key(0), jnp.ones((2, 3, 5, 5, 4)), 0.5)
      >>> bool((y == y[:, :1, :1, :1]).all())  # all voxels of a channel share a draw
      True

    Reference: Tompson et al., Efficient Object Localization Using Convolutional Networks, 2015,
    https://arxiv.org/abs/1411.4280
    """
    return drop(key, x, rate, spatial_3d_recipe(x, data_format, batch_dims))


def head_dropout(
    key: Key, x: Array, rate: Rate, *, head_axis: int = -2, batch_dims: int = 1
) -> jax.Array:
    """Drops whole attention heads: one draw per sample and head.

        y[b, t, h, f] = x[b, t, h, f] * m[b, h] / (1 - rate),   m[b, h] ~ Bernoulli(1 - rate)

    For x of [batch, length, heads, features], which an `attention_fn` of Flax returns, this is
    `dropout` with noise_shape=(None, 1, None, 1). Kept heads are scaled by 1 / (1 - rate), so each
    head is independent of the others. Zhou et al. scale by heads / (kept heads) in each sample,
    which divides by 0 if all heads of a sample are dropped.

    Args:
      key, rate: as in `dropout`.
      x: [*batch, length, heads, features], floating or complex.
      head_axis: the axis of the heads; -3 for attention weights [*batch, heads, queries, keys].
      batch_dims: the number of leading batch axes; 0 for a single example.

    Returns:
      An array with the shape, dtype and sharding of x.

    Raises:
      ValueError: if head_axis is not an axis of x or is a batch axis; else as in `dropout`.
      TypeError: as in `dropout`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import head_dropout
      >>> y = head_dropout(jax.random.key(0), jnp.ones((2, 5, 4, 3)), 0.5)
      >>> bool((y == y[:, :1, :, :1]).all())  # all elements of a head share a draw
      True

    Reference: Zhou et al., Scheduled DropHead: A Regularization Method for Transformer Models,
    2020, https://arxiv.org/abs/2004.13342; Michel et al., Are Sixteen Heads Really Better than
    One?, 2019, https://arxiv.org/abs/1905.10650 (which prunes heads after training)
    """
    return drop(key, x, rate, head_recipe(x, head_axis, batch_dims))
