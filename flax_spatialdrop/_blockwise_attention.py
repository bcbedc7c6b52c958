"""Attention in blocks: the checks of its arguments, and the way from values to outputs."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from ._apply import CHECKPOINT_NAME
from ._attention import weights_shape
from ._axes import check_bool, check_whole
from ._cut import Cut, find_visits
from ._query_shards import attend_by_shards
from ._typing import Array, Shape
from ._weights_block import Operands, Plan
from ._weights_dropout import WeightsDropout


def blockwise(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: Array | None,
    mask: Array | None,
    dropout: WeightsDropout | None,
    *,
    is_causal: bool,
    query_block_size: int,
    key_block_size: int,
    precision: Any,
) -> jax.Array:
    """Attention whose weights are never whole, [*batch, queries, heads, features].

    Of arguments with a common dtype; `dropout` is None where nothing is dropped.
    """
    shape = weights_shape(query, key)
    sizes = {"query_block_size": query_block_size, "key_block_size": key_block_size}
    for name, size in sizes.items():
        if check_whole(size, name) < 1:
            raise ValueError(f"{name} must be at least 1: got {name}={size}")
    check_bool(is_causal, "is_causal")
    bias = _of_full_rank(bias, "bias", shape)
    mask = _of_full_rank(mask, "mask", shape)
    *_, heads, queries, keys = shape
    if 0 in shape:
        return jnp.zeros((*query.shape[:-1], value.shape[-1]), value.dtype)
    queries_cut = Cut(queries, min(query_block_size, queries))
    keys_cut = Cut(keys, min(key_block_size, keys))
    law, rounds, blocks = None, 0, None
    if dropout is not None:
        value = dropout.of_values(value, heads)
        if dropout.place == "weights":
            (law, rounds), blocks = dropout.law(), dropout.blocks
            value = dropout.scaled(value)
    operands = Operands(
        query / jnp.sqrt(jnp.asarray(query.shape[-1], query.dtype)),
        key,
        value,
        bias,
        mask,
        law,
        None,
        find_visits(queries_cut, keys_cut, is_causal, mask),
    )
    plan = Plan(queries_cut, keys_cut, is_causal, blocks, rounds, precision)
    y = attend_by_shards(plan, operands)
    y = checkpoint_name(y, CHECKPOINT_NAME)
    return y if dropout is None else dropout.of_outputs(y)


def refuse(**arguments: Any) -> None:
    """Raises for an argument of Flax's that needs the whole weights."""
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(
                f"{name} needs the whole weights, which blockwise_attention never has: "
                "use dot_product_attention where weights are sown or products are of your own"
            )


def check_attention(query: Any, key: Any, value: Any) -> None:
    """Raises unless query, key and value fit one another."""
    shapes = f"query.shape={query.shape}, key.shape={key.shape} and value.shape={value.shape}"
    if not query.ndim == key.ndim == value.ndim >= 3:
        raise ValueError(
            "query, key and value must have the same axes, [*batch, length, heads, features]: "
            f"got {shapes}"
        )
    if not query.shape[:-3] == key.shape[:-3] == value.shape[:-3]:
        raise ValueError(f"query, key and value must have the same batch axes: got {shapes}")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"query and key must have as many features: got {shapes}")
    if key.shape[-3] != value.shape[-3]:
        raise ValueError(f"key and value must have the same length: got {shapes}")
    heads = query.shape[-2]
    if any(own == 0 or heads % own for own in (key.shape[-2], value.shape[-2])):
        raise ValueError(f"the heads of key and of value must divide those of query: got {shapes}")


def _of_full_rank(array: Array | None, name: str, shape: Shape) -> Array | None:
    """A bias or mask with as many axes as the weights, each of their size or 1."""
    if array is None:
        return None
    missing = (1,) * (len(shape) - array.ndim)
    sizes = missing + array.shape
    if len(sizes) > len(shape) or any(
        own not in (1, size) for own, size in zip(sizes, shape, strict=True)
    ):
        raise ValueError(
            f"{name} must spread over the weights, [*batch, heads, queries, keys], which are "
            f"{shape}: got {name}.shape={array.shape}"
        )
    return array.reshape(sizes) if missing else array
