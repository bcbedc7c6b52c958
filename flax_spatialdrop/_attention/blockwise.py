"""Attention in blocks: from its arguments to the outputs, and where dropout is done."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from .._apply import CHECKPOINT_NAME
from .._checks import check_switch, check_whole
from .._typing import Array
from .dropout import WeightsDropout, over_weights, weights_shape
from .sharded import attend_by_shards
from .tile import Operands, Plan
from .tiling import cut, find_visits


def blockwise(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: Array | None,
    mask: Array | None,
    dropout: WeightsDropout | None,
    *,
    is_causal: Any,
    query_block_size: int,
    key_block_size: int,
    precision: Any,
) -> jax.Array:
    """Attention whose weights are never whole, [*batch, queries, heads, features].

    Of arguments with a common dtype; `dropout` is None where nothing is dropped.
    """
    shape = weights_shape(query, key)
    query_block_size = check_whole(query_block_size, "query_block_size", least=1, unit="query")
    key_block_size = check_whole(key_block_size, "key_block_size", least=1, unit="key")
    is_causal = check_switch(is_causal, "is_causal")
    bias, mask = over_weights(bias, mask, shape)
    _check_real(query=query, key=key, value=value, bias=bias)
    if bias is not None and not jnp.issubdtype(bias.dtype, jnp.floating):
        bias = bias.astype(query.dtype)  # so that it may have a derivative
    if query.shape[-1] == 0:
        raise ValueError(f"query and key must have features: got query.shape={query.shape}")
    *_, heads, queries, keys = shape
    if is_causal and queries == 1 != keys:
        raise ValueError(
            "is_causal lets the first query attend to the first key alone, and a layer that "
            f"decodes masks by itself: got one query and {keys} keys; leave is_causal out"
        )
    if 0 in (*shape, value.shape[-1]):
        return jnp.zeros((*query.shape[:-1], value.shape[-1]), value.dtype)
    queries_cut, keys_cut = cut(queries, query_block_size), cut(keys, key_block_size)
    source, rounds, spans = None, 0, None
    if dropout is not None:
        value = dropout.of_values(value, heads)
        if dropout.place == "weights":
            (source, rounds), spans = dropout.take_source(), dropout.spans
            value = dropout.scaled(value)
    operands = Operands(
        query / jnp.sqrt(jnp.asarray(query.shape[-1], query.dtype)),
        key,
        value,
        bias,
        mask,
        source,
        None,
        find_visits(queries_cut, keys_cut, is_causal, mask),
    )
    precision = tuple(precision) if isinstance(precision, list) else precision  # to be hashed
    plan = Plan(queries_cut, keys_cut, is_causal, spans, rounds, precision)
    y = attend_by_shards(plan, operands)
    y = checkpoint_name(y, CHECKPOINT_NAME)
    return y if dropout is None else dropout.of_outputs(y)


def refuse_whole_weights(**arguments: Any) -> None:
    """Raises for an argument of Flax's that needs the whole weights."""
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(
                f"{name} must be None, since blockwise_attention never has the whole weights, "
                f"which are sown (sow_weights of a layer) or multiplied by it: got {name}="
                f"{type(value).__name__}; use dot_product_attention"
            )


def _check_real(**arrays: Any) -> None:
    for name, array in arrays.items():
        if array is not None and jnp.issubdtype(array.dtype, jnp.complexfloating):
            raise TypeError(
                f"blockwise_attention takes real arrays: got {name} of {array.dtype}; "
                "use dot_product_attention"
            )
