"""The mask of dropout inside a kernel of attention, drawn one part ahead.

A hash needs no other result. So while a kernel uses a part, it draws the next one into memory, and
the compiler can let the vector units hash where they would wait for the matrix units.

The memory holds, for a part of [queries, keys], uint32[words, rows, columns]:

    weights                    words   rows            columns     an element
    groups along keys          2       queries         keys / 4    a word of the hash of a group,
                                                                   with its top bit flipped
    groups along queries       2       queries / 4     keys        a word of the hash of a group
    each weight has a hash     1       queries         keys        the draw of a weight
    spans                      1       queries / 32,   keys        bits of some queries: 1 where a
                                       at least 8                  weight is dropped

The groups are those of `_random/groups`. They lie at the same place of four registers, so nothing
moves within registers.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._compat import pallas
from .._random.groups import BITS, LOW_BITS, Groups, halves_of
from .._random.redraw import THRESHOLD_BITS
from .._random.threefry import TOP_BIT, hash_words
from .._typing import Shape
from .kernel_blocks import LANES, Tiles

_DRAWN = 128
"""The queries whose seeds are drawn at once. The state of more would not fit into registers."""


class Draws:
    """The draws of a part of a tile of weights, in the memory of a kernel.

    Attributes:
      tiles: how the kernel divides its work; weights are dropped.
      numbers: the two words of the key, the threshold, and where the mask of a head begins among
        all draws, in two words: [1, 5].
      memory: holds the draws of a part, see above.
      tile, next_tile: the position of the first weight of the tile, and of the tile in the next
        step: a query and a key.

    The next part takes the place of a part: call `kept` for some keys before `write` for them.
    """

    def __init__(
        self,
        tiles: Tiles,
        numbers: Any,
        memory: Any,
        tile: tuple[jax.Array, jax.Array],
        next_tile: tuple[jax.Array, jax.Array],
    ) -> None:
        self.tiles, self.numbers, self.memory = tiles, numbers, memory
        self.tile, self.next_tile = tile, next_tile

    def write(self, part: Any, columns: slice | None = None) -> None:
        """Draws a part, or some of its keys. Part `tiles.parts` is the first of the next tile.

        Spans are drawn for all keys at once, when the last keys are asked for.
        """
        tiles = self.tiles
        columns = slice(0, tiles.keys.size) if columns is None else columns
        row, first_key = self.tile[0] + part * np.int32(tiles.part_size), self.tile[1]
        is_next = part == np.int32(tiles.parts)
        row = jnp.where(is_next, self.next_tile[0], row)
        first_key = jnp.where(is_next, self.next_tile[1], first_key)
        if tiles.span > 1:
            if columns.stop == tiles.keys.size:  # no old words are needed any more
                self._draw_outside_spans(row, first_key)
            return
        groups = tiles.groups
        step = LANES
        shape: Shape = (tiles.part_size, LANES)
        queries: Shape = (1,)
        if groups is not None and groups.axis == -1:
            step = groups.span
        elif groups is not None:
            shape = (tiles.part_size // groups.span, groups.stride, LANES)
            queries = (groups.span, 1)
        offsets = self._offsets(shape, queries)
        for column in range(columns.start, columns.stop, step):
            first = column * LANES // step
            here = slice(first, first + LANES)
            hashes = self._hashes(row, first_key + np.int32(column), offsets)
            for n, word in enumerate(hashes):
                self.memory[n, :, here] = word.reshape(-1, LANES)

    def kept(self, columns: slice) -> list[jax.Array]:
        """The mask of some keys of a part, 128 keys at a time."""
        tiles = self.tiles
        starts = range(columns.start, columns.stop, LANES)
        if tiles.span > 1:
            return [self._kept_outside_spans(start) for start in starts]
        groups, memory = tiles.groups, self.memory
        if groups is None:
            return [self._is_kept(memory[0, :, start : start + LANES]) for start in starts]
        if groups.axis == -2:
            return [self._kept_by_rows(start, groups) for start in starts]
        kept = []
        for start in range(columns.start // 4, columns.stop // 4, LANES):
            for n in (0, 1):
                word = memory[n, :, start : start + LANES]
                kept += [self._is_kept(word & LOW_BITS), self._is_upper_half_kept(word)]
        return kept

    def _kept_by_rows(self, column: int, groups: Groups) -> jax.Array:
        """The mask of 128 keys, for groups along the queries."""
        h0, h1 = (self.memory[n, :, column : column + LANES] for n in (0, 1))
        by_row = [draw.reshape(-1, groups.stride, LANES) for draw in halves_of(h0, h1)]
        return self._is_kept(jnp.stack(by_row, 1).reshape(self.tiles.part_size, LANES))

    def _kept_outside_spans(self, column: int) -> jax.Array:
        """The mask of 128 keys, from its bits."""
        words = self.memory[0, :, column : column + LANES]
        bits = range(self.tiles.part_size // words.shape[0])
        with_sign = jnp.concatenate([words << np.uint32(n) for n in bits], 0)
        kept: jax.Array = with_sign.astype(np.int32) >= 0
        return kept

    def _draw_outside_spans(self, row: jax.Array, first_key: jax.Array) -> None:
        """Draws for spans: neither a kept key nor one of the span - 1 keys before it has a seed.

        Some of those keys lie before the tile, so 128 more keys are drawn. Each seed is a bit, and
        a word has the seeds of up to 32 queries, so that few registers are rolled.
        """
        _, pltpu = pallas()
        span, starts = self.tiles.span, range(-LANES, self.tiles.keys.size, LANES)
        seeds = jnp.concatenate(
            [self._packed_seeds(row, first_key + np.int32(n)) for n in starts], 1
        )
        reached = 1
        while reached < span:  # by doubling: windows of 1, 2, 4 and so on
            step = min(reached, span - reached)
            seeds |= pltpu.roll(seeds, np.int32(step), 1)
            reached += step
        self.memory[0] = seeds[:, LANES:]  # the roll wraps around before

    def _packed_seeds(self, row: jax.Array, first_key: jax.Array) -> jax.Array:
        """Returns the seeds of a part of 128 keys, in words [queries, 128].

        Bit 31 - n of word [r, c] is the seed of query n * (number of rows of words) + r.
        """
        assert self.tiles.draw_shape is not None
        _, height, _ = self.tiles.memory_shape
        offsets = self._offsets((_DRAWN, LANES), (1,))
        bit, words = 2**31, jnp.zeros((height, LANES), np.uint32)
        for start in range(0, self.tiles.part_size, _DRAWN):
            (draw,) = self._hashes(row + np.int32(start), first_key, offsets)
            for first in range(0, _DRAWN, height):
                has_none = self._is_kept(draw[first : first + height])
                words |= jnp.where(has_none, np.uint32(0), np.uint32(bit))
                bit >>= 1
        key = lax.broadcasted_iota(np.int32, words.shape, 1) + first_key
        can_begin = (key >= 0) & (key < np.int32(self.tiles.draw_shape[-1]))
        return jnp.where(can_begin, words, np.uint32(0))

    def _offsets(self, shape: Shape, queries: Shape) -> jax.Array:
        """Returns how many draws each element lies behind the first one.

        A step along axis n is queries[n] queries, and a step along the last axis is one key.
        """
        assert self.tiles.draw_shape is not None
        stride = self.tiles.draw_shape[-1]
        offsets = lax.broadcasted_iota(np.uint32, shape, len(shape) - 1)
        for axis, count in enumerate(queries):
            index = lax.broadcasted_iota(np.uint32, shape, axis)
            offsets = offsets + index * np.uint32(count * stride)
        return offsets

    def _hashes(self, row: jax.Array, key: jax.Array, offsets: jax.Array) -> tuple[jax.Array, ...]:
        """Returns the hashes from a query and a key on.

        They are the two words of each group, or the draw of each weight.
        """
        tiles = self.tiles
        assert tiles.draw_shape is not None
        numbers, stride = self.numbers, np.uint32(tiles.draw_shape[-1])
        words, high, low = (numbers[0, 0], numbers[0, 1]), numbers[0, 3], numbers[0, 4]
        first = low + row.astype(np.uint32) * stride + key.astype(np.uint32)
        if math.prod(tiles.draw_shape) > 2**32:
            carry = (first + offsets < first).astype(np.uint32)
            high = high + (first < low).astype(np.uint32) + carry
        top_flipped = tiles.groups is not None and tiles.groups.axis == -1
        h0, h1 = hash_words(*words, high, offsets, tiles.rounds, top_flipped, first)
        if tiles.groups is not None:
            return h0, h1
        if tiles.has_short_draws:
            return (h0 & LOW_BITS,)
        return ((h0 ^ h1) >> np.uint32(32 - THRESHOLD_BITS),)

    def _is_kept(self, draw: jax.Array) -> jax.Array:
        """Compares draws to the threshold, as signed integers, which is faster on TPUs."""
        threshold = self.numbers[0, 2]
        kept: jax.Array = draw.astype(np.int32) < threshold.astype(np.int32)
        return kept

    def _is_upper_half_kept(self, word: jax.Array) -> jax.Array:
        """Compares the upper halves of words whose top bit is flipped, without a shift.

        At a rate of 1 this keeps some, which does not matter: the values are then multiplied by 0.
        """
        threshold = self.numbers[0, 2]
        count = jnp.maximum(threshold.astype(np.int32), np.int32(1)).astype(np.uint32)
        last = ((count << np.uint32(BITS)) - np.uint32(1)) ^ TOP_BIT
        kept: jax.Array = word.astype(np.int32) <= last.astype(np.int32)
        return kept
