"""A tile of attention weights inside a kernel: its scores, its mask of dropout, its products."""

import math
from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._compat import pallas
from .._random.groups import draws_of_groups, groups_of
from .._random.redraw import THRESHOLD_BITS
from .._random.threefry import FAST_ROUNDS, hash_words
from .._typing import Shape
from .scores import capped, in_window, slope_of_cap
from .tile import Operands, TilePlan
from .tiling import Tiling

LANES = 128
"""The keys in a row of a register."""

LONGEST_SPAN = LANES
"""The most keys that are dropped together: those that one more register before a tile holds."""

_LONGEST_OUTER = 1024
"""The most queries (forward) or keys (backward) whose results a pass sums up at once."""

_LONGEST_INNER = 2048
"""The most keys (forward) or queries (backward) of a step. Half as many with a window or a bias:
more tiles are then hidden as a whole, and a tile of the bias is smaller."""

_PART = 256
"""The queries of a tile whose weights are computed at once."""

_FORWARD_PART = 128
"""The same in the forward pass, where tiles have more keys. Spans use `_PART`, so that all 32 bits
of a word hold seeds."""

_DRAWN = 128
"""The queries whose seeds are drawn at once. The state of more would not fit into registers."""


class Tiles(NamedTuple):
    """How a kernel divides its work, all static.

    Attributes:
      plan: the options of the call; its blocks are those of XLA and mean nothing here.
      queries, keys: the blocks of these axes. The last block ends in padding if it must.
      draw_shape: the shape of the draws of dropout; None if no weights are dropped.
      rounds: the number of rounds of the hash.
      span: the number of keys that are dropped together.
      part: the number of queries whose weights are computed at once.
    """

    plan: TilePlan
    queries: Tiling
    keys: Tiling
    draw_shape: Shape | None
    rounds: int
    span: int
    part: int

    @property
    def has_short_draws(self) -> bool:
        """Whether draws are those of `groups`. The seeds of spans are not."""
        return self.rounds == FAST_ROUNDS and self.span == 1

    @property
    def parts(self) -> list[slice]:
        """The queries of each part, within a tile."""
        size = math.gcd(self.queries.size, self.part)
        return [slice(start, start + size) for start in range(0, self.queries.size, size)]


def tiles_of(plan: TilePlan, x: Operands, by_key: bool) -> Tiles:
    """Returns the tiles of the forward pass, or, by key, those of the backward pass."""
    queries, keys = x.query.shape[-3], x.key.shape[-3]
    unit = 4 * LANES if keys % (4 * LANES) == 0 else LANES
    has_window_or_bias = plan.window != (None, None) or x.bias is not None
    inner = _LONGEST_INNER // 2 if has_window_or_bias else _LONGEST_INNER
    of_queries, of_keys = (inner, _LONGEST_OUTER) if by_key else (_LONGEST_OUTER, inner)
    span = 1 if x.source is None else x.source.spans.sizes[-1]
    return Tiles(
        plan,
        Tiling(queries, _block(queries, LANES, of_queries)),
        Tiling(keys, _block(keys, unit, of_keys)),
        None if x.source is None else x.source.spans.seed_shape,
        0 if x.source is None else x.source.rounds,
        span,
        _FORWARD_PART if span == 1 and not by_key else _PART,
    )


def precision_in_kernel(precision: Any) -> lax.Precision | None:
    """Returns the precision of products in a kernel, or None if they cannot have it."""
    pair = precision if isinstance(precision, tuple) else (precision,)
    try:
        found = {lax.Precision(each) for each in pair}
    except ValueError:  # an algorithm, such as "BF16_BF16_F32_X3"
        return None
    known = {lax.Precision.DEFAULT}, {lax.Precision.HIGHEST}
    return found.pop() if found in known else None


