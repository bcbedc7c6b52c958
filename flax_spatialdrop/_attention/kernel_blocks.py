"""How the kernels of attention divide their work: blocks of queries and keys, and parts of a block.

A step of a kernel has a tile: a block of queries and a block of keys. It goes through the tile in
parts, some queries at a time, and through a part in columns, some keys at a time:

    pass        outer blocks    inner blocks
    forward     queries         keys
    backward    keys            queries
"""

import math
from typing import NamedTuple

from .._random.groups import Groups, groups_of
from .._random.threefry import FAST_ROUNDS
from .._typing import Shape
from .tile import Operands, TilePlan
from .tiling import Tiling

LANES = 128
"""The keys in a row of a register."""

LONGEST_SPAN = LANES
"""The most keys that are dropped together: those that one more register before a tile holds."""

_QUERIES = 4096
"""The most queries of a tile."""

_FORWARD_KEYS = 2048
"""The most keys of a tile in the forward pass. If weights share a hash, twice as many."""

_BACKWARD_KEYS = 1024
"""The most keys of a tile in the backward pass."""

_SHORT = 1024
"""The most queries and keys with a window, a mask, segments or a bias. Shorter blocks are hidden as
a whole more often, and a tile of the mask or of the bias takes less memory."""

_GROUPED = 4 * LANES
"""The keys that hold whole groups of weights, if these lie along the keys."""


class Tiles(NamedTuple):
    """How a kernel divides its work, all static.

    Attributes:
      plan: the options of the call; its blocks are those of XLA and mean nothing here.
      queries, keys: the blocks of these axes. The last block ends in padding if it must.
      draw_shape: the shape of the draws of dropout; None if no weights are dropped.
      rounds: the number of rounds of the hash.
      span: the number of keys that are dropped together.
      part_size: the number of queries whose weights are computed at once. It divides a block.
      columns_size: the number of keys of a part that are used at once: dropped and multiplied.
    """

    plan: TilePlan
    queries: Tiling
    keys: Tiling
    draw_shape: Shape | None
    rounds: int
    span: int
    part_size: int
    columns_size: int

    @property
    def parts(self) -> int:
        """The number of parts of a tile."""
        return self.queries.size // self.part_size

    @property
    def drops(self) -> bool:
        """Whether weights are dropped."""
        return self.draw_shape is not None

    @property
    def has_short_draws(self) -> bool:
        """Whether draws are those of `groups`. The seeds of spans are not."""
        return self.rounds == FAST_ROUNDS and self.span == 1

    @property
    def groups(self) -> Groups | None:
        """The groups of weights that share a hash; None if each has its own."""
        return groups_of(self.draw_shape) if self.draw_shape and self.has_short_draws else None

    @property
    def columns(self) -> list[slice]:
        """The keys of a tile, as many as are used at once."""
        starts = range(0, self.keys.size, self.columns_size)
        return [slice(start, min(start + self.columns_size, self.keys.size)) for start in starts]

    @property
    def memory_shape(self) -> Shape:
        """The shape of the draws of a part, see `kernel_draws`: words, rows, columns."""
        if self.span > 1:
            return 1, max(8, self.part_size // 32), self.keys.size  # a register has 8 rows
        if self.groups is None:
            return 1, self.part_size, self.keys.size
        if self.groups.axis == -2:
            return 2, self.part_size // 4, self.keys.size
        return 2, self.part_size, self.keys.size // 4


def tiles_of(plan: TilePlan, x: Operands, by_key: bool) -> Tiles:
    """Returns the tiles of the forward pass, or, by key, those of the backward pass."""
    queries, keys = x.query.shape[-3], x.key.shape[-3]
    draw_shape, rounds, span = None, 0, 1
    if x.source is not None:
        draw_shape, rounds = x.source.spans.seed_shape, x.source.rounds
        span = x.source.spans.sizes[-1]
    whole = Tiles(
        plan, Tiling(queries, queries), Tiling(keys, keys), draw_shape, rounds, span, 1, 1
    )
    share = whole.groups is not None  # weights share a hash
    others = x.mask, x.segment_ids, x.bias
    is_plain = plan.window == (None, None) and all(each is None for each in others)
    if is_plain:
        of_queries, of_keys = _QUERIES, _BACKWARD_KEYS if by_key else _FORWARD_KEYS
        of_keys = of_keys if by_key or not share else 2 * of_keys
    else:
        of_queries = of_keys = _SHORT
    unit = _GROUPED if keys % _GROUPED == 0 else LANES
    tiles = whole._replace(
        queries=Tiling(queries, _block(queries, LANES, of_queries)),
        keys=Tiling(keys, _block(keys, unit, of_keys)),
    )
    part_size, columns_size = _sizes_of_part(tiles, by_key, is_plain)
    return tiles._replace(
        part_size=math.gcd(tiles.queries.size, part_size),
        columns_size=min(tiles.keys.size, columns_size),
    )


def _sizes_of_part(tiles: Tiles, by_key: bool, is_plain: bool) -> tuple[int, int]:
    """Returns the most queries of a part, and the most keys that are used at once.

    They are chosen for few cycles of the compiler's schedules, on v5e and v6e together. In a large
    part the compiler overlaps more of the work of the matrix and vector units. A part that is too
    large does not fit into registers, and takes long to compile.
    """
    if not tiles.drops:
        return (1024 if is_plain and by_key else 512), tiles.keys.size
    if tiles.span > 1:
        return 256, _GROUPED  # 256 queries fill all 32 bits of the words of seeds
    if tiles.groups is None:
        return 128, _GROUPED
    if by_key:
        return 256, _GROUPED
    return 128, (_GROUPED if is_plain else tiles.keys.size)


def _block(length: int, unit: int, most: int) -> int:
    """The size of blocks: a multiple of `unit` for which there is little padding and few blocks."""
    sizes = range(unit, max(most, unit) + 1, unit)
    return min(sizes, key=lambda size: -(-length // size) * (size + LANES))
