"""Dropout of whole attention heads."""

import jax

from ._checks import check_input
from ._choices import Choices, drop
from ._noise_shape import head_noise_shape
from ._typing import Array, Key, Rate


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
      key: one JAX PRNG key; consumed. None will do at a rate of exactly 0 or 1.
      x: [*batch, length, heads, features], floating or complex.
      rate: probability to drop a head, in [0, 1]; a number or a scalar array
        (clipped to [0, 1]; NaN drops all).
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
    return drop(key, x, rate, Choices(noise_shape))
