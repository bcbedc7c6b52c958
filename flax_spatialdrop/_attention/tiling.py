"""Axes cut into blocks, and which of the blocks of attention weights there is a need to compute."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import is_symbolic
from .._typing import Array


class Cut(NamedTuple):
    """An axis cut into blocks of one size; the last is shifted to lie inside.

    Length and size may be symbolic sizes of jax.export.

    Attributes:
      length: of the axis.
      size: of a block, from 1 to length.
    """

    length: int
    size: int

    @property
    def number(self) -> int:
        """How many blocks there are."""
        return -(-self.length // self.size)

    @property
    def repeats(self) -> bool:
        """Whether the last block has places that the one before has too."""
        return self.length % self.size != 0

    def first_new(self, index: jax.Array) -> jax.Array:
        """The first place of a block that the one before has not."""
        return jnp.asarray(index, np.int32) * jnp.asarray(self.size, np.int32)

    def start(self, index: jax.Array) -> jax.Array:
        """The first place of a block."""
        return jnp.minimum(self.first_new(index), jnp.asarray(self.length - self.size, np.int32))

    def places(self, index: jax.Array) -> jax.Array:
        """All places of a block, int32[size]."""
        return self.start(index) + jnp.arange(self.size, dtype=np.int32)

    def take(self, array: jax.Array, index: jax.Array, axis: int) -> jax.Array:
        """The block of an array along an axis; the array itself where it has 1 for all places.

        Axes are counted from the end, here and below: -1 is the last.
        """
        if array.shape[axis] == 1:
            return array
        return lax.dynamic_slice_in_dim(array, self.start(index), self.size, array.ndim + axis)

    def put(self, array: jax.Array, part: jax.Array, index: jax.Array, axis: int) -> jax.Array:
        """The array with `part` in the place of a block."""
        start = self.start(index)
        return lax.dynamic_update_slice_in_dim(array, part, start, array.ndim + axis)

    def add(self, array: jax.Array, part: jax.Array, index: jax.Array, axis: int) -> jax.Array:
        """The array with `part` added to a block."""
        old = self.take(array, index, axis)
        return self.put(array, (old.astype(part.dtype) + part).astype(old.dtype), index, axis)


def cut(length: int, size: int) -> Cut:
    """An axis cut into blocks of `size`, or into one of its own length if that is less."""
    return Cut(length, jax.core.min_dim(size, length))


class Visits(NamedTuple):
    """Which blocks along one axis are to be computed for each block along the other.

    Attributes:
      number: how many, int32[blocks].
      order: these first, int32[blocks, blocks of the other axis].
    """

    number: Array
    order: Array


def visited(visits: Visits | None, block: jax.Array, turn: jax.Array) -> jax.Array:
    """The block to be computed in a turn of a loop."""
    return turn if visits is None else visits.order[block, turn]


def find_visits(
    queries: Cut, keys: Cut, is_causal: bool, mask: Array | None
) -> tuple[Visits, Visits] | None:
    """The blocks of keys that some query of each block attends to, and the other way round.

    None: all are to be computed, as where their number is a symbolic size. A mask tells where it
    is a NumPy array, or the same for the whole batch and all heads: of others, devices that each
    have a part of the batch would have to ask one another.
    """
    if is_symbolic(queries.number) or is_symbolic(keys.number):
        return None
    needed: Any = np.ones((queries.number, keys.number), bool)
    if is_causal:
        last = np.minimum((np.arange(queries.number) + 1) * queries.size, queries.length) - 1
        needed = np.arange(keys.number) * keys.size <= last[:, None]
    if mask is not None:
        if isinstance(mask, np.ndarray):
            needed = needed & _has_any(np, mask, queries, keys)
        elif mask.size == mask.shape[-2] * mask.shape[-1]:
            needed = needed & _has_any(jnp, mask, queries, keys)
    if isinstance(needed, np.ndarray) and needed.all():
        return None
    return _visits(needed), _visits(needed.T)


def _has_any(xp: Any, mask: Any, queries: Cut, keys: Cut) -> Any:
    """bool[blocks of queries or 1, blocks of keys or 1]: whether a block of a mask has a True."""
    found = mask.astype(bool).any(tuple(range(mask.ndim - 2)))
    for axis, cut in enumerate((queries, keys)):
        if found.shape[axis] > 1:
            missing = [(0, 0), (0, 0)]
            missing[axis] = (0, cut.number * cut.size - cut.length)
            shape = [*found.shape[:axis], cut.number, cut.size, *found.shape[axis + 1 :]]
            found = xp.pad(found, missing).reshape(shape).any(axis + 1)
    return found


def _visits(needed: Any) -> Visits:
    xp = np if isinstance(needed, np.ndarray) else jnp
    number = needed.sum(1, dtype=np.int32)
    return Visits(number, xp.argsort(~needed, axis=1, stable=True).astype(np.int32))
