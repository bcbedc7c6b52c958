"""Dropout in attention: the module that drops heads, and Flax's attention with a noise shape."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .._apply import Recipe, widened
from .._attention.blockwise import blockwise, refuse_whole_weights
from .._attention.dropout import (
    check_attention,
    check_operands,
    check_sown,
    over_weights,
    weights_dropout,
    weights_shape,
)
from .._checks import check_callable, check_input, check_rate, check_switch
from .._compat import linen_promote_dtype as promote_dtype
from .._noise_shape import head_noise_shape
from .._typing import Key, NoiseShape, Rate
from ._base import Regularizer


class HeadDropout(Regularizer):
    """Drops whole attention heads: one draw per sample and head.

        y[b, t, h, f] = x[b, t, h, f] * m[b, h] / (1 - rate),   m[b, h] ~ Bernoulli(1 - rate)

    The module of `flax_spatialdrop.head_dropout`. In an attention layer of Flax its place is
    behind the `attention_fn`. Flax passes that only the arguments which its signature names, so
    one that takes `**kwargs` must say whose they are, or it gets no mask: `functools.wraps` does.

    Attributes:
      rate: probability to drop, in [0, 1]; a number or a scalar array;
        None if each call gives one.
      head_axis: the axis of heads; -3 for attention weights [*batch, heads, queries, keys].
      batch_dims: how many leading axes are batch axes (default 1).
      deterministic: True returns the inputs as they are; to be given here or at the call.
      rng_collection: the name of the stream that the key is asked of (default "dropout").

    Example:
      >>> import functools, flax.linen as nn, jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import HeadDropout
      >>> class Block(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x, train):
      ...         @functools.wraps(nn.dot_product_attention)
      ...         def attention_fn(*args, **kwargs):
      ...             heads = nn.dot_product_attention(*args, **kwargs)
      ...             return HeadDropout(0.2, deterministic=not train)(heads)
      ...         return x + nn.MultiHeadDotProductAttention(4, attention_fn=attention_fn)(x)
      >>> x = jnp.ones((2, 5, 8))
      >>> variables = Block().init(jax.random.key(0), x, train=False)
      >>> y = Block().apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)})

    Reference: Zhou et al., Scheduled DropHead: A Regularization Method for Transformer Models,
    2020, https://arxiv.org/abs/2004.13342
    """

    rate: Rate | None
    head_axis: int = -2
    batch_dims: int = 1
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    @nn.nowrap
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
    module: nn.Module | None = None,
    force_fp32_for_softmax: bool = False,
    einsum_dot_general: Callable[..., jax.Array] | None = None,
    qk_attn_weights_einsum: Callable[..., jax.Array] | None = None,
    attn_weights_value_einsum: Callable[..., jax.Array] | None = None,
    *,
    noise_shape: NoiseShape | None = None,
    broadcast_dims: Sequence[int] | None = None,
    span: int = 1,
) -> jax.Array:
    """Flax's dot-product attention, whose weights are dropped with any noise shape.

        w = softmax(query key^T / sqrt(depth)),   y = (w * m / (1 - rate)) value

    In place of `flax.linen.dot_product_attention`, as the `attention_fn` of a layer too: every
    argument of Flax's own, in its place, with the same meaning, the same mask for the same key
    and in float32 the same values. The mask is kept in noise shape, or not at all where each weight
    has a draw of its own; in half precision the weights are scaled in float32.

    Args:
      query: [*batch, queries, heads, depth].
      key: [*batch, keys, heads, depth].
      value: [*batch, keys, heads, features].
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
      force_fp32_for_softmax: the softmax in float32, and its weights stay so.
      einsum_dot_general: the dot_general of the einsums.
      qk_attn_weights_einsum: in place of jnp.einsum, for the weights; given with the next.
      attn_weights_value_einsum: in place of jnp.einsum, for the output.
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
        shapes that do not fit, einsums that Flax refuses.
      TypeError: for an argument of another type.

    Example:
      >>> import functools, flax.linen as nn, jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import dot_product_attention
      >>> layer = nn.MultiHeadDotProductAttention(
      ...     num_heads=4,
      ...     dropout_rate=0.1,
      ...     attention_fn=functools.partial(dot_product_attention, broadcast_dims=(-2,)),
      ... )
      >>> x = jnp.ones((2, 5, 8))
      >>> params = layer.init(jax.random.key(0), x, deterministic=True)
      >>> rngs = {"dropout": jax.random.key(1)}
      >>> y = layer.apply(params, x, deterministic=False, rngs=rngs)

    Reference: Vaswani et al., Attention Is All You Need, 2017, https://arxiv.org/abs/1706.03762;
    Lin Zehui et al., DropAttention: A Regularization Method for Fully-Connected Self-Attention
    Networks, 2019, https://arxiv.org/abs/1907.11065 (of keys and spans of them; there the weights
    are normalized again)
    """
    query, key, value = check_operands(query, key, value, dtype=dtype, precision=precision)
    query, key, value = promote_dtype(query, key, value, dtype=dtype)
    check_attention(query, key, value, grouped=False)
    bias, mask = over_weights(bias, mask, weights_shape(query, key))
    force_fp32_for_softmax = check_switch(force_fp32_for_softmax, "force_fp32_for_softmax")
    _check_einsums(
        precision,
        einsum_dot_general=einsum_dot_general,
        qk_attn_weights_einsum=qk_attn_weights_einsum,
        attn_weights_value_einsum=attn_weights_value_einsum,
    )
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
    if dropout is not None:
        value = dropout.of_values(value, query.shape[-2])
        if not (qk_attn_weights_einsum or attn_weights_value_einsum):
            dot_general = einsum_dot_general or jax.lax.dot_general
            einsum = partial(jnp.einsum, precision=precision, _dot_general=dot_general)
            qk_attn_weights_einsum = attn_weights_value_einsum = einsum
            precision = einsum_dot_general = None
        if attn_weights_value_einsum:
            attn_weights_value_einsum = _after(dropout.of_weights, attn_weights_value_einsum)
    y = nn.dot_product_attention(
        query,
        key,
        value,
        bias,
        mask,
        deterministic=True,
        dtype=dtype,
        precision=precision,
        module=module,
        force_fp32_for_softmax=force_fp32_for_softmax,
        einsum_dot_general=einsum_dot_general,
        qk_attn_weights_einsum=qk_attn_weights_einsum,
        attn_weights_value_einsum=attn_weights_value_einsum,
    )
    return y if dropout is None else dropout.of_outputs(y)


def _check_einsums(precision: Any, **functions: Callable[..., jax.Array] | None) -> None:
    given = [name for name, function in functions.items() if function is not None]
    for name in given:
        check_callable(functions[name], name, "None or a function")
    own = [name for name in given if name != "einsum_dot_general"]
    if len(own) == 1:
        raise ValueError(
            "qk_attn_weights_einsum and attn_weights_value_einsum must be specified together: "
            f"got {own[0]} alone"
        )
    if own and (precision is not None or len(given) > len(own)):
        raise ValueError(
            "qk_attn_weights_einsum and attn_weights_value_einsum are mutually exclusive with "
            "precision and einsum_dot_general: got both"
        )


def _after(
    drop_weights: Callable[[jax.Array], jax.Array], einsum: Callable[..., jax.Array]
) -> Callable[..., jax.Array]:
    """The einsum of weights and values, once weights are dropped: the one place between them."""
    return lambda equation, weights, value: einsum(equation, drop_weights(weights), value)


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
