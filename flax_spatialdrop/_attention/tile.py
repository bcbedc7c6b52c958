"""One block of attention weights: its scores, and which of its weights are kept."""

import dataclasses
from functools import partial
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
from .tiling import Tiling, Visits


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["words", "threshold"],
    meta_fields=["rounds", "spans"],
)
@dataclasses.dataclass(frozen=True)
class MaskSource:
    """Draws any block of the mask of weights that has a draw for each query and key.

    Attributes:
      words: the two words of the key.
      threshold: a weight is kept where its random bits are below.
      rounds: of the hash.
      spans: the mask's noise shape, and the spans of keys that are dropped together.
    """

    words: Words
    threshold: Any
    rounds: int
    spans: Blocks

    def keep(self, weights: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
        """A block [..., queries, keys] that begins at `row` and `column`, 0 where it is dropped."""
        if self.spans.long_axes:
            mask = self._outside_spans(weights, row, column)
        else:
            mask = self._draws(weights, row, column, weights.shape[-1])
        return jnp.where(mask, weights, jnp.zeros_like(weights))

    def _draws(self, weights, row, column, columns):
        """The draws from `row` and `column` on; with spans, False where one begins."""
        *shared, _, _ = self.spans.noise_shape
        sizes = (*shared, weights.shape[-2], columns)
        start = (*(np.uint32(0) for _ in shared), row.astype(np.uint32), column.astype(np.uint32))
        draw = partial(redraw_mask, self.words, self.rounds, self.threshold)
        if sizes == weights.shape:
            return draw(weights, start, self.spans.seed_shape)
        block = jnp.zeros(sizes, bool, out_sharding=sharding_of_part(weights, sizes))
        # The barrier keeps the compiler from drawing again for each weight that shares a draw.
        return lax.optimization_barrier(draw(block, start, self.spans.seed_shape))

    def _outside_spans(self, weights, row, column):
        """False on each span, also where it begins before the block.

        For spans of 3 and a block of columns 4 to 7, with s where a span begins:

            column    2  3  4  5  6  7
            draws     .  s  .  .  .  s    2 more columns on the left
            mask            0  0  1  0    1 where none of the last 3 draws is an s
        """
        ((_, span),) = self.spans.long_axes
        first = column - np.int32(span - 1)
        columns = weights.shape[-1] + span - 1
        unseeded = self._draws(weights, row, first, columns)
        position = first + jnp.arange(columns, dtype=np.int32)
        outside = (position < 0) | (position >= self.spans.seed_shape[-1])  # draws of another row
        mask = unseeded | jnp.expand_dims(outside, [*range(unseeded.ndim - 1)])
        reached = 1
        while reached < span:  # by doubling: windows of 1, 2, 4 and so on
            step, length = min(reached, span - reached), mask.shape[-1]
            mask = lax.bitwise_and(
                lax.slice_in_dim(mask, 0, length - step, axis=-1),
                lax.slice_in_dim(mask, step, length, axis=-1),
            )
            reached += step
        return mask


class TilePlan(NamedTuple):
    """What is static: a program is compiled for each.

    Attributes:
      queries, keys: how they are divided into blocks.
      is_causal: True lets query i attend to keys 0 to i only.
      precision: of the products.
    """

    queries: Tiling
    keys: Tiling
    is_causal: bool
    precision: Any


class Operands(NamedTuple):
    """The arrays.

    Attributes:
      query: [*batch, queries, heads, depth], already divided by sqrt(depth).
      key: [*batch, keys, heads, depth]. It may have fewer heads: each then serves a group of the
        query's.
      value: [*batch, keys, heads, features]. It may have fewer heads, as key.
      bias, mask: None, or as many axes as the weights, each of their size or 1.
      source: draws the mask of dropout; None if it drops no weights.
      first_row: the position of the first query where these are a part of them; None for 0.
      visits: the blocks of keys to visit for each block of queries, and the reverse; None for all.
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
    """The logits of a block, -inf where a query does not attend to a key.

    The last block of keys overlaps the one before if their number is not a multiple of the block
    size. The keys that it repeats are hidden, and so are repeated queries with `hides_repeated`.
    """
    scores = product(plan, query, key, -1, -1)
    if x.bias is not None:
        scores = scores + _block_of(plan, x.bias, i, j).astype(scores.dtype)
    query_position = jnp.expand_dims(plan.queries.positions(i), [*range(scores.ndim - 2), -1])
    key_position = jnp.expand_dims(plan.keys.positions(j), [*range(scores.ndim - 1)])
    visible = []
    if x.mask is not None:
        visible.append(_block_of(plan, x.mask, i, j).astype(bool))
    if plan.is_causal:
        ahead = 0 if x.first_row is None else x.first_row
        visible.append(key_position <= query_position + ahead)
    if plan.keys.overlaps:
        visible.append(key_position >= plan.keys.first_new(j))
    if hides_repeated and plan.queries.overlaps:
        visible.append(query_position >= plan.queries.first_new(i))
    for shown in visible:
        scores = jnp.where(shown, scores, -jnp.inf)
    return scores


def kept_of(plan, x, weights, i, j):
    """A block of weights, 0 where they are dropped."""
    if x.source is None:
        return weights
    row = plan.queries.start(i)
    row = row if x.first_row is None else row + x.first_row
    return x.source.keep(weights, row, plan.keys.start(j))


def _block_of(plan, array, i, j):
    """The block of a bias or mask that broadcasts to the weights."""
    return plan.keys.take(plan.queries.take(array, i, -2), j, -1)


def add_to_bias(plan, total, d_scores, i, j):
    """Adds the derivative of a block of scores to that of the bias."""
    shared = [axis for axis, size in enumerate(total.shape) if size == 1]
    block = _block_of(plan, total, i, j) + d_scores.sum(shared, keepdims=True)
    corner = plan.queries.start(i), plan.keys.start(j)
    zero = np.int32(0)
    start = [zero if size == 1 else at for size, at in zip(total.shape[-2:], corner, strict=True)]
    return lax.dynamic_update_slice(total, block, [zero] * (total.ndim - 2) + start)


def product(plan, a, b, axis_a, axis_b):
    """[..., rest of a, rest of b], summed over one of their last axes in float32 or float64."""
    batch = tuple(range(a.ndim - 2))
    summed = ((a.ndim + axis_a,), (b.ndim + axis_b,))
    return lax.dot_general(a, b, (summed, (batch, batch)), plan.precision, widened_dtype(a))


def widened_dtype(array):
    """The dtype to sum in: float32, or float64 if the array is."""
    return jnp.float64 if array.dtype == jnp.float64 else jnp.float32
