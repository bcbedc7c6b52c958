"""Dropout in attention: of whole heads, and of the weights between queries and keys."""

from collections.abc import Sequence

import jax

from ._apply import check_input
from ._choices import Choices, drop
from ._noise_shape import head_noise_shape, resolve_noise_shape
from ._rates import check_rate, is_static
from ._typing import Array, Key, NoiseShape, Rate, Shape
from ._weights_dropout import WeightsDropout, span_blocks


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


def weights_dropout(
    query: Array,
    key: Array,
    dropout_rng: Key,
    rate: Rate,
    *,
    deterministic: bool,
    broadcast_dropout: bool,
    noise_shape: NoiseShape | None,
    broadcast_dims: Sequence[int] | None,
    span: int,
) -> WeightsDropout | None:
    """What drops weights [*batch, heads, queries, keys], by Flax's words and ours; None if nothing.

    The mask's shape is Flax's own unless one of ours is given.
    """
    rate = check_rate(rate)
    shape = weights_shape(query, key)
    if noise_shape is None and broadcast_dims is None and broadcast_dropout:
        broadcast_dims = range(len(shape) - 2)
    blocks = span_blocks(resolve_noise_shape(shape, noise_shape, broadcast_dims), span)
    if deterministic or is_static(rate, 0.0):
        return None
    if dropout_rng is None and not is_static(rate, 1.0):
        raise ValueError(
            "attention weights are dropped with a PRNG key unless the rate is the number 0 or 1: "
            "got dropout_rng=None; pass one, such as jax.random.key(0), or deterministic=True"
        )
    return WeightsDropout(dropout_rng, rate, blocks)


def weights_shape(query: Array, key: Array) -> Shape:
    """[*batch, heads, queries, keys]."""
    return query.shape[:-3] + query.shape[-2:-1] + query.shape[-3:-2] + key.shape[-3:-2]


def check_value(shape: Shape, key_shape: Shape, heads: int) -> None:
    """Raises unless each key has its value, for all of the query's heads."""
    if shape[:-2] != key_shape[:-2] or heads % shape[-2]:
        raise ValueError(
            "value must have the batch axes and the length of key, and heads that divide those of "
            f"query: got value.shape={shape} for key.shape={key_shape} and {heads} heads of query"
        )