def _block(length: int, unit: int, most: int) -> int:
    """The size of blocks: a multiple of `unit` for which there is little padding and few blocks."""
    sizes = range(unit, max(most, unit) + 1, unit)
    return min(sizes, key=lambda size: -(-length // size) * (size + LANES))


class Tile:
    """A tile of weights inside a kernel: its operands by name, and where it lies.

    Attributes:
      tiles: how the kernel divides its work.
      refs: the blocks of the operands, [rows, columns].
      step: the step of the grid, counted for each head.
      first_query, first_key: the position of its first weight.
      is_needed: whether a window shows some of it; None if it does in every step.
    """

    def __init__(
        self,
        tiles: Tiles,
        refs: dict[str, Any],
        step: jax.Array,
        i: jax.Array,
        j: jax.Array,
        is_needed: jax.Array | None,
    ) -> None:
        self.tiles, self.refs, self.step, self.is_needed = tiles, refs, step, is_needed
        self.first_query = i * np.int32(tiles.queries.size)
        self.first_key = j * np.int32(tiles.keys.size)

    def when_shown(self, compute: Callable[[], None]) -> None:
        """Computes the tile, unless the window, its mask or its segments hide all of it."""
        pl, _ = pallas()
        shown = [] if self.is_needed is None else [self.is_needed]
        if "mask" in self.refs:
            shown.append(self.refs["mask"][...].astype(np.int32).max() > 0)
        if "query_ids" in self.refs:
            of_queries, of_keys = self.refs["query_ids"][...], self.refs["key_ids"][...]
            shown += [of_queries.min() <= of_keys.max(), of_keys.min() <= of_queries.max()]
        if shown:
            pl.when(reduce(jnp.logical_and, shown))(compute)
        else:
            compute()

    def product(self, a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
        """The product of two matrices over these axes, summed in float32."""
        contracted = (((axis_a,), (axis_b,)), ((), ()))
        precision = precision_in_kernel(self.tiles.plan.precision)
        if a.dtype != jnp.float32:  # a product of two bfloat16 is exact
            precision = lax.Precision.DEFAULT
        return lax.dot_general(a, b, contracted, precision, jnp.float32)

    def scores(self, rows: slice) -> tuple[jax.Array, jax.Array | None]:
        """Returns the scores of some queries, and their derivative, as `tile.scores_of`."""
        plan, keys = self.tiles.plan, self.tiles.keys
        query, key = self.refs["query"][rows, :], self.refs["key"][...]
        scores = capped(self.product(query, key, 1, 1), plan.soft_cap)
        slope = None if plan.soft_cap is None else slope_of_cap(scores, plan.soft_cap)
        if "bias" in self.refs:
            scores = scores + self._part_of("bias", rows).astype(np.float32)
        row, column = (lax.broadcasted_iota(np.int32, scores.shape, axis) for axis in (0, 1))
        first = self.first_query + np.int32(rows.start) - self.first_key
        visible = in_window(plan.window, first, column - row)
        if keys.overlaps:
            visible.append(column < np.int32(keys.length) - self.first_key)
        if "mask" in self.refs:
            visible.append(self._part_of("mask", rows).astype(np.int32) != 0)
        if "query_ids" in self.refs:
            visible.append(self._part_of("query_ids", rows) == self.refs["key_ids"][...])
        for shown in visible:
            scores = jnp.where(shown, scores, -np.float32(np.inf))
        return scores, slope

    def _part_of(self, name: str, rows: slice) -> jax.Array:
        """Takes some queries of an operand that they may share."""
        ref = self.refs[name]
        part: jax.Array = ref[rows, :] if ref.shape[0] > 1 else ref[...]
        return part

    def kept(self, rows: slice) -> list[jax.Array] | None:
        """The mask of dropout of some queries, 128 keys at a time; None if nothing is dropped."""
        tiles = self.tiles
        if tiles.draw_shape is None:
            return None
        if tiles.span > 1:
            return self._kept_outside_spans(rows)
        groups = groups_of(tiles.draw_shape) if tiles.has_short_draws else None
        if groups is not None and groups.axis == -2:
            return self._kept_by_rows(rows, groups.span, groups.stride)
        offsets = self._offsets((rows.stop - rows.start, LANES), (1, 0))
        columns = range(0, tiles.keys.size, LANES if groups is None else groups.span)
        draws = (self._draws(rows, column, offsets) for column in columns)
        return [
            self._is_kept(draw)
            for group in draws
            for draw in (group[:1] if groups is None else group)
        ]

    def _kept_by_rows(self, rows: slice, span: int, stride: int) -> list[jax.Array]:
        """`kept` for groups along the queries."""
        size = rows.stop - rows.start
        offsets = self._offsets((size // span, stride, LANES), (span, 1, 0))
        columns = range(0, self.tiles.keys.size, LANES)
        draws = (jnp.stack(self._draws(rows, column, offsets), 1) for column in columns)
        return [self._is_kept(draw.reshape(size, LANES)) for draw in draws]

    def _kept_outside_spans(self, rows: slice) -> list[jax.Array]:
        """`kept` for spans: neither a key nor one of the span - 1 keys before it has a seed.

        Some of those keys lie before the tile, so 128 more keys are drawn. Each seed is a bit, and
        a word has the seeds of up to 32 queries, so that few registers are rolled.
        """
        _, pltpu = pallas()
        span, columns = self.tiles.span, range(-LANES, self.tiles.keys.size, LANES)
        seeds = jnp.concatenate([self._packed_seeds(rows, column) for column in columns], 1)
        reached = 1
        while reached < span:  # by doubling: windows of 1, 2, 4 and so on
            step = min(reached, span - reached)
            seeds |= pltpu.roll(seeds, np.int32(step), 1)
            reached += step
        kept = []
        for start in range(LANES, seeds.shape[1], LANES):  # the roll wraps around before
            words = seeds[:, start : start + LANES]
            bits = range((rows.stop - rows.start) // words.shape[0])
            with_sign = jnp.concatenate([words << np.uint32(n) for n in bits], 0)
            kept.append(with_sign.astype(np.int32) >= 0)
        return kept

    def _packed_seeds(self, rows: slice, column: int) -> jax.Array:
        """Returns the seeds from a row and a column of the tile on, in words [queries, 128].

        Bit 31 - n of word [r, c] is the seed of query n * (number of rows of words) + r.
        """
        assert self.tiles.draw_shape is not None
        height = max(8, (rows.stop - rows.start) // 32)  # at least the rows of a register
        offsets = self._offsets((_DRAWN, LANES), (1, 0))
        bit, words = 2**31, jnp.zeros((height, LANES), np.uint32)
        for start in range(rows.start, rows.stop, _DRAWN):
            (draw,) = self._draws(slice(start, start + _DRAWN), column, offsets)
            for row in range(0, _DRAWN, height):
                has_none = self._is_kept(draw[row : row + height])
                words |= jnp.where(has_none, np.uint32(0), np.uint32(bit))
                bit >>= 1
        key = lax.broadcasted_iota(np.int32, words.shape, 1) + self.first_key + np.int32(column)
        can_begin = (key >= 0) & (key < np.int32(self.tiles.draw_shape[-1]))
        return jnp.where(can_begin, words, np.uint32(0))

    def _offsets(self, shape: Shape, queries: tuple[int, ...]) -> jax.Array:
        """Returns how many draws each element lies behind the first one.

        One step along an axis is as many `queries`, and along the last axis it is one key.
        """
        assert self.tiles.draw_shape is not None
        stride = self.tiles.draw_shape[-1]
        offsets = lax.broadcasted_iota(np.uint32, shape, len(shape) - 1)
        for axis, count in enumerate(queries[:-1]):
            index = lax.broadcasted_iota(np.uint32, shape, axis)
            offsets = offsets + index * np.uint32(count * stride)
        return offsets

    def _draws(self, rows: slice, column: int, offsets: jax.Array) -> tuple[jax.Array, ...]:
        """Returns the draws from a row and a column of the tile on."""
        assert self.tiles.draw_shape is not None
        numbers, stride = self.refs["numbers"], np.uint32(self.tiles.draw_shape[-1])
        words, high, low = (numbers[0, 0], numbers[0, 1]), numbers[0, 3], numbers[0, 4]
        row = (self.first_query + np.int32(rows.start)).astype(np.uint32)
        first = low + row * stride + (self.first_key + np.int32(column)).astype(np.uint32)
        place = first + offsets
        if math.prod(self.tiles.draw_shape) > 2**32:
            high = high + (first < low).astype(np.uint32) + (place < first).astype(np.uint32)
        if self.tiles.has_short_draws:
            return draws_of_groups(words, high, place)
        h0, h1 = hash_words(*words, high, place, self.tiles.rounds)
        return ((h0 ^ h1) >> np.uint32(32 - THRESHOLD_BITS),)

    def _is_kept(self, draw: jax.Array) -> jax.Array:
        """Compares draws to the threshold, as signed integers, which is faster on TPUs."""
        threshold = self.refs["numbers"][0, 2]
        kept: jax.Array = draw.astype(np.int32) < threshold.astype(np.int32)
        return kept
