"""Dropout in attention: the module that drops heads, and Flax's attention with a noise shape."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import PromoteDtypeFn

from .._apply import Recipe
from .._attention.blockwise import blockwise, refuse_whole_weights
from .._attention.dropout import (
    check_attention,
    check_operands,
    check_sown,
    over_weights,
    weights_dropout,
    weights_shape,
)
from .._checks import check_callable, check_input, check_rate, check_switch, is_static
from .._compat import nnx_attention_weights as dot_product_attention_weights
from .._compat import nnx_promote_dtype as promote_as_flax_does
from .._noise_shape import head_noise_shape
from .._typing import Key, NoiseShape, Rate
from ._base import Regularizer


class HeadDropout(Regularizer):
    """Drops whole attention heads: one draw per sample and head.

        y[b, t, h, f] = x[b, t, h, f] * m[b, h] / (1 - rate),   m[b, h] ~ Bernoulli(1 - rate)

    The module of `flax_spatialdrop.head_dropout`. In an attention layer of Flax its place is
    behind the `attention_fn`, which is best a module too: then the stream is part of the model,
    and so is the mode.

    Args:
      rate: probability to drop, in [0, 1]; a number or a scalar array;
        None if each call gives one.
      head_axis: the axis of heads; -3 for attention weights [*batch, heads, queries, keys].
      batch_dims: how many leading axes are batch axes (default 1).
      deterministic: True returns the inputs as they are; set by `train()` and `eval()`, and
        overruled at the call.
      rng_collection: the name of the stream of `rngs` that the key is asked of (default "dropout").
      rngs: a stream is forked from it; without, the module holds no state and takes `rngs=` (a key
        will do) at the call.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_spatialdrop.nnx import HeadDropout
      >>> class HeadsDropped(nnx.Module):
      ...     def __init__(self, rate, rngs):
      ...         self.drop = HeadDropout(rate, rngs=rngs)
      ...     def __call__(self, *args, **kwargs):
      ...         return self.drop(nnx.dot_product_attention(*args, **kwargs))
      >>> rngs = nnx.Rngs(params=0, dropout=1)
      >>> attention_fn = HeadsDropped(0.2, rngs)
      >>> layer = nnx.MultiHeadAttention(
      ...     4, in_features=8, decode=False, attention_fn=attention_fn, rngs=rngs
      ... )
      >>> layer.train()
      >>> y = layer(jnp.ones((2, 5, 8)))

    Reference: Zhou et al., Scheduled DropHead: A Regularization Method for Transformer Models,
    2020, https://arxiv.org/abs/2004.13342
    """

    def __init__(
        self,
        rate: Rate | None,
        *,
        head_axis: int = -2,
        batch_dims: int = 1,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        self.head_axis = head_axis
        self.batch_dims = batch_dims
        super().__init__(rate, deterministic, rng_collection, rngs)

    def _recipe(self, inputs):
        shape = check_input(inputs).shape
        return Recipe(head_noise_shape(shape, self.head_axis, self.batch_dims))


def dot_product_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
    broadcast_dropout: bool = True,
    dropout_rng: Key = None,
    dropout_rate: Rate = 0.0,
    deterministic: bool = False,
    dtype: Any = None,
    precision: Any = None,
    module: nnx.Module | None = None,
    promote_dtype: PromoteDtypeFn = promote_as_flax_does,
    is_causal: bool = False,
    *,
    noise_shape: NoiseShape | None = None,
    broadcast_dims: Sequence[int] | None = None,
    span: int = 1,
) -> jax.Array:
    """Flax's dot-product attention, whose weights are dropped with any noise shape.

        w = softmax(query key^T / sqrt(depth)),   y = (w * m / (1 - rate)) value

    In place of `flax.nnx.dot_product_attention`, as the `attention_fn` of a layer too: every
    argument of Flax's own, in its place, with the same meaning, the same mask for the same key
    and in float32 the same values. The mask is kept in noise shape, or not at all where each weight
    has a draw of its own; in half precision the weights are scaled in float32.

    Args:
      query: [*batch, queries, heads, depth].
      key: [*batch, keys, heads, depth]; its heads may be fewer, each for a group of query's.
      value: [*batch, keys, heads, features]; as of key, its heads may be fewer.
      bias: added before the softmax; it spreads over [*batch, heads, queries, keys].
      mask: True where a query may attend; it spreads over [*batch, heads, queries, keys].
      broadcast_dropout: one draw per query and key, shared by the batch and by all heads; False:
        one per weight. Not looked at if noise_shape or broadcast_dims is given.
      dropout_rng: one JAX PRNG key; consumed. None will do where nothing is drawn.
      dropout_rate: probability to drop a weight, in [0, 1]; a number or a scalar array
        (clipped to [0, 1]; NaN drops all).
      deterministic: True drops nothing.
      dtype: of the computation; None: of the inputs.
      precision: see `jax.lax.Precision`.
      module: the module that sows the weights, as Flax does: before they are dropped.
      promote_dtype: brings (query, key, value) to one dtype.
      is_causal: True: a query attends to no later key.
      noise_shape: the shape of the mask, one entry for each axis of the weights [*batch, heads,
        queries, keys]: None for a draw per index, 1 for a shared one.
      broadcast_dims: the same, said with the axes of the weights that share a draw, such as (-2,)
        for the queries. At most one of the two may be given.
      span: how many keys in a row share a fate; spans begin anywhere, and the rate is met as
        `drop_block` meets it.

    Returns:
      [*batch, queries, heads, features].

    Raises:
      ValueError: for a rate outside [0, 1], a missing dropout_rng, a noise shape or axes that do
        not fit the weights (which messages call x), a span below 1 or of keys that share a draw,
        shapes that do not fit.
      TypeError: for an argument of another type.

    Example:
      >>> import functools, jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_spatialdrop.nnx import dot_product_attention
      >>> layer = nnx.MultiHeadAttention(
      ...     num_heads=4,
      ...     in_features=8,
      ...     dropout_rate=0.1,
      ...     decode=False,
      ...     attention_fn=functools.partial(dot_product_attention, broadcast_dims=(-2,)),
      ...     rngs=nnx.Rngs(params=0, dropout=1),
      ... )
      >>> layer.train()
      >>> y = layer(jnp.ones((2, 5, 8)))

    Reference: Vaswani et al., Attention Is All You Need, 2017, https://arxiv.org/abs/1706.03762;
    Lin Zehui et al., DropAttention: A Regularization Method for Fully-Connected Self-Attention
    Networks, 2019, https://arxiv.org/abs/1907.11065 (of keys and spans of them; there the weights
    are normalized again)
    """
    check_callable(promote_dtype, "promote_dtype", "a function of arrays and dtype=")
    query, key, value = check_operands(query, key, value, dtype=dtype, precision=precision)
    query, key, value = promote_dtype((query, key, value), dtype=dtype)
    check_attention(query, key, value, grouped=True)
    bias, mask = over_weights(bias, mask, weights_shape(query, key))
    is_causal = check_switch(is_causal, "is_causal")
    check_sown(module)
    dropout_rate = check_rate(dropout_rate, "dropout_rate")
    dropout = weights_dropout(
        query,
        key,
        dropout_rng,
        dropout_rate,
        deterministic=deterministic,
        broadcast_dropout=broadcast_dropout,
        noise_shape=noise_shape,
        broadcast_dims=broadcast_dims,
        span=span,
    )
    if dropout is None:
        # At 0 Flax takes another way, of fewer shapes. It refuses 1, and any other number will do.
        shares_shape = query.shape[-1] == value.shape[-1] and key.shape[-2] == value.shape[-2]
        is_zero = is_static(dropout_rate, 0.0) and shares_shape
        return nnx.dot_product_attention(
            query,
            key,
            value,
            bias,
            mask,
            dropout_rate=0.0 if is_zero else 0.5,
            deterministic=True,
            dtype=dtype,
            precision=precision,
            module=module,
            promote_dtype=promote_dtype,
            is_causal=is_causal,
        )
    weights = dot_product_attention_weights(
        query,
        key,
        bias,
        mask,
        deterministic=True,
        dtype=query.dtype,
        precision=precision,
        module=module,
        promote_dtype=promote_dtype,
        is_causal=is_causal,
    )
    value = dropout.of_values(value, query.shape[-2])
    return dropout.of_outputs(_sum_values(dropout.of_weights(weights), value, precision))


def _sum_values(weights: jax.Array, value: jax.Array, precision: Any) -> jax.Array:
    """What Flax does after the weights; a group of heads may share its values."""
    heads, value_heads = weights.shape[-3], value.shape[-2]
    if heads == value_heads:
        return jnp.einsum("...hqk,...khd->...qhd", weights, value, precision=precision)
    groups = (*weights.shape[:-3], value_heads, heads // value_heads, *weights.shape[-2:])
    y = jnp.einsum("...hgqk,...khd->...qhgd", weights.reshape(groups), value, precision=precision)
    return y.reshape(*y.shape[:-3], heads, y.shape[-1])


def blockwise_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
    broadcast_dropout: bool = True,
    dropout_rng: Key = None,
    dropout_rate: Rate = 0.0,
    deterministic: bool = False,
    dtype: Any = None,
    precision: Any = None,
    module: nnx.Module | None = None,
    promote_dtype: PromoteDtypeFn = promote_as_flax_does,
    is_causal: bool = False,
    *,
    noise_shape: NoiseShape | None = None,
    broadcast_dims: Sequence[int] | None = None,
    span: int = 1,
    query_block_size: int = 512,
    key_block_size: int = 512,
) -> jax.Array:
    """Flax's dot-product attention in blocks, whose weights and masks are never written down whole.

        w = softmax(query key^T / sqrt(depth)),   y = (w * m / (1 - rate)) value

    In place of `flax.nnx.dot_product_attention`, as the `attention_fn` of a layer too: its
    arguments, in their places, with the same meaning, the same mask for the same key and in float32
    the same values. Each block of weights is made where it is needed, forward and again backward,
    and its mask with it, from the key and the block's place. What is kept for the backward pass is
    the output and a number for each query and head; scratch memory grows with the length.

    Products are summed in float32 at least, and the softmax is taken in it, whatever the dtype. A
    query that may attend to no key gives 0 and gradients of 0, where Flax gives the mean of all
    values. Blocks in which nothing is attended to are skipped: with `is_causal`, and by a `mask`
    that is a NumPy array or the same for the whole batch and all heads. Derivatives are those of
    reverse mode, and where blocks are skipped the first ones alone.

    Args:
      query: [*batch, queries, heads, depth].
      key: [*batch, keys, heads, depth]; its heads may be fewer, each for a group of query's.
      value: [*batch, keys, heads, features]; as of key, its heads may be fewer.
      bias: added before the softmax; it spreads over [*batch, heads, queries, keys], and has a
        gradient of its own.
      mask: True where a query may attend; it spreads over [*batch, heads, queries, keys]. One of
        queries by keys is memory of that size: for causal attention give `is_causal` in its place,
        for padding a mask [*batch, 1, 1, keys].
      broadcast_dropout: one draw per query and key, shared by the batch and by all heads; False:
        one per weight. Not looked at if noise_shape or broadcast_dims is given.
      dropout_rng: one JAX PRNG key; consumed. None will do where nothing is drawn. Masks that have
        draws of their own along queries and keys need a key whose masks can be drawn in parts, as
        `mask_block` does (threefry, JAX's default, or `fast_key`).
      dropout_rate: probability to drop a weight, in [0, 1]; a number or a scalar array
        (clipped to [0, 1]; NaN drops all). A layer passes its own, which must be a number.
      deterministic: True drops nothing.
      dtype: of the computation; None: of the inputs.
      precision: see `jax.lax.Precision`.
      module: must be None, since there are no whole weights to sow.
      promote_dtype: brings (query, key, value) to one dtype.
      is_causal: True: query i attends to keys 0 to i. A layer passes its own, given at its call
        (before Flax 0.12.8 it has none, and a functools.partial binds it). Not for a layer that
        decodes, which asks one query at a time and masks by itself: one query and several keys are
        refused.
      noise_shape: the shape of the mask, one entry for each axis of the weights [*batch, heads,
        queries, keys]: None for a draw per index, 1 for a shared one.
      broadcast_dims: the same, said with the axes of the weights that share a draw, such as (-2,)
        for the queries. At most one of the two may be given.
      span: how many keys in a row share a fate; spans begin anywhere, and the rate is met as
        `drop_block` meets it.
      query_block_size: how many queries a block of weights has; more than there are means all.
      key_block_size: how many keys it has. Both are for speed and memory; best are numbers that
        divide the lengths. (What is computed is the same, but for a NaN or Inf in values that no
        query may attend to, which is gone where its whole block is skipped.)

    Returns:
      [*batch, queries, heads, features].

    Raises:
      ValueError: for shapes that do not fit, a block size below 1, a rate outside [0, 1], a missing
        dropout_rng or one whose masks cannot be drawn in parts, a noise shape or axes that do not
        fit the weights (which messages call x), a span below 1 or of keys that share a draw,
        arguments that need whole weights.
      TypeError: for complex arrays, or an argument of another type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_spatialdrop.nnx import blockwise_attention
      >>> layer = nnx.MultiHeadAttention(
      ...     num_heads=4,
      ...     in_features=8,
      ...     dropout_rate=0.1,
      ...     broadcast_dropout=False,
      ...     decode=False,
      ...     attention_fn=blockwise_attention,
      ...     rngs=nnx.Rngs(params=0, dropout=1),
      ... )
      >>> layer.train()
      >>> y = layer(jnp.ones((2, 5, 8)), is_causal=True)

    Reference: Dao et al., FlashAttention: Fast and Memory-Efficient Exact Attention with
    IO-Awareness, 2022, https://arxiv.org/abs/2205.14135; Rabe & Staats, Self-attention Does Not
    Need O(n^2) Memory, 2021, https://arxiv.org/abs/2112.05682
    """
    refuse_whole_weights(module=module)
    check_callable(promote_dtype, "promote_dtype", "a function of arrays and dtype=")
    query, key, value = check_operands(query, key, value, dtype=dtype, precision=precision)
    query, key, value = promote_dtype((query, key, value), dtype=dtype)
    check_attention(query, key, value, grouped=True)
    dropout_rate = check_rate(dropout_rate, "dropout_rate")
    dropout = weights_dropout(
        query,
        key,
        dropout_rng,
        dropout_rate,
        deterministic=deterministic,
        broadcast_dropout=broadcast_dropout,
        noise_shape=noise_shape,
        broadcast_dims=broadcast_dims,
        span=span,
    )
    return blockwise(
        query,
        key,
        value,
        bias,
        mask,
        dropout,
        is_causal=is_causal,
        query_block_size=query_block_size,
        key_block_size=key_block_size,
        precision=precision,
    )
