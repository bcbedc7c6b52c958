"""Divides axes into blocks, and finds the tiles of attention weights that must be computed."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import is_symbolic
from .._typing import Array
from .scores import Sides


class Tiling(NamedTuple):
    """An axis that is divided into blocks of one size.

    The last block is shifted left to stay in bounds, so it may overlap the one before:

        length 7, size 3      block 0: 0 1 2    block 1: 3 4 5    block 2: 4 5 6

    The length and the size may be symbolic sizes of jax.export.

    The kernels for TPUs use only `number` and `size`, and pad the last block instead; there
    `overlaps` says that it has padding, and size may exceed length.

    Attributes:
      length: the length of the axis.
      size: the size of a block, from 1 to length.
    """

    length: int
    size: int

    @property
    def number(self) -> int:
        """The number of blocks."""
        return -(-self.length // self.size)

    @property
    def overlaps(self) -> bool:
        """Whether the last block repeats positions of the block before."""
        return self.length % self.size != 0

    def first_new(self, block: jax.Array) -> jax.Array:
        """The first position of a block that is not in the block before."""
        return jnp.asarray(block, np.int32) * jnp.asarray(self.size, np.int32)

    def start(self, block: jax.Array) -> jax.Array:
        """The first position of a block."""
        return jnp.minimum(self.first_new(block), jnp.asarray(self.length - self.size, np.int32))

    def positions(self, block: jax.Array) -> jax.Array:
        """All positions of a block, int32[size]."""
        return self.start(block) + jnp.arange(self.size, dtype=np.int32)

    def take(self, array: Array, block: jax.Array, axis: int) -> Array:
        """Takes a block of an array along `axis`, which is negative: -1 is the last axis.

        An array with size 1 along the axis is shared by all positions and is returned as it is.
        """
        if array.shape[axis] == 1:
            return array
        return lax.dynamic_slice_in_dim(array, self.start(block), self.size, array.ndim + axis)

    def put(self, array: Array, part: Array, block: jax.Array, axis: int) -> jax.Array:
        """Returns the array with a block replaced by `part`."""
        start = self.start(block)
        return lax.dynamic_update_slice_in_dim(array, part, start, array.ndim + axis)

    def add(self, array: jax.Array, part: jax.Array, block: jax.Array, axis: int) -> jax.Array:
        """Returns the array with `part` added to a block."""
        old = self.take(array, block, axis)
        return self.put(array, (old.astype(part.dtype) + part).astype(old.dtype), block, axis)


def tile_axis(length: int, size: int) -> Tiling:
    """Divides an axis into blocks of `size`, or into one block if the axis is shorter."""
    return Tiling(length, jax.core.min_dim(size, length))


class Visits(NamedTuple):
    """For each block along one axis, the blocks along the other axis that must be computed.

    If the first of 2 blocks must visit blocks 1 and 2 of 3, and the second only block 0:

        number = [2, 1]      order = [[1, 2, 0],
                                      [0, 1, 2]]

    Attributes:
      number: int32[blocks], the number of blocks to visit.
      order: int32[blocks, blocks of the other axis]: first the blocks to visit, then all others.
    """

    number: Array
    order: Array


def visited(visits: Visits | None, block: jax.Array, turn: jax.Array) -> jax.Array:
    """The block of the other axis to compute in iteration `turn` of the loop for `block`."""
    return turn if visits is None else visits.order[block, turn]


def find_visits(
    queries: Tiling, keys: Tiling, window: Sides, mask: Array | None
) -> tuple[Visits, Visits] | None:
    """Returns the blocks of keys to visit for each block of queries, and the reverse.

    Returns None if all blocks must be visited. Blocks that a mask hides are skipped only if the
    mask is a NumPy array, or shared by the whole batch and all heads: for other masks, devices that
    hold parts of the batch would have to communicate. No block is skipped if the number of blocks
    is a symbolic size.
    """
    if is_symbolic(queries.number) or is_symbolic(keys.number):
        return None
    needed: Any = in_reach(window, queries, keys)
    if mask is not None:
        if isinstance(mask, np.ndarray):
            needed = needed & _has_any(np, mask, queries, keys)
        elif mask.size == mask.shape[-2] * mask.shape[-1]:
            needed = needed & _has_any(jnp, mask, queries, keys)
    if queries.overlaps:  # the last block computes queries of the block before again
        xp = np if isinstance(needed, np.ndarray) else jnp
        needed = xp.concatenate([needed[:-1], needed[-1:] | needed[-2:-1]])
    if isinstance(needed, np.ndarray) and needed.all():
        return None
    return _visits(needed), _visits(needed.T)


def in_reach(window: Sides, queries: Tiling, keys: Tiling) -> np.ndarray:
    """Whether a tile has a key in the window of one of its queries: bool[blocks, blocks]."""
    (left, right), needed = window, np.ones((queries.number, keys.number), bool)
    (first_query, last_query), (first_key, last_key) = _ends(queries), _ends(keys)
    if left is not None:
        needed &= last_key >= first_query[:, None] - left
    if right is not None:
        needed &= first_key <= last_query[:, None] + right
    return needed


def _ends(tiling: Tiling) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last new position of each block."""
    first = np.arange(tiling.number) * tiling.size
    return first, np.minimum(first + tiling.size, tiling.length) - 1


def _has_any(xp: Any, mask: Any, queries: Tiling, keys: Tiling) -> Any:
    """Whether a tile has a True in it: bool[blocks of queries or 1, blocks of keys or 1]."""
    found = mask.astype(bool).any(tuple(range(mask.ndim - 2)))
    for axis, tiling in enumerate((queries, keys)):
        if found.shape[axis] > 1:
            missing = [(0, 0), (0, 0)]
            missing[axis] = (0, tiling.number * tiling.size - tiling.length)
            shape = [*found.shape[:axis], tiling.number, tiling.size, *found.shape[axis + 1 :]]
            found = xp.pad(found, missing).reshape(shape).any(axis + 1)
    return found


def _visits(needed: Any) -> Visits:
    xp = np if isinstance(needed, np.ndarray) else jnp
    number = needed.sum(1, dtype=np.int32)
    return Visits(number, xp.argsort(~needed, axis=1, stable=True).astype(np.int32))
