"""Which attention weights of a block are kept: the part of a mask that lies there, drawn alone."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ._block_shape import Blocks
from ._random.mask import redraw_mask
from ._random.sharding import sharding_of_part
from ._random.threefry import Words


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
