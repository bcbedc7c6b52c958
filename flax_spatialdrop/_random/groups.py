"""The draws of a fast key: groups of four elements of a mask share a hash, with 16 bits for each.

In a mask of shape [..., R, L], where R is 1 if there is one axis, an element in row r and lane c is
element d of its group:

    L % 512 == 0        d = (c % 512) // 128    the group is lanes b, b + 128, b + 256, b + 384
    else R % 32 == 0    d = (r % 32) // 8       the group is rows b, b + 8, b + 16, b + 24
    else                d = 0                   the element is alone

    h0, h1 = threefry2x32_13(key, row-major position in the mask of the first element of the group)
    u = (h0 & 0xffff, h0 >> 16, h1 & 0xffff, h1 >> 16)[d]
    kept = u < 2^16 (1 - rate)    (rate: see `drawn_rate`)

The registers of a TPU hold 8 rows of 128 lanes. So the elements of a group lie at the same place of
four registers, and a kernel moves nothing within registers. A part of a mask whose start and sizes
are multiples of 512 lanes (or 32 rows) has whole groups.

Only 32-bit integer operations are used, so all functions also run inside a Pallas kernel.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import is_symbolic
from .._typing import Shape
from .sharding import explicit_sharding, vary_alike
from .threefry import FAST_ROUNDS, Index, Words, hash_in_loop, hash_words, positions

BITS = 16
"""The number of bits of a draw."""

LOW_BITS = np.uint32(2**BITS - 1)


class Groups(NamedTuple):
    """The groups of a mask: elements along an axis, at distances of 1, 2 and 3 strides.

    Attributes:
      axis: -1 for the last axis, or -2 for the axis before it.
      stride: the distance between two elements of a group.
    """

    axis: int
    stride: int

    @property
    def span(self) -> int:
        """The shortest length of the axis that holds whole groups: four strides."""
        return 4 * self.stride


def groups_of(shape: Shape) -> Groups | None:
    """Returns the groups of a mask of `shape`; None if each element is alone.

    If the size along the axis of the groups is symbolic, there are groups only if it turns out to
    be a multiple of their span.
    """
    for groups in (Groups(-1, 128), Groups(-2, 8)):
        if len(shape) >= -groups.axis:
            rest = shape[groups.axis] % groups.span
            if is_symbolic(rest) or rest == 0:
                return groups
    return None


def draws_of_groups(words: Words, high: Index, low: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the draws u of the four elements of each group, from one hash.

    The position of the first element of a group is high * 2^32 + low; see `positions`.
    """
    return halves_of(*hash_words(words[0], words[1], high, low, FAST_ROUNDS))


def halves_of(h0: jax.Array, h1: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the draws u of the four elements of each group, from the two words of its hash."""
    up = np.uint32(BITS)
    return h0 & LOW_BITS, h0 >> up, h1 & LOW_BITS, h1 >> up


def draws_of_elements(
    words: Words,
    like: jax.Array,
    start: tuple[Index, ...] | None,
    shape: Shape,
    in_loop: bool = False,
) -> jax.Array:
    """Returns the draw u of each element, for any part of a mask; each element has its own hash.

    The part has the shape of `like`, and begins at `start` in a mask of `shape`. XLA fuses the
    hashes with the code that uses the draws, unless they are computed in a loop.
    """
    first, d = _first_of_group(like, start, shape)
    high, low = positions(like, first, shape)
    if in_loop:
        h0, h1 = hash_in_loop(words, high, low)
    else:
        h0, h1 = hash_words(words[0], words[1], high, low, FAST_ROUNDS)
    word = jnp.where(d < np.uint32(2), h0, h1)
    return word >> ((d & np.uint32(1)) * np.uint32(BITS)) & LOW_BITS


def can_pack(like: jax.Array) -> bool:
    """Whether `packed_mask` gives the mask of an array with this shape and sharding."""
    groups = groups_of(like.shape)
    if groups is None or explicit_sharding(like) is not None:
        return False
    return not is_symbolic(like.shape[groups.axis])


def packed_mask(words: jax.Array, count: np.uint32 | jax.Array, like: jax.Array) -> jax.Array:
    """Returns `draws_of_elements(words, like, None, like.shape) < count`, from a hash for a group.

    For CPUs, where the hash takes most of the time: the four entries of a group are written to
    memory as bits of one byte. If the axis of the groups has one span of them, these bytes are
    written once more, now for each element: XLA's CPU compiler does not vectorize that broadcast
    where other code is fused with it.
    """
    groups = groups_of(like.shape)
    assert groups is not None
    axis, stride = like.ndim + groups.axis, groups.stride
    before, after = like.shape[:axis], like.shape[axis + 1 :]
    spans = like.shape[axis] // groups.span
    split = (*before, spans, 4, stride, *after)
    first = (*before, spans, 1, stride, *after)

    def pack() -> jax.Array:
        draws = draws_of_groups(words, *positions(jnp.zeros(first, bool), None, split))
        bits = [(u < count).astype(np.uint8) << np.uint8(d) for d, u in enumerate(draws)]
        return bits[0] | bits[1] | bits[2] | bits[3]

    packed = _write_bytes(pack, first, words, count)

    def spread() -> jax.Array:
        return jnp.broadcast_to(packed, split)

    has_one_span = not is_symbolic(spans) and spans == 1
    entries = _write_bytes(spread, split, words, packed) if has_one_span else spread()
    # The entries are unpacked in the shape of the mask, so that XLA need not reshape the mask.
    index = lax.broadcasted_iota(np.uint32, like.shape, axis)
    d = (index // np.uint32(stride) & np.uint32(3)).astype(np.int32)
    bits = entries.reshape(like.shape).astype(np.int32) >> d & np.int32(1)  # faster than in 8 bits
    return bits.astype(bool)


def _write_bytes(
    f: Callable[[], jax.Array], shape: Shape, words: jax.Array, operand: np.uint32 | jax.Array
) -> jax.Array:
    """Returns f(), bytes that are written to memory before other code reads them.

    f reads the words of a key and the operand. XLA does not fuse a branch of a conditional with the
    code outside. The condition always holds, but XLA does not know that. (A barrier is removed
    before XLA fuses.)
    """

    def never() -> jax.Array:
        zeros: jax.Array = vary_alike((jnp.zeros(shape, np.uint8), words, operand))[0]
        return zeros

    computed: jax.Array = lax.cond((words[0] | np.uint32(1)) != 0, f, never)
    return computed


def _first_of_group(
    like: jax.Array, start: tuple[Index, ...] | None, shape: Shape
) -> tuple[tuple[Index, ...] | None, Index]:
    """Returns a start from which each element counts to the first of its group, and d."""
    groups = groups_of(shape)
    if groups is None:
        return start, np.uint32(0)
    corner: list[Index] = [np.uint32(0)] * like.ndim if start is None else [*start]
    axis = like.ndim + groups.axis
    sharding = explicit_sharding(like)
    index = lax.broadcasted_iota(np.uint32, like.shape, axis, out_sharding=sharding) + corner[axis]
    distance = index & np.uint32(3 * groups.stride)  # d * stride, since the stride is a power of 2
    rest = shape[axis] % groups.span
    if is_symbolic(rest):
        distance = jnp.where(jnp.asarray(rest, np.int32) == 0, distance, np.uint32(0))
    corner[axis] = corner[axis] - distance
    return tuple(corner), distance >> np.uint32(groups.stride.bit_length() - 1)
