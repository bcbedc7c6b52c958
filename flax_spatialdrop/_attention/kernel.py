"""Attention in blocks as Pallas kernels for TPUs: the passes of `flash`, forward and backward.

A kernel copies tiles to the vector memory of a chip, and computes their weights and masks there:

    forward     for each block of queries, over the blocks of keys: the outputs and the log-sums
    backward    for each block of keys, over the blocks of queries: all three gradients at once; the
                gradient of all queries of a head stays in vector memory. If there are too many
                queries, a kernel runs for each piece of them.

Tiles that a window hides have no step, unless their block has no other. A tile that a mask or
segments hide is skipped when its step comes. Lengths are padded to whole blocks, and the padding is
hidden. Both passes draw the mask of dropout from the words of the key and the positions of weights.

A loop goes through a tile in parts. With dropout, the vector units are the limit. So while the loop
uses a part, it draws the next one, and in the forward pass scores it: the compiler can overlap the
units.

    kernel           what the passes compute
    kernel_blocks    how they divide their work
    kernel_call      the operands and the grid of a kernel
    kernel_tile      the scores and the products of a tile
    kernel_draws     the mask of dropout of a part
"""

import math
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import is_symbolic
from .._compat import pallas
from .kernel_blocks import LANES, LONGEST_SPAN, tiles_of
from .kernel_call import Call, Places
from .kernel_tile import Tile, precision_in_kernel
from .tile import Operands, TilePlan
from .tiling import in_reach

_DEPTHS = (64, 128, 256)
_SHORTEST = 128
"""The least length that is worth a kernel."""

_MOST_RESIDENT = 2**21
"""The numbers in the gradient of the queries of a head that stay in vector memory."""

_MOST_PIECES = 16
"""The most kernels of a backward pass, since each takes time to compile."""

_MOST_STEPS = 2**14
"""The most tiles of a head. A table in scalar memory holds their places."""


def fits(plan: TilePlan, x: Operands) -> bool:
    """Whether the kernels can compute this attention.

    If not, XLA's blocks compute it on every platform.
    """
    *batch, queries, heads, depth = x.query.shape
    keys, features = x.key.shape[-3], x.value.shape[-1]
    if any(map(is_symbolic, (*batch, queries, heads, keys))) or x.first_row is not None:
        return False
    if x.query.dtype not in (jnp.float32, jnp.bfloat16):
        return False
    if precision_in_kernel(plan.precision) is None:
        return False
    if depth not in _DEPTHS or features not in _DEPTHS or min(queries, keys) < _SHORTEST:
        return False
    if queries * depth > _MOST_PIECES * _MOST_RESIDENT:
        return False
    for by_key in (False, True):
        tiles = tiles_of(plan, x, by_key=by_key)
        if in_reach(plan.window, tiles.queries, tiles.keys).sum() > _MOST_STEPS:
            return False
    if x.source is None:
        return True
    spans = x.source.spans
    return spans.sizes[-1] <= LONGEST_SPAN and math.prod(spans.seed_shape[-2:]) <= 2**32


