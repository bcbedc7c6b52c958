"""Dropout in attention: the module that drops heads, and Flax's attention with a noise shape."""

from collections.abc import Sequence
from dataclasses import KW_ONLY
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import PromoteDtypeFn

from .._attention.arguments import DropoutOptions, Inputs, check_inputs
from .._attention.blockwise import blockwise
from .._attention.dropout import AttentionDropout, dot_product
from .._attention.whole import capped_weights
from .._checks import is_static
from .._compat import nnx_attention_weights as dot_product_attention_weights
from .._compat import nnx_promote_dtype as promote_as_flax_does
from .._docs import completed_by
from .._ops.dropout import head_dropout, head_recipe
from .._typing import AxisNames, Key, NoiseShape, Rate, SegmentIds, Window
from ._base import Regularizer


class HeadDropout(Regularizer, of=head_dropout, recipe=head_recipe):
    """The module of `flax_spatialdrop.head_dropout`.

    Call it on what the `attention_fn` of a layer returns. Make the `attention_fn` a module, so that
    the stream and the mode are part of the model.

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
    """

    _: KW_ONLY
    head_axis: int = -2
    batch_dims: int = 1


@completed_by(dot_product, Inputs, DropoutOptions)
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
    segment_ids: SegmentIds | None = None,
    window: Window | None = None,
    soft_cap: float | None = None,
    noise_shape: NoiseShape | None = None,
    broadcast_dims: Sequence[int] | None = None,
    span: int = 1,
    axis_name: AxisNames | None = None,
) -> jax.Array:
    """Flax's own function is `flax.nnx.dot_product_attention`.

    Args:
      promote_dtype: brings (query, key, value) to one dtype.

    Example:
      >>> import functools, jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_spatialdrop.nnx import dot_product_attention
      >>> attention_fn = functools.partial(dot_product_attention, broadcast_dims=(-2,))
      >>> options = {"dropout_rate": 0.1, "decode": False, "rngs": nnx.Rngs(params=0, dropout=1)}
      >>> layer = nnx.MultiHeadAttention(4, 8, attention_fn=attention_fn, **options)
      >>> layer.train()
      >>> y = layer(jnp.ones((2, 5, 8)))
    """
    x = Inputs(query, key, value, bias, mask, dtype, precision, module, is_causal)
    x = x._replace(segment_ids=segment_ids, window=window, soft_cap=soft_cap)
    x = check_inputs(x, promote_dtype)
    options = DropoutOptions(
        dropout_rate, deterministic, broadcast_dropout, noise_shape, broadcast_dims, span, axis_name
    )

    def attend(x: Inputs, dropout: AttentionDropout) -> jax.Array:
        shared: dict[str, Any] = {
            "deterministic": True,
            "precision": precision,
            "module": module,
            "promote_dtype": promote_dtype,
            "is_causal": x.is_causal,
        }
        if not dropout.active and x.soft_cap is None:
            # At a rate of 0 Flax takes a faster path, which needs equal shapes of key and value.
            # Any other rate takes the general path, but Flax refuses 1.
            is_fast = is_static(dropout.rate, 0.0) and x.key.shape == x.value.shape
            shared |= {"dropout_rate": 0.0 if is_fast else 0.5, "dtype": dtype}
            y: jax.Array = nnx.dot_product_attention(*x.arrays, **shared)
            return y
        if x.soft_cap is None:
            weights = dot_product_attention_weights(
                x.query, x.key, x.bias, x.mask, dtype=x.query.dtype, **shared
            )
        else:
            weights = capped_weights(x)
            if module is not None:
                module.sow(nnx.Intermediate, "attention_weights", weights)
        return _sum_values(dropout.drop_weights(weights), x.value, precision)

    return dot_product(attend, dropout_rng, x, options)


def _sum_values(weights: jax.Array, value: jax.Array, precision: Any) -> jax.Array:
    """The outputs, as in Flax; a group of heads may share its values."""
    heads, value_heads = weights.shape[-3], value.shape[-2]
    if heads == value_heads:
        return jnp.einsum("...hqk,...khd->...qhd", weights, value, precision=precision)
    groups = (*weights.shape[:-3], value_heads, heads // value_heads, *weights.shape[-2:])
    y = jnp.einsum("...hgqk,...khd->...qhgd", weights.reshape(groups), value, precision=precision)
    return y.reshape(*y.shape[:-3], heads, y.shape[-1])


@completed_by(blockwise, Inputs, DropoutOptions)
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
    segment_ids: SegmentIds | None = None,
    window: Window | None = None,
    soft_cap: float | None = None,
    noise_shape: NoiseShape | None = None,
    broadcast_dims: Sequence[int] | None = None,
    span: int = 1,
    axis_name: AxisNames | None = None,
    query_block_size: int = 512,
    key_block_size: int = 512,
) -> jax.Array:
    """Flax's own function is `flax.nnx.dot_product_attention`.

    Args:
      promote_dtype: brings (query, key, value) to one dtype.
      is_causal: True lets query i attend to keys 0 to i only. A layer passes the `is_causal` of its
        call (before Flax 0.12.8 it has none: bind it with functools.partial). Not for a layer that
        decodes: it passes one query at a time and its own mask. One query with several keys is an
        error.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_spatialdrop.nnx import blockwise_attention
      >>> rngs = nnx.Rngs(params=0, dropout=1)
      >>> options = {"dropout_rate": 0.1, "broadcast_dropout": False, "decode": False}
      >>> layer = nnx.MultiHeadAttention(
      ...     4, 8, attention_fn=blockwise_attention, **options, rngs=rngs
      ... )
      >>> layer.train()
      >>> y = layer(jnp.ones((2, 5, 8)))  # and is_causal=True, from Flax 0.12.8 on
    """
    x = Inputs(query, key, value, bias, mask, dtype, precision, module, is_causal)
    x = x._replace(segment_ids=segment_ids, window=window, soft_cap=soft_cap)
    x = check_inputs(x, promote_dtype)
    options = DropoutOptions(
        dropout_rate, deterministic, broadcast_dropout, noise_shape, broadcast_dims, span, axis_name
    )
    return blockwise(dropout_rng, x, options, query_block_size, key_block_size)
