"""Attention in blocks: from the arguments of a call to its outputs."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from .._apply import CHECKPOINT_NAME
from .._checks import check_whole
from .._typing import Key
from .arguments import DropoutOptions, Inputs
from .dropout import weights_dropout
from .sharded import attend_by_shards
from .tile import Operands, TilePlan
from .tiling import find_visits, tile_axis


def blockwise(
    dropout_rng: Key,
    x: Inputs,
    options: DropoutOptions,
    query_block_size: int,
    key_block_size: int,
) -> jax.Array:
    """Flax's dot-product attention in blocks, which never holds all weights or their mask.

        w = softmax(query key^T / sqrt(depth)),   y = (w * m / (1 - rate)) value

    Takes the place of Flax's own function, as the `attention_fn` of a layer too: each argument of
    Flax's has its position and meaning, the mask for a key is the same, and so are the values in
    float32. Each block of weights is computed in the forward pass and again in the backward pass,
    and its mask is drawn from the key and the block's position. The backward pass keeps the output
    and a number for each query and head; scratch memory grows linearly with the length.

    Products are summed, and the softmax is computed, in float32 (float64 for float64). A query that
    may attend to no key gives 0 and gradients of 0, where Flax gives the mean of all values. Blocks
    in which nothing is attended to are skipped: those that `is_causal` hides, and those that a
    `mask` hides which is a NumPy array or shared by the whole batch and all heads. Only reverse
    mode is differentiable, and only once if blocks are skipped.

    Args:
      bias: is added before the softmax; broadcasts to [*batch, heads, queries, keys]. It has a
        gradient.
      mask: True where a query may attend; broadcasts to [*batch, heads, queries, keys]. A mask of
        all queries and keys takes that much memory: for causal attention use `is_causal` instead,
        and for padding a mask [*batch, 1, 1, keys].
      dropout_rng: one JAX PRNG key; consumed. May be None where nothing is drawn. A mask with a
        draw for each query and key needs a key whose masks can be drawn in parts, as in
        `mask_block` (threefry, JAX's default, or `fast_key`).
      dropout_rate: probability to drop a weight, in [0, 1]; a number or a scalar array
        (clipped to [0, 1]; NaN drops all). A layer passes its own, which must be a number.
      module: must be None, since there are no whole weights to sow.
      is_causal: True lets query i attend to keys 0 to i only. Not for a layer that decodes: it
        passes one query at a time and its own mask. One query with several keys is an error.
      query_block_size: how many queries a block has; all, if there are fewer.
      key_block_size: how many keys a block has. Both sizes affect speed and memory only, and are
        best divisors of the lengths. (One exception: a NaN or Inf in a value that no query attends
        to has no effect if its whole block is skipped.)

    Returns:
      [*batch, queries, heads, features].

    Raises:
      ValueError: for shapes that do not fit, a block size below 1, a rate outside [0, 1], a missing
        dropout_rng or one whose masks cannot be drawn in parts, a noise shape or axes that do not
        fit the weights, a span below 1 or of keys that share a draw,
        arguments that need whole weights.
      TypeError: for complex arrays, or an argument of another type.

    Reference: Dao et al., FlashAttention: Fast and Memory-Efficient Exact Attention with
    IO-Awareness, 2022, https://arxiv.org/abs/2205.14135; Rabe & Staats, Self-attention Does Not
    Need O(n^2) Memory, 2021, https://arxiv.org/abs/2112.05682
    """
    query_block_size = check_whole(query_block_size, "query_block_size", least=1, unit="query")
    key_block_size = check_whole(key_block_size, "key_block_size", least=1, unit="key")
    x = _check_supported(x)
    *_, queries, keys = x.weights_shape
    dropout = weights_dropout(dropout_rng, x, options)
    *batch_and_queries, depth = x.query.shape
    shape = (*batch_and_queries, x.value.shape[-1])
    if 0 in (*x.weights_shape, *shape):
        return jnp.zeros(shape, x.value.dtype)
    plan = TilePlan(
        tile_axis(queries, query_block_size),
        tile_axis(keys, key_block_size),
        x.is_causal,
        tuple(x.precision) if isinstance(x.precision, list) else x.precision,  # must be hashable
    )
    value, source = dropout.of_tiles(x.value)
    query = x.query / jnp.sqrt(jnp.asarray(depth, x.query.dtype))
    visits = find_visits(plan.queries, plan.keys, x.is_causal, x.mask)
    operands = Operands(query, x.key, value, x.bias, x.mask, source, None, visits)
    y = checkpoint_name(attend_by_shards(plan, operands), CHECKPOINT_NAME)
    return dropout.of_outputs(y)


def _check_supported(x: Inputs) -> Inputs:
    """Raises for inputs that need all weights at once; the bias returned has a derivative."""
    refuse_whole_weights(module=x.module)
    arrays: dict[str, Any] = {"query": x.query, "key": x.key, "value": x.value, "bias": x.bias}
    for name, array in arrays.items():
        if array is not None and jnp.issubdtype(array.dtype, jnp.complexfloating):
            raise TypeError(
                f"blockwise_attention takes real arrays: got {name} of {array.dtype}; "
                "use dot_product_attention"
            )
    if x.query.shape[-1] == 0:
        raise ValueError(f"query and key must have features: got query.shape={x.query.shape}")
    queries, keys = x.weights_shape[-2:]
    if x.is_causal and queries == 1 != keys:
        raise ValueError(
            "is_causal lets a single query attend to the first key only, and a layer that decodes "
            f"passes its own mask: got one query and {keys} keys; leave is_causal out"
        )
    if x.bias is not None and not jnp.issubdtype(x.bias.dtype, jnp.floating):
        return x._replace(bias=x.bias.astype(x.query.dtype))
    return x


def refuse_whole_weights(**arguments: Any) -> None:
    """Raises for an argument of Flax's that needs all weights at once."""
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(
                f"{name} must be None: blockwise_attention never holds all weights, so it can "
                "neither sow them (sow_weights of a layer) nor pass them to a function: got "
                f"{name}={type(value).__name__}; use dot_product_attention"
            )