def forward(
    plan: TilePlan, x: Operands, places: Places | None, *, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Returns the outputs, and log(sum of exp(scores)) of each query, [*batch, heads, queries]."""
    call = Call(tiles_of(plan, x, by_key=False), x, places)
    queries, features = call.tiles.queries, x.value.shape[-1]
    call.add_result("y", (queries, features), x.value.dtype)
    call.add_result("log_sums", (1, queries), jnp.float32)
    call.add_scratch("largest", (queries.size, LANES))
    call.add_scratch("totals", (queries.size, LANES))
    call.add_scratch("sums", (queries.size, features))
    call.add_scratch("scores", (call.tiles.part_size, call.tiles.keys.size))
    call.add_scratch("tops", (call.tiles.part_size, LANES))
    y, log_sums = call.run(_forward_step, "attention_forward", interpret=interpret)
    y = jnp.swapaxes(y[..., : queries.length, :], -2, -3)
    return y, log_sums[..., 0, : queries.length]


def backward(
    plan: TilePlan,
    x: Operands,
    places: Places | None,
    log_sums: jax.Array,
    deltas: jax.Array,
    d_y: jax.Array,
    *,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the gradients of the query, the key and the value."""
    call = Call(tiles_of(plan, x, by_key=True), x, places)
    queries, keys = call.tiles.queries, call.tiles.keys
    depth, features = x.query.shape[-1], x.value.shape[-1]
    call.add("d_y", jnp.swapaxes(d_y, -2, -3), (queries, features))
    call.add("log_sums", log_sums[..., None, :], (1, queries), padding=np.inf)
    call.add("deltas", deltas[..., None, :], (1, queries))
    piece = min(queries.number, max(1, _MOST_RESIDENT // (queries.size * depth)))
    call.add_result("d_query", (piece * queries.size, depth), jnp.float32)
    for name, array in (("d_key", x.key), ("d_value", x.value)):
        is_summed = piece < queries.number or array.shape[-2] != x.query.shape[-2]
        dtype = jnp.float32 if is_summed else array.dtype
        call.add_result(name, (keys, array.shape[-1]), dtype)
    call.add_scratch("sum_key", (keys.size, depth))
    call.add_scratch("sum_value", (keys.size, features))
    d_queries: list[jax.Array] = []
    sums: Any = None
    for first in range(0, queries.number, piece):
        step, blocks = partial(_backward_step, first), range(first, first + piece)
        results = call.run(step, "attention_backward", query_blocks=blocks, interpret=interpret)
        d_query, *added = results
        d_queries.append(d_query)
        # Without the barrier, XLA may hold the gradients of all pieces before it adds them.
        sums = added if sums is None else lax.optimization_barrier([*map(jnp.add, sums, added)])
    d_query = jnp.concatenate(d_queries, -2)[..., : queries.length, :]
    d_key, d_value = map(_sum_groups, sums, (x.key, x.value))
    return jnp.swapaxes(d_query, -2, -3).astype(x.query.dtype), d_key, d_value


def _sum_groups(d: jax.Array, like: jax.Array) -> jax.Array:
    """Sums [*batch, heads, padded keys, features] over the heads that share a head of `like`."""
    *batch, length, heads, features = like.shape
    d = d[..., :length, :].reshape(*batch, heads, -1, length, features)
    d = d[..., 0, :, :] if d.shape[-3] == 1 else d.sum(-3)
    return jnp.swapaxes(d, -2, -3).astype(like.dtype)


def _forward_step(tile: Tile, is_first: jax.Array, is_last: jax.Array) -> None:
    """The online softmax of a tile."""
    pl, _ = pallas()
    refs, minus_infinity = tile.refs, -np.float32(np.inf)
    largest, totals, sums = refs["largest"], refs["totals"], refs["sums"]
    scores, tops = refs["scores"], refs["tops"]

    def start() -> None:
        largest[...] = jnp.full_like(largest, minus_infinity)
        totals[...] = jnp.zeros_like(totals)  # lane n: the total of keys n, n + 128, and so on
        sums[...] = jnp.zeros_like(sums)

    pl.when(is_first)(start)

    tiles, draws, last = tile.tiles, tile.draws, np.int32(tile.tiles.parts - 1)

    def score(part: Any, columns: slice) -> None:
        found, _ = tile.scores(tile.rows(part), columns)
        scores[:, columns] = found
        starts = range(0, found.shape[1], LANES)
        top = reduce(jnp.maximum, [found[:, start : start + LANES] for start in starts])
        tops[...] = top if columns.start == 0 else jnp.maximum(tops[...], top)

    def score_all(part: Any) -> None:
        for columns in tiles.columns:
            score(part, columns)

    def use(part: jax.Array) -> None:
        rows = tile.rows(part)
        if draws is None:
            score_all(part)
        old = largest[rows, :]
        new = jnp.maximum(old, tops[...].max(-1, keepdims=True))
        reference = jnp.where(new == minus_infinity, np.float32(0), new)
        faded = jnp.exp(old - reference)
        total, added = totals[rows, :] * faded, []
        for columns in tiles.columns:
            kept = None if draws is None else draws.kept(columns)
            pieces = []
            for n, start in enumerate(range(columns.start, columns.stop, LANES)):
                weights = jnp.exp(scores[:, start : start + LANES] - reference)
                total = total + weights
                weights = weights if kept is None else jnp.where(kept[n], weights, np.float32(0))
                pieces.append(weights)
            weights = jnp.concatenate(pieces, 1).astype(refs["value"].dtype)
            added.append(tile.product(weights, refs["value"][columns, :], 1, 0))
            if draws is not None:
                next_part = part + np.int32(1)
                score(jnp.minimum(next_part, last), columns)  # the last part's again, for nothing
                draws.write(next_part, columns)  # the next tile's first after the last part
        largest[rows, :], totals[rows, :] = new, total
        sums[rows, :] = sums[rows, :] * faded[:, :1] + reduce(jnp.add, added)

    tile.compute(use, None if draws is None else lambda: score_all(np.int32(0)))

    def write() -> None:
        total = totals[...].sum(-1, keepdims=True)
        attends = total != 0  # True also for NaN
        total = jnp.where(attends, total, np.float32(1))
        refs["y"][...] = (sums[...] / total).astype(refs["y"].dtype)
        log_sums = jnp.where(attends, largest[...] + jnp.log(total), np.float32(np.inf))
        refs["log_sums"][...] = log_sums.T[:1, :]

    pl.when(is_last)(write)


def _backward_step(first: int, tile: Tile, is_first: jax.Array, is_last: jax.Array) -> None:
    """The gradients of a tile, from weights that are computed again from the log-sums.

    `first` is the block of queries where d_query begins.
    """
    pl, _ = pallas()
    refs = tile.refs
    sum_key, sum_value, d_query = refs["sum_key"], refs["sum_value"], refs["d_query"]

    def start_head() -> None:
        d_query[...] = jnp.zeros_like(d_query)

    pl.when(tile.step == 0)(start_head)

    def start() -> None:
        sum_key[...] = jnp.zeros_like(sum_key)
        sum_value[...] = jnp.zeros_like(sum_value)

    pl.when(is_first)(start)

    tiles, draws = tile.tiles, tile.draws

    def use(part: jax.Array) -> None:
        rows, by_keys = tile.rows(part), []
        query, d_y = refs["query"][rows, :], refs["d_y"][rows, :]
        log_sums, deltas = (refs[name][0, rows][:, None] for name in ("log_sums", "deltas"))
        for columns in tiles.columns:
            key, value = refs["key"][columns, :], refs["value"][columns, :]
            scores, slope = tile.scores(rows, columns)
            weights = jnp.exp(scores - log_sums)
            dropped, d_weights = weights, tile.product(d_y, value, 1, 1)
            if draws is not None:
                mask = jnp.concatenate(draws.kept(columns), 1)
                dropped, d_weights = (
                    jnp.where(mask, a, np.float32(0)) for a in (weights, d_weights)
                )
            d_scores = weights * (d_weights - deltas)
            d_scores = d_scores if slope is None else d_scores * slope
            dropped, d_scores = dropped.astype(d_y.dtype), d_scores.astype(query.dtype)
            sum_value[columns, :] += tile.product(dropped, d_y, 0, 0)
            sum_key[columns, :] += tile.product(d_scores, query, 0, 0)
            by_keys.append(tile.product(d_scores, key, 1, 0))
            if draws is not None:
                draws.write(part + np.int32(1), columns)
        row = tile.first_query + rows.start - np.int32(first * tiles.queries.size)
        here = pl.ds(pl.multiple_of(row, LANES), tiles.part_size)
        d_query[here, :] += reduce(jnp.add, by_keys)

    tile.compute(use)

    def write() -> None:
        refs["d_key"][...] = sum_key[...].astype(refs["d_key"].dtype)
        refs["d_value"][...] = sum_value[...].astype(refs["d_value"].dtype)

    pl.when(is_last)(write)
