"""One tile of attention weights, of a block of queries and a block of keys: its scores and mask."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._ops.block_mask import Blocks
from .._random.redraw import redraw_mask
from .._random.sharding import sharding_of_part
from .._random.threefry import Index, Words
from .._typing import Array
from .scores import Sides, capped, in_window, slope_of_cap
from .tiling import Tiling, Visits


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["words", "threshold"],
    meta_fields=["rounds", "spans"],
)
@dataclasses.dataclass(frozen=True)
class MaskSource:
    """Draws any tile of a mask of weights with a draw for each query and key.

    Attributes:
      words: the two words of the key.
      threshold: see `keep_threshold`; a weight is kept if its random bits are below.
      rounds: the number of rounds of the hash.
      spans: the mask's noise shape, and the spans of keys that are dropped together.
    """

    words: Words
    threshold: Any
    rounds: int
    spans: Blocks

    def keep(self, weights: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
        """Returns a tile of weights with 0 for dropped ones; it begins at row and column."""
        if self.spans.long_axes:
            mask = self._outside_spans(weights, row, column)
        else:
            mask = self._draws(weights, row, column, weights.shape[-1])
        return jnp.where(mask, weights, jnp.zeros_like(weights))

    def _draws(
        self, weights: jax.Array, row: jax.Array, column: jax.Array, columns: int
    ) -> jax.Array:
        """The draws from row and column on. A draw of False starts a span (of size 1 or more)."""
        *shared, _, _ = self.spans.noise_shape
        sizes = (*shared, weights.shape[-2], columns)
        corner = row.astype(np.uint32), column.astype(np.uint32)
        start: tuple[Index, ...] = (*(np.uint32(0) for _ in shared), *corner)
        seeds = bool(self.spans.long_axes)
        draw = partial(redraw_mask, self.words, self.rounds, self.threshold, seeds=seeds)
        if sizes == weights.shape:
            return draw(weights, start, self.spans.seed_shape)
        tile = jnp.zeros(sizes, bool, out_sharding=sharding_of_part(weights, sizes))
        # Without the barrier, XLA may draw again for each of the weights that share a draw.
        mask: jax.Array = lax.optimization_barrier(draw(tile, start, self.spans.seed_shape))
        return mask

    def _outside_spans(self, weights: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
        """The mask, which is False on each span. A span may begin before the tile.

        For spans of 3 and a tile of columns 4 to 7, with s where a span begins:

            column    2  3  4  5  6  7
            draws     .  s  .  .  .  s    2 more columns on the left
            mask            0  0  1  0    1 where none of the last 3 draws is an s
        """
        ((_, span),) = self.spans.long_axes
        first = column - np.int32(span - 1)
        columns = weights.shape[-1] + span - 1
        no_seed = self._draws(weights, row, first, columns)
        position = first + jnp.arange(columns, dtype=np.int32)
        outside = (position < 0) | (position >= self.spans.seed_shape[-1])  # no span begins there
        mask = no_seed | jnp.expand_dims(outside, [*range(no_seed.ndim - 1)])
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
    """The static arguments of attention in blocks; a program is compiled for each plan.

    Attributes:
      queries, keys: the blocks of these axes.
      window: which keys a query attends to; causal attention is (None, 0).
      soft_cap: the limit of the scores, or None.
      precision: the precision of the products.
    """

    queries: Tiling
    keys: Tiling
    window: Sides
    soft_cap: float | None
    precision: Any


class Operands(NamedTuple):
    """The arrays that attention in blocks is computed from.

    Attributes:
      query: [*batch, queries, heads, depth], already divided by sqrt(depth).
      key: [*batch, keys, heads, depth]. It may have fewer heads than query; a head of key then
        serves a group of heads of query.
      value: [*batch, keys, heads, features]. Like key, it may have fewer heads than query.
      bias, mask: None, or an array with as many axes as the weights, each of their size or 1.
      segment_ids: None, or the ids of queries, [*batch, 1, queries, 1], and of keys, [*batch, 1, 1,
        keys], int32; axes of the batch may have size 1.
      source: draws the mask of dropout; None if no weights are dropped.
      first_row: the position of the first of these queries among all queries; None for 0.
      visits: the blocks of keys to visit for each block of queries, and the blocks of queries to
        visit for each block of keys; None to visit all.
    """

    query: jax.Array
    key: jax.Array
    value: jax.Array
    bias: Array | None
    mask: Array | None
    segment_ids: tuple[Array, Array] | None
    source: MaskSource | None
    first_row: jax.Array | None
    visits: tuple[Visits, Visits] | None


def scores_of(
    plan: TilePlan,
    x: Operands,
    query: jax.Array,
    key: jax.Array,
    i: jax.Array,
    j: jax.Array,
    hides_repeated: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """Returns the scores (logits) of a tile, -inf where a query does not attend to a key.

    The last block of keys may overlap the one before; the repeated keys are hidden. Repeated
    queries are hidden if `hides_repeated`. The second result is the derivative of a score by the
    product of query and key, or None if it is 1.
    """
    scores = capped(product(plan, query, key, -1, -1), plan.soft_cap)
    slope = None if plan.soft_cap is None else slope_of_cap(scores, plan.soft_cap)
    if x.bias is not None:
        scores = scores + _tile_of(plan, x.bias, i, j).astype(scores.dtype)
    query_position = jnp.expand_dims(plan.queries.positions(i), [*range(scores.ndim - 2), -1])
    key_position = jnp.expand_dims(plan.keys.positions(j), [*range(scores.ndim - 1)])
    visible = []
    if x.mask is not None:
        visible.append(_tile_of(plan, x.mask, i, j).astype(bool))
    if x.segment_ids is not None:
        of_queries, of_keys = (_tile_of(plan, ids, i, j) for ids in x.segment_ids)
        visible.append(of_queries == of_keys)
    ahead = np.int32(0) if x.first_row is None else x.first_row
    visible += in_window(plan.window, query_position + ahead, key_position)
    if plan.keys.overlaps:
        visible.append(key_position >= plan.keys.first_new(j))
    if hides_repeated and plan.queries.overlaps:
        visible.append(query_position >= plan.queries.first_new(i))
    for shown in visible:
        scores = jnp.where(shown, scores, -jnp.inf)
    return scores, slope


def kept_of(
    plan: TilePlan, x: Operands, weights: jax.Array, i: jax.Array, j: jax.Array
) -> jax.Array:
    """Returns a tile of weights, with dropped weights set to 0."""
    if x.source is None:
        return weights
    row = plan.queries.start(i)
    row = row if x.first_row is None else row + x.first_row
    return x.source.keep(weights, row, plan.keys.start(j))


def _tile_of(plan: TilePlan, array: Array, i: jax.Array, j: jax.Array) -> Array:
    """Takes a tile of a bias or a mask, which broadcasts to the weights."""
    return plan.keys.take(plan.queries.take(array, i, -2), j, -1)


def add_to_bias(
    plan: TilePlan, total: jax.Array, d_scores: jax.Array, i: jax.Array, j: jax.Array
) -> jax.Array:
    """Adds the derivative of a tile of scores to `total`, the derivative of the bias."""
    shared = [axis for axis, size in enumerate(total.shape) if size == 1]
    tile = _tile_of(plan, total, i, j) + d_scores.sum(shared, keepdims=True)
    corner = plan.queries.start(i), plan.keys.start(j)
    zero = np.int32(0)
    start = (zero if size == 1 else at for size, at in zip(total.shape[-2:], corner, strict=True))
    return lax.dynamic_update_slice(total, tile, [*[zero] * (total.ndim - 2), *start])


def product(plan: TilePlan, a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    """Matrix product over one of the last two axes of a and of b, summed in float32 or float64."""
    batch = tuple(range(a.ndim - 2))
    summed = ((a.ndim + axis_a,), (b.ndim + axis_b,))
    return lax.dot_general(a, b, (summed, (batch, batch)), plan.precision, widened_dtype(a))


def widened_dtype(array: jax.Array) -> Any:
    """The dtype for sums: float64 if the array is float64, else float32."""
    return jnp.float64 if array.dtype == jnp.float64 else jnp.float32
