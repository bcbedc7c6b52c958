"""Attention in blocks in place of Flax's own: memory grows with the length, not with its square."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from .._apply import widened
from .._attention.blockwise import blockwise, refuse_whole_weights
from .._attention.dropout import weights_dropout
from .._attention_input import check_attention, check_operands
from .._checks import check_rate, check_switch
from .._compat import linen_promote_dtype as promote_dtype
from .._typing import Key, NoiseShape, Rate


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
    module: nn.Module | None = None,
    force_fp32_for_softmax: bool = False,
    einsum_dot_general: Callable[..., jax.Array] | None = None,
    qk_attn_weights_einsum: Callable[..., jax.Array] | None = None,
    attn_weights_value_einsum: Callable[..., jax.Array] | None = None,
    *,
    is_causal: bool = False,
    noise_shape: NoiseShape | None = None,
    broadcast_dims: Sequence[int] | None = None,
    span: int = 1,
    query_block_size: int = 512,
    key_block_size: int = 512,
) -> jax.Array:
    """Flax's dot-product attention in blocks, whose weights and masks are never written down whole.

        w = softmax(query key^T / sqrt(depth)),   y = (w * m / (1 - rate)) value

    In place of `flax.linen.dot_product_attention`, as the `attention_fn` of a layer too: its
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
      force_fp32_for_softmax: values are weighted in float32 too, and so is the output.
      einsum_dot_general: must be None, since there is no product of whole weights.
      qk_attn_weights_einsum: must be None, as above.
      attn_weights_value_einsum: must be None, as above.
      is_causal: True: query i attends to keys 0 to i. Not for a layer that decodes, which asks one
        query at a time and masks by itself: one query and several keys are refused.
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
      >>> import functools, flax.linen as nn, jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import blockwise_attention
      >>> layer = nn.MultiHeadDotProductAttention(
      ...     num_heads=4,
      ...     dropout_rate=0.1,
      ...     broadcast_dropout=False,
      ...     attention_fn=functools.partial(blockwise_attention, is_causal=True),
      ... )
      >>> x = jnp.ones((2, 5, 8))
      >>> params = layer.init(jax.random.key(0), x, deterministic=True)
      >>> rngs = {"dropout": jax.random.key(1)}
      >>> y = layer.apply(params, x, deterministic=False, rngs=rngs)

    Reference: Dao et al., FlashAttention: Fast and Memory-Efficient Exact Attention with
    IO-Awareness, 2022, https://arxiv.org/abs/2205.14135; Rabe & Staats, Self-attention Does Not
    Need O(n^2) Memory, 2021, https://arxiv.org/abs/2112.05682
    """
    refuse_whole_weights(
        module=module,
        einsum_dot_general=einsum_dot_general,
        qk_attn_weights_einsum=qk_attn_weights_einsum,
        attn_weights_value_einsum=attn_weights_value_einsum,
    )
    query, key, value = check_operands(query, key, value, dtype=dtype, precision=precision)
    query, key, value = promote_dtype(query, key, value, dtype=dtype)
    if check_switch(force_fp32_for_softmax, "force_fp32_for_softmax"):
        value = widened(value)
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
