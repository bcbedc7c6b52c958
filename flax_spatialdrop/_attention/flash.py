"""Attention block by block, forward and backward, without ever holding all weights.

The forward pass is the online softmax (Milakov & Gimelshein, 2018). It loops over blocks of keys,
and keeps three values for each query: the largest score m so far, the sum of exp(score - m), and
the sum of exp(score - m) * mask * value. At the end, the last sum is divided by the one before. For
the backward pass it keeps L = log(sum of exp(score)) for each query. From it the backward pass
computes each tile of weights again as exp(score - L) (Dao et al., FlashAttention, 2022), and draws
its mask again.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from .._apply import CHECKPOINT_NAME
from .._checks import is_symbolic
from .._typing import Shape
from . import kernel
from .choice import by_kernel_or_blocks
from .kernel_call import Places
from .tile import (
    Operands,
    TilePlan,
    add_to_bias,
    kept_of,
    product,
    scores_of,
    widened_dtype,
)
from .tiling import Tiling, Visits, visited


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(plan: TilePlan, operands: Operands) -> jax.Array:
    """Returns softmax(query key^T + bias) value, with dropped weights set to 0.

    The output is [*batch, queries, heads, features] in value's dtype. It is 0 for a query that
    attends to no key.
    """
    return _forward(plan, operands)[0]


def _forward(plan: TilePlan, x: Operands) -> tuple[jax.Array, jax.Array]:
    y, log_sums = by_kernel_or_blocks(kernel.forward, _forward_blocks, plan, x)
    return checkpoint_name(y, CHECKPOINT_NAME), checkpoint_name(log_sums, CHECKPOINT_NAME)


def _forward_blocks(plan: TilePlan, x: Operands) -> tuple[jax.Array, jax.Array]:
    """Returns the outputs, and log(sum of exp(scores)) of each query, [*batch, heads, queries]."""
    heads, wide, features = x.query.shape[-2], widened_dtype(x.query), x.value.shape[-1]
    by_query, _ = x.visits or (None, None)

    def query_block(i: jax.Array, carry: Any) -> Any:
        query = _take(plan.queries, x.query, i)

        def key_block(t: jax.Array, state: Any) -> Any:
            largest, total, sums = state
            j = visited(by_query, i, t)
            key, value = (_repeat_heads(_take(plan.keys, a, j), heads) for a in (x.key, x.value))
            scores, _ = scores_of(plan, x, query, key, i, j)
            new = lax.max(largest, scores.max(-1))
            reference = jnp.where(new > -jnp.inf, new, jnp.zeros_like(new))
            weights = jnp.exp(scores - reference[..., None])
            faded = jnp.exp(largest - reference)
            kept = kept_of(plan, x, weights, i, j).astype(value.dtype)
            sums = sums * faded[..., None] + product(plan, kept, value, -1, -2)
            return new, total * faded + weights.sum(-1), sums

        # Derived from the query, so that they have its sharding on a mesh of explicit axes.
        per_query = jnp.zeros_like(query[..., 0], wide)
        sums = _zeros(query, (*per_query.shape, features), wide)
        start = (per_query - jnp.inf, per_query, sums)
        largest, total, sums = _loop(by_query, plan.keys, i, key_block, start)
        attends = total != 0  # True also for NaN
        total = jnp.where(attends, total, jnp.ones_like(total))
        outputs = jnp.swapaxes(sums / total[..., None], -2, -3).astype(x.value.dtype)
        log_sums = jnp.where(attends, largest + jnp.log(total), jnp.inf)
        y, kept_sums = carry
        return plan.queries.put(y, outputs, i, -3), plan.queries.put(kept_sums, log_sums, i, -1)

    y = _zeros(x.query, (*x.query.shape[:-1], features), x.value.dtype)
    log_sums = jnp.zeros_like(jnp.swapaxes(x.query[..., 0], -1, -2), wide)
    y, log_sums = lax.fori_loop(0, _count(plan.queries), query_block, (y, log_sums))
    return y, log_sums


def _forward_and_kept(plan: TilePlan, x: Operands) -> tuple[jax.Array, Any]:
    y, log_sums = _forward(plan, x)
    return y, (x, y, log_sums)


def _backward(plan: TilePlan, kept: Any, d_y: jax.Array) -> tuple[Operands]:
    x, y, log_sums = kept
    wide = widened_dtype(x.query)
    # FlashAttention's D: for each query, the sum of its weights times their derivatives.
    deltas = jnp.swapaxes((y.astype(wide) * d_y.astype(wide)).sum(-1), -1, -2)
    ways = _backward_kernel, _backward_blocks
    gradients = by_kernel_or_blocks(*ways, plan, x, log_sums, deltas, d_y)
    nothing = x._replace(**dict.fromkeys(x._fields))
    return (nothing._replace(**gradients),)


attend.defvjp(_forward_and_kept, _backward)


def _backward_kernel(
    plan: TilePlan,
    x: Operands,
    places: Places | None,
    log_sums: jax.Array,
    deltas: jax.Array,
    d_y: jax.Array,
) -> dict[str, jax.Array | None]:
    """As `_backward_blocks`, which computes the gradient of the bias, if a program needs it."""
    d_query, d_key, d_value = kernel.backward(plan, x, places, log_sums, deltas, d_y)
    d_bias = None
    if x.bias is not None:
        d_bias = _backward_blocks(plan, x, log_sums, deltas, d_y)["bias"]
    return {"query": d_query, "key": d_key, "value": d_value, "bias": d_bias}


def _backward_blocks(
    plan: TilePlan, x: Operands, log_sums: jax.Array, deltas: jax.Array, d_y: jax.Array
) -> dict[str, jax.Array | None]:
    """Returns the gradients of the operands that have one, by their names."""
    wide, heads = widened_dtype(x.query), x.query.shape[-2]
    _, by_key = x.visits or (None, None)

    def key_block(j: jax.Array, carry: Any) -> Any:
        key, value = (_take(plan.keys, array, j) for array in (x.key, x.value))
        all_keys, all_values = _repeat_heads(key, heads), _repeat_heads(value, heads)

        def query_block(t: jax.Array, state: Any) -> Any:
            d_query, d_bias, d_key, d_value = state
            i = visited(by_key, j, t)
            query, d_out = (_take(plan.queries, array, i) for array in (x.query, d_y))
            log_sum, delta = (plan.queries.take(array, i, -1) for array in (log_sums, deltas))
            scores, slope = scores_of(plan, x, query, all_keys, i, j, hides_repeated=True)
            weights = jnp.exp(scores - log_sum[..., None])
            # Without the barrier, XLA may draw the mask again for each use of the tile.
            kept = lax.optimization_barrier(kept_of(plan, x, weights, i, j))
            d_weights = product(plan, d_out, all_values, -1, -1)
            d_scores = kept * d_weights - weights * delta[..., None]
            if d_bias is not None:
                d_bias = add_to_bias(plan, d_bias, d_scores, i, j)
            if slope is not None:
                d_scores = d_scores * slope
            kept, d_scores = kept.astype(value.dtype), d_scores.astype(query.dtype)
            d_value = d_value + _sum_groups(product(plan, kept, d_out, -2, -2), value.shape)
            d_key = d_key + _sum_groups(product(plan, d_scores, query, -2, -2), key.shape)
            part = product(plan, d_scores, all_keys, -1, -2)
            return plan.queries.add(d_query, part, i, -2), d_bias, d_key, d_value

        d_query, d_bias, all_d_key, all_d_value = carry
        state = (d_query, d_bias, jnp.zeros_like(key, wide), jnp.zeros_like(value, wide))
        state = _loop(by_key, plan.queries, j, query_block, state)
        d_query, d_bias, d_key, d_value = state
        d_key, d_value = (jnp.swapaxes(d, -2, -3) for d in (d_key, d_value))
        all_d_key = plan.keys.add(all_d_key, d_key, j, -3)
        return d_query, d_bias, all_d_key, plan.keys.add(all_d_value, d_value, j, -3)

    d_query = jnp.zeros_like(jnp.swapaxes(x.query, -2, -3), wide)
    d_bias = None if x.bias is None else jnp.zeros_like(x.bias, wide)
    carry = (d_query, d_bias, *map(jnp.zeros_like, (x.key, x.value)))
    d_query, d_bias, d_key, d_value = lax.fori_loop(0, _count(plan.keys), key_block, carry)
    d_query = jnp.swapaxes(d_query, -2, -3).astype(x.query.dtype)
    d_bias = None if x.bias is None else d_bias.astype(x.bias.dtype)
    return {"query": d_query, "key": d_key, "value": d_value, "bias": d_bias}


def _loop(
    visits: Visits | None,
    tiling: Tiling,
    block: jax.Array,
    body: Callable[[jax.Array, Any], Any],
    state: Any,
) -> Any:
    """Runs body(t, state) for each block of the other axis that `block` must visit."""
    count = _count(tiling) if visits is None else visits.number[block]
    return lax.fori_loop(0, count, body, state)


def _count(tiling: Tiling) -> int | jax.Array:
    """The number of blocks as the bound of a loop; a symbolic size becomes an array."""
    return jnp.asarray(tiling.number, np.int32) if is_symbolic(tiling.number) else tiling.number


def _take(tiling: Tiling, array: jax.Array, block: jax.Array) -> jax.Array:
    """Takes a block of [..., positions, heads, features]; returns [..., heads, size, features]."""
    return jnp.swapaxes(tiling.take(array, block, -3), -2, -3)


def _repeat_heads(array: jax.Array, heads: int) -> jax.Array:
    """Repeats each head for its group: [..., own heads, keys, features] to [..., heads, ...]."""
    *batch, own, keys, features = array.shape
    if own == heads:
        return array
    groups = jnp.broadcast_to(array[..., None, :, :], (*batch, own, heads // own, keys, features))
    return groups.reshape(*batch, heads, keys, features)


def _sum_groups(array: jax.Array, shape: Shape) -> jax.Array:
    """The transpose of `_repeat_heads`: sums over each group."""
    if array.shape == shape:
        return array
    *batch, own, keys, features = shape
    return array.reshape(*batch, own, -1, keys, features).sum(-3)


def _zeros(array: jax.Array, shape: Shape, dtype: Any) -> jax.Array:
    """Zeros with the sharding of an array that differs from `shape` only in the last axis."""
    return jnp.broadcast_to(jnp.zeros_like(array[..., :1], dtype), shape)
