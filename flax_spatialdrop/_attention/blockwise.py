"""Attention in blocks: checks the arguments of a call, and computes its output."""

from typing import Any

import jax
import jax.numpy as jnp

from .._checks import check_whole
from .._typing import Key
from .arguments import DropoutOptions, Inputs
from .dropout import weights_dropout
from .sharded import attend_by_shards, shard_features
from .tile import Operands, TilePlan
from .tiling import find_visits, tile_axis


def blockwise(
    dropout_rng: Key,
    x: Inputs,
    options: DropoutOptions,
    query_block_size: int,
    key_block_size: int,
) -> jax.Array:
    """Flax's dot-product attention in blocks: all weights and their mask never exist at once.

        w = softmax(query key^T / sqrt(depth)),   y = (w * m / (1 - rate)) value

    It can replace Flax's own function, also as the `attention_fn` of a layer. It takes Flax's
    arguments in the same order and with the same meaning, and the same key draws the same mask. In
    float32 the values are the same too. Each block of weights is computed in the forward pass and
    again in the backward pass, and its mask is drawn from the key and the position of the block.
    The backward pass keeps the output, and one number for each query and head. Scratch memory grows
    linearly with the length.

    On TPUs, Pallas kernels draw the same masks, and compute the same values up to rounding. They
    need float32 or bfloat16; 64, 128 or 256 features; 128 to about 130,000 queries and keys (with a
    window, up to 2^25 / features queries; with dropout, queries * keys <= 2^32); the default or
    highest precision; and a span of at most 128. They run on one device, inside of a
    `jax.shard_map` over all axes of the mesh, and on a mesh whose axes are all explicit. On such a
    mesh, the queries must not be sharded, there must be no bias, and if key and value have fewer
    heads than the query, their heads must be sharded as its heads are. The kernels choose their own
    sizes of blocks. XLA's blocks compute the rest, also the gradient of a bias. The kernels were
    compiled for TPU v5e, v5p and v6e, and interpreted on CPUs; no TPU has run them.

    Sums of products and the softmax are computed in float32 (float64 for float64). If a query may
    not attend to any key, its output and its gradients are 0; Flax returns the mean of all values.
    Blocks that are hidden completely are skipped. `is_causal`, `window` and a `mask` hide blocks,
    but the mask must be a NumPy array, or shared by the whole batch and all heads. So with a
    window, time grows with the length and not with its square. Derivatives are in reverse mode:
    `jax.jvp` of the function fails. `jax.hessian` works, and `jax.grad` of `jax.grad` does if no
    blocks are skipped.

    Args:
      bias: an array that is added before the softmax and broadcasts to [*batch, heads, queries,
        keys]. It has a gradient.
      mask: True where a query may attend to a key; broadcasts to [*batch, heads, queries, keys]. A
        mask of size [queries, keys] needs that much memory. Instead, use `is_causal` or `window`;
        for packed batches, `segment_ids`; for padding, a mask of [*batch, 1, 1, keys].
      dropout_rng: a JAX PRNG key, which the call consumes. It may be None if nothing is drawn. If
        each query and key has its own draw, it must be a key whose masks can be drawn in parts, as
        in `mask_block`: a threefry key, which is JAX's default, or a `fast_key`.
      dropout_rate: the probability to drop a weight, in [0, 1]: a number or a scalar array. An
        array is clipped to [0, 1], and NaN drops everything. A layer passes its own rate, a number.
      module: must be None, since the weights never exist as a whole and cannot be sown.
      is_causal: if True, query i attends only to keys 0 to i. Do not use it in a layer that
        decodes, which passes one query at a time and its own mask: one query with several keys is
        an error.
      query_block_size: the number of queries in a block, or all queries if there are fewer.
      key_block_size: the number of keys in a block, or all keys if there are fewer. The block sizes
        only affect speed and memory, with one exception: a NaN or Inf in a value that no query
        attends to has no effect if its whole block is skipped. Divisors of the lengths are fastest.

    Returns:
      An array of [*batch, queries, heads, features].

    Raises:
      ValueError: if shapes do not fit; if a block size is below 1; if a number for the rate is
        outside [0, 1]; if dropout_rng is missing, or its masks cannot be drawn in parts; if
        noise_shape or broadcast_dims does not fit the weights; if span is below 1, or above 1 where
        the keys share a draw; if a side of window is below 0; if soft_cap is not above 0; if an
        argument needs all weights at once.
      TypeError: if an array is complex, or an argument has the wrong type.

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
    precision = x.precision
    if precision is None:
        precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    plan = TilePlan(
        tile_axis(queries, query_block_size),
        tile_axis(keys, key_block_size),
        x.causal_window,
        x.soft_cap,
        tuple(precision) if isinstance(precision, list) else precision,  # must be hashable
    )
    value, source = dropout.prepare_tiles(x.value)
    query = x.query / jnp.sqrt(jnp.asarray(depth, x.query.dtype))
    visits = find_visits(plan.queries, plan.keys, plan.window, x.mask)
    operands = Operands(query, x.key, value, x.bias, x.mask, x.segment_ids, source, None, visits)
    y = attend_by_shards(plan, operands)
    return shard_features(dropout.drop_outputs(y), x.value)


def _check_supported(x: Inputs) -> Inputs:
    """Raises for inputs that are not supported. Makes the bias floating, so it has a derivative."""
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
            "is_causal lets a single query attend only to the first key, and a layer that decodes "
            f"passes its own mask: got one query and {keys} keys; leave is_causal out"
        )
    if x.bias is not None and not jnp.issubdtype(x.bias.dtype, jnp.floating):
        return x._replace(bias=x.bias.astype(x.query.dtype))
    return x


def refuse_whole_weights(**arguments: Any) -> None:
    """Raises if an argument of Flax is given that needs all weights at once."""
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(
                f"{name} must be None, since blockwise_attention never holds all weights and can "
                "neither sow them (sow_weights of a layer) nor pass them to a function: got "
                f"{name}={type(value).__name__}; use dot_product_attention"
            )
