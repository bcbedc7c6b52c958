"""Dropout in attention: the module that drops heads, and Flax's attention with a noise shape."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .._apply import widened
from .._attention.arguments import DropoutOptions, Inputs, check_einsums, check_inputs
from .._attention.blockwise import blockwise, refuse_whole_weights
from .._attention.dropout import AttentionDropout, dot_product
from .._attention.scores import capped
from .._checks import check_switch
from .._compat import linen_promote_dtype
from .._docs import completed_by
from .._ops.dropout import head_dropout, head_recipe
from .._typing import AxisNames, Key, NoiseShape, Rate, SegmentIds, Window
from ._base import Regularizer


class HeadDropout(Regularizer, of=head_dropout, recipe=head_recipe):
    """The module of `flax_spatialdrop.head_dropout`.

    Call it on what the `attention_fn` of a layer returns. Flax passes an `attention_fn` only the
    arguments in its signature: one that takes `**kwargs` gets no mask unless it is wrapped with
    `functools.wraps`, as here.

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
    """

    rate: Rate | None
    head_axis: int = -2
    batch_dims: int = 1
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    axis_name: AxisNames | None = None


def _promote_dtype(arrays: Any, *, dtype: Any) -> Any:
    return linen_promote_dtype(*arrays, dtype=dtype)


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
    module: nn.Module | None = None,
    force_fp32_for_softmax: bool = False,
    einsum_dot_general: Callable[..., jax.Array] | None = None,
    qk_attn_weights_einsum: Callable[..., jax.Array] | None = None,
    attn_weights_value_einsum: Callable[..., jax.Array] | None = None,
    *,
    segment_ids: SegmentIds | None = None,
    window: Window | None = None,
    soft_cap: float | None = None,
    noise_shape: NoiseShape | None = None,
    broadcast_dims: Sequence[int] | None = None,
    span: int = 1,
    axis_name: AxisNames | None = None,
) -> jax.Array:
    """Flax's own function is `flax.linen.dot_product_attention`.

    Args:
      key: [*batch, keys, heads, depth].
      value: [*batch, keys, heads, features].
      force_fp32_for_softmax: True computes the softmax in float32, and its weights stay so.
      einsum_dot_general: the dot_general of the einsums.
      qk_attn_weights_einsum: in place of jnp.einsum, for the weights; given with the next.
      attn_weights_value_einsum: in place of jnp.einsum, for the output.

    Example:
      >>> import functools, flax.linen as nn, jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import dot_product_attention
      >>> attention_fn = functools.partial(dot_product_attention, broadcast_dims=(-2,))
      >>> layer = nn.MultiHeadDotProductAttention(4, dropout_rate=0.1, attention_fn=attention_fn)
      >>> x = jnp.ones((2, 5, 8))
      >>> params = layer.init(jax.random.key(0), x, deterministic=True)
      >>> rngs = {"dropout": jax.random.key(1)}
      >>> y = layer.apply(params, x, deterministic=False, rngs=rngs)
    """
    x = Inputs(query, key, value, bias, mask, dtype, precision, module)
    x = x._replace(segment_ids=segment_ids, window=window, soft_cap=soft_cap)
    x = check_inputs(x, _promote_dtype, grouped=False)
    force_fp32_for_softmax = check_switch(force_fp32_for_softmax, "force_fp32_for_softmax")
    einsums = {
        "einsum_dot_general": einsum_dot_general,
        "qk_attn_weights_einsum": qk_attn_weights_einsum,
        "attn_weights_value_einsum": attn_weights_value_einsum,
    }
    check_einsums(precision, einsums)
    options = DropoutOptions(
        dropout_rate, deterministic, broadcast_dropout, noise_shape, broadcast_dims, span, axis_name
    )

    def attend(x: Inputs, dropout: AttentionDropout) -> jax.Array:
        y: jax.Array = nn.dot_product_attention(
            *x.arrays,
            deterministic=True,
            dtype=dtype,
            module=module,
            force_fp32_for_softmax=force_fp32_for_softmax,
            **_with_cap_and_dropout(x.soft_cap, dropout, precision, **einsums),
        )
        return y

    return dot_product(attend, dropout_rng, x, options)


def _with_cap_and_dropout(
    soft_cap: float | None, dropout: AttentionDropout, precision: Any, **einsums: Any
) -> dict[str, Any]:
    """Flax's arguments, with einsums that cap the scores, and drop weights before the values."""
    einsum = einsums["attn_weights_value_einsum"]
    if not dropout.active and soft_cap is None:
        return {"precision": precision, **einsums}
    if einsum is None:
        dot_general = einsums["einsum_dot_general"] or jax.lax.dot_general
        einsum = partial(jnp.einsum, precision=precision, _dot_general=dot_general)
    einsum_of_scores = einsums["qk_attn_weights_einsum"] or einsum
    return {
        "qk_attn_weights_einsum": lambda equation, query, key: capped(
            einsum_of_scores(equation, query, key), soft_cap
        ),
        "attn_weights_value_einsum": lambda equation, weights, value: einsum(
            equation, dropout.drop_weights(weights), value
        ),
    }


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
    module: nn.Module | None = None,
    force_fp32_for_softmax: bool = False,
    einsum_dot_general: Callable[..., jax.Array] | None = None,
    qk_attn_weights_einsum: Callable[..., jax.Array] | None = None,
    attn_weights_value_einsum: Callable[..., jax.Array] | None = None,
    *,
    is_causal: bool = False,
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
    """Flax's own function is `flax.linen.dot_product_attention`.

    Args:
      force_fp32_for_softmax: True sums values in float32, and the output stays so.
      einsum_dot_general: must be None, since there is no product of whole weights.
      qk_attn_weights_einsum: must be None, as einsum_dot_general.
      attn_weights_value_einsum: must be None, as einsum_dot_general.

    Example:
      >>> import functools, flax.linen as nn, jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import blockwise_attention
      >>> attention_fn = functools.partial(blockwise_attention, is_causal=True)
      >>> options = {"dropout_rate": 0.1, "broadcast_dropout": False}
      >>> layer = nn.MultiHeadDotProductAttention(4, attention_fn=attention_fn, **options)
      >>> x = jnp.ones((2, 5, 8))
      >>> params = layer.init(jax.random.key(0), x, deterministic=True)
      >>> rngs = {"dropout": jax.random.key(1)}
      >>> y = layer.apply(params, x, deterministic=False, rngs=rngs)
    """
    refuse_whole_weights(
        einsum_dot_general=einsum_dot_general,
        qk_attn_weights_einsum=qk_attn_weights_einsum,
        attn_weights_value_einsum=attn_weights_value_einsum,
    )
    x = Inputs(query, key, value, bias, mask, dtype, precision, module, is_causal)
    x = x._replace(segment_ids=segment_ids, window=window, soft_cap=soft_cap)
    x = check_inputs(x, _promote_dtype)
    if check_switch(force_fp32_for_softmax, "force_fp32_for_softmax"):
        x = x._replace(value=widened(x.value))
    options = DropoutOptions(
        dropout_rate, deterministic, broadcast_dropout, noise_shape, broadcast_dims, span, axis_name
    )
    return blockwise(dropout_rng, x, options, query_block_size, key_block_size)
