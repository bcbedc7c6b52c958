"""One block of attention weights: what is attended to, how, and with which of the weights kept."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._ops.blocks import Blocks
from .._random.mask import redraw_mask
from .._random.sharding import sharding_of_part
from .._random.threefry import Words
from .._typing import Array
from .tiling import Cut, Visits


class MaskSource(NamedTuple):
    """What decides a mask: the two words of its key, and what a draw must be below."""

    words: Words
    threshold: Any


def keep_in_block(
    weights: jax.Array,
    source: MaskSource,
    spans: Blocks,
    rounds: int,
    row: jax.Array,
    column: jax.Array,
) -> jax.Array:
    """A block of weights [..., queries, keys] as they are where they are kept, else 0.

    The block begins at `row` and `column` of weights whose mask has draws of its own for each
    query and key; `spans` are those of keys that share a fate.
    """
    if spans.long_axes:
        mask = _without_spans(weights, source, spans, rounds, row, column)
    else:
        mask = _drawn(weights, source, spans, rounds, row, column, weights.shape[-1])
    return jnp.where(mask, weights, jnp.zeros_like(weights))


def _drawn(weights, source, spans, rounds, row, column, columns):
    """The draws from `row` and `column` on: True where no span begins."""
    *shared, _, _ = spans.noise_shape
    sizes = (*shared, weights.shape[-2], columns)
    start = (*(np.uint32(0) for _ in shared), row.astype(np.uint32), column.astype(np.uint32))
    like, whole = weights, spans.seed_shape
    if sizes == weights.shape:
        return redraw_mask(source.words, rounds, source.threshold, like, start, whole)
    # Drawn once, and not once more for each weight that shares it.
    like = jnp.zeros(sizes, bool, out_sharding=sharding_of_part(weights, sizes))
    mask = redraw_mask(source.words, rounds, source.threshold, like, start, whole)
    return lax.optimization_barrier(mask)


def _without_spans(weights, source, spans, rounds, row, column):
    """False on the whole span of each seed, with those that begin before the block."""
    ((_, span),) = spans.long_axes
    first = column - np.int32(span - 1)
    columns = weights.shape[-1] + span - 1
    unseeded = _drawn(weights, source, spans, rounds, row, first, columns)
    place = first + jnp.arange(columns, dtype=np.int32)
    outside = (place < 0) | (place >= spans.seed_shape[-1])  # draws of another row
    mask = unseeded | jnp.expand_dims(outside, [*range(unseeded.ndim - 1)])
    reached = 1
    while reached < span:  # by doubling: no seed in 1 place, in 2, in 4 and so on
        step, length = min(reached, span - reached), mask.shape[-1]
        mask = lax.bitwise_and(
            lax.slice_in_dim(mask, 0, length - step, axis=-1),
            lax.slice_in_dim(mask, step, length, axis=-1),
        )
        reached += step
    return mask


class Plan(NamedTuple):
    """What a program is compiled for.

    Attributes:
      queries, keys: how they are cut into blocks.
      is_causal: whether a query attends to no later key.
      spans: what the mask that weights are dropped with is made of, with draws of its own for each
        query and key; None to drop nothing.
      rounds: of the hash that the mask is.
      precision: of the products.
    """

    queries: Cut
    keys: Cut
    is_causal: bool
    spans: Blocks | None
    rounds: int
    precision: Any


class Operands(NamedTuple):
    """What is attended to, and how.

    Attributes:
      query: [*batch, queries, heads, depth], already divided by sqrt(depth).
      key: [*batch, keys, heads, depth]; its heads may be fewer, each for a group of query's.
      value: [*batch, keys, heads, features]; as of key, its heads may be fewer.
      bias, mask: with as many axes as the weights, each of their size or 1; or None.
      source: of the mask that weights are dropped with; or None.
      first_row: which query of a whole the first one is, where these are a part; None for 0.
      visits: the blocks of keys that each of queries attends to, and the reverse; None: all.
    """

    query: jax.Array
    key: jax.Array
    value: jax.Array
    bias: Array | None
    mask: Array | None
    source: MaskSource | None
    first_row: jax.Array | None
    visits: tuple[Visits, Visits] | None


def scores_of(plan, x, query, key, i, j, hides_repeated=False):
    """What the softmax is taken of, -inf where a query does not attend to a key.

    The last block of keys repeats some of the one before, where the number of keys is no multiple
    of a block's: they are hidden. So are queries that repeat, if asked for.
    """
    scores = product(plan, query, key, -1, -1)
    if x.bias is not None:
        scores = scores + _part(plan, x.bias, i, j).astype(scores.dtype)
    query_place = jnp.expand_dims(plan.queries.places(i), [*range(scores.ndim - 2), -1])
    key_place = jnp.expand_dims(plan.keys.places(j), [*range(scores.ndim - 1)])
    visible = []
    if x.mask is not None:
        visible.append(_part(plan, x.mask, i, j).astype(bool))
    if plan.is_causal:
        ahead = 0 if x.first_row is None else x.first_row
        visible.append(key_place <= query_place + ahead)
    if plan.keys.repeats:
        visible.append(key_place >= plan.keys.first_new(j))
    if hides_repeated and plan.queries.repeats:
        visible.append(query_place >= plan.queries.first_new(i))
    for shown in visible:
        scores = jnp.where(shown, scores, -jnp.inf)
    return scores


def kept_of(plan, x, weights, i, j):
    """A block of weights, with 0 in the place of those that are dropped."""
    if plan.spans is None:
        return weights
    row, column = _row(plan, x, i), plan.keys.start(j)
    return keep_in_block(weights, x.source, plan.spans, plan.rounds, row, column)


def _row(plan, x, i):
    """The first query of a block, counted in the whole that masks are of."""
    row = plan.queries.start(i)
    return row if x.first_row is None else row + x.first_row


def _part(plan, array, i, j):
    """The block of a bias or mask that spreads over the weights."""
    return plan.keys.take(plan.queries.take(array, i, -2), j, -1)


def add_to_bias(plan, total, d_scores, i, j):
    """The derivative of a bias, with that of a block of scores added."""
    spread = [axis for axis, size in enumerate(total.shape) if size == 1]
    part = _part(plan, total, i, j) + d_scores.sum(spread, keepdims=True)
    place = plan.queries.start(i), plan.keys.start(j)
    zero = np.int32(0)
    start = [zero if size == 1 else at for size, at in zip(total.shape[-2:], place, strict=True)]
    return lax.dynamic_update_slice(total, part, [zero] * (total.ndim - 2) + start)


def product(plan, a, b, axis_a, axis_b):
    """[..., rest of a, rest of b]: summed over one of their last axes, in float32 at least."""
    batch = tuple(range(a.ndim - 2))
    summed = ((a.ndim + axis_a,), (b.ndim + axis_b,))
    wide = widened_dtype(a)
    return lax.dot_general(a, b, (summed, (batch, batch)), plan.precision, wide)


def widened_dtype(array):
    """The dtype to sum in: float32, or float64 if the array is."""
    return jnp.float64 if array.dtype == jnp.float64 else jnp.float32
