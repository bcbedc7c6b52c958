"""JAX's threefry-2x32 draw without a loop: the same bits, in a form that XLA fuses.

Each element of `jax.random.bits` is a hash of the key and of the element's position. On a CPU, JAX
computes it in a loop that writes arrays to memory. Here the rounds are written out. XLA fuses them
with the select that uses the bits, so neither the bits nor the mask are written to memory.

Threefry is described in Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011. JAX uses
20 rounds. `FAST` is a key implementation of this package with 13 rounds.
"""

from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import is_at_most, shown
from .._compat import define_prng_impl, threefry_prng_impl
from .sharding import explicit_sharding

Index: TypeAlias = np.uint32 | jax.Array
"""An index along an axis, a uint32 scalar."""

Words: TypeAlias = jax.Array | tuple[jax.Array, jax.Array]
"""The two words of a key's data, uint32."""

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))  # of four rounds and of the next four
_PARITY = np.uint32(0x1BD11BDA)
FAST_ROUNDS = 13
TOP_BIT = np.uint32(2**31)
_HALF = np.uint32(16)
_LOW_HALF = np.uint32(0xFFFF)


def rounds_of(key: jax.Array) -> int:
    """Returns the number of threefry-2x32 rounds of a key; 0 for another implementation."""
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        implementation = jax.random.key_impl(key)
    else:
        implementation = jax.config.jax_default_prng_impl  # type: ignore[attr-defined]
    if implementation == FAST:
        return FAST_ROUNDS
    return 20 if str(implementation) == "threefry2x32" else 0


def mark_as_used(key: jax.Array) -> None:
    """Marks a key as used for `jax_debug_key_reuse`, which does not see the use of its words."""
    jax.random.bits(key, (0,))


def can_hash_by_position(key: jax.Array, shape: tuple[int, ...]) -> bool:
    """Whether `random_bits` gives the bits of `jax.random.bits` for this key and shape."""
    rounds = rounds_of(key)
    counts_as_we_do = jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]
    if rounds == 0 or (rounds != FAST_ROUNDS and not counts_as_we_do):
        return False
    return can_number_elements(shape)


def can_number_elements(shape: tuple[int, ...]) -> bool:
    """Whether `positions` can number the elements of an array of this shape.

    The first axis may have a symbolic size of jax.export, since no stride depends on it.
    """
    return all(
        size < 2**32 if isinstance(size, int) else axis == 0 for axis, size in enumerate(shape)
    )


def check_numbered(shape: tuple[int, ...]) -> None:
    """Raises if `positions` cannot number the elements of an array that a fast key draws."""
    if not can_number_elements(shape):
        raise TypeError(
            "a fast key draws arrays whose axes are shorter than 2^32, and only the first axis may "
            f"have a symbolic size: got {shown(shape)}"
        )


def random_bits(
    words: Words,
    rounds: int,
    like: jax.Array,
    start: tuple[Index, ...] | None = None,
    shape: tuple[int, ...] | None = None,
) -> jax.Array:
    """Returns `jax.random.bits(key, like.shape)`; `words` are the two words of the key.

    With `start` and `shape`, returns the part of `jax.random.bits(key, shape)` that begins there.
    """
    high, low = positions(like, start, like.shape if shape is None else shape)
    return lax.bitwise_xor(*hash_words(words[0], words[1], high, low, rounds))


@partial(jax.jit, static_argnums=(4, 5))  # so that it is traced only once for all layers
def hash_words(
    key0: jax.Array,
    key1: jax.Array,
    x0: Index,
    x1: Index,
    rounds: int,
    top_flipped: bool = False,
    start: Index | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns threefry-2x32 of the position x0 * 2^32 + x1, as two words.

    With `start`, a scalar, the lower word of the position is start + x1. It is added to the key,
    not to each element of x1.

    With `top_flipped`, the top bit of both words is flipped: as signed integers they are then in
    the order of the hash. This costs no operation, but the number of rounds must be 4 n + 1.

    This uses jax.lax, since operators of jax.numpy are slower to trace.
    """
    assert not top_flipped or rounds % 4 == 1
    keys = (key0, key1, lax.bitwise_xor(lax.bitwise_xor(key0, key1), _PARITY))
    added = keys[1] if start is None else lax.add(keys[1], start)
    x0, x1 = lax.add(x0, keys[0]), lax.add(x1, added)
    for done in range(1, rounds + 1):
        block, turn = divmod(done - 1, 4)
        x0, x1 = _round(x0, x1, np.uint32(_ROTATIONS[block % 2][turn]))
        if turn == 3:
            add0, add1 = keys[(block + 1) % 3], keys[(block + 2) % 3]
            if top_flipped and done == rounds - 1:
                add0 = lax.add(add0, TOP_BIT)  # the last round takes it to both words
            x0, x1 = lax.add(x0, add0), lax.add(x1, lax.add(add1, np.uint32(block + 1)))
    return x0, x1


def _round(x0: jax.Array, x1: jax.Array, rotation: Index) -> tuple[jax.Array, jax.Array]:
    x0 = lax.add(x0, x1)
    up = lax.shift_left(x1, rotation)
    down = lax.shift_right_logical(x1, lax.sub(np.uint32(32), rotation))
    return x0, lax.bitwise_xor(x0, lax.bitwise_or(up, down))


def hash_in_loop(words: Words, high: Index, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns `hash_words` of 13 rounds, but computed in a loop.

    Without the loop, XLA would fuse the rounds with the code that uses the hash. A draw that many
    elements share would then be hashed again for each of them. (On CPUs a barrier does not help,
    since XLA removes it before it fuses.)
    """
    keys = jnp.stack([words[0], words[1], words[0] ^ words[1] ^ _PARITY])
    state = (jnp.zeros_like(low) + high + keys[0], low + keys[1])
    blocks = np.arange(3)
    rotations = np.array(_ROTATIONS, np.uint32)[blocks % 2]
    counts = np.arange(1, 4, dtype=np.uint32)
    injected = keys[(blocks + 1) % 3], keys[(blocks + 2) % 3] + counts

    def four_rounds(state: Any, constants: Any) -> tuple[Any, None]:
        rotations, (add0, add1) = constants
        x0, x1 = state
        for turn in range(4):
            x0, x1 = _round(x0, x1, rotations[turn])
        return (x0 + add0, x1 + add1), None

    (x0, x1), _ = lax.scan(four_rounds, state, (rotations, injected))
    return _round(x0, x1, np.uint32(_ROTATIONS[1][0]))


def _fast_bits(words: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
    """Implements `jax.random.bits` for a fast key."""
    check_numbered(shape)
    x0, x1 = hash_in_loop(words, *positions(jnp.zeros(shape), None, shape))
    if bit_width == 64:
        return x0.astype(np.uint64) << np.uint64(32) | x1.astype(np.uint64)
    return (x0 ^ x1).astype(f"uint{bit_width}")


FAST = define_prng_impl(
    key_shape=threefry_prng_impl.key_shape,
    seed=threefry_prng_impl.seed,
    split=threefry_prng_impl.split,
    fold_in=threefry_prng_impl.fold_in,
    random_bits=_fast_bits,
    name="threefry2x32_13",
    tag="fry13",
)


def positions(
    like: jax.Array, start: tuple[Index, ...] | None, shape: tuple[int, ...]
) -> tuple[Index, jax.Array]:
    """Returns the position of each element of `like` in a row-major array of `shape`, in two words.

    `start` is the index of the first element of `like`. The position is
    high * 2^32 + low = sum over axes of index * stride.
    """
    out_sharding = explicit_sharding(like)
    high: Index = np.uint32(0)
    low = jnp.zeros(like.shape, np.uint32, out_sharding=out_sharding)
    stride = 1
    for axis in reversed(range(like.ndim)):
        index = lax.broadcasted_iota(np.uint32, like.shape, axis, out_sharding=out_sharding)
        if start is not None:
            index = index + start[axis]
        term = index * np.uint32(stride % 2**32)
        if not is_at_most(stride * shape[axis], 2**32):  # else the upper word is still 0
            high = high + _high_product(index, stride)
            high = high + (low + term < low).astype(np.uint32)  # the carry
        low = low + term
        stride *= shape[axis]
    return high, low


def _high_product(index: jax.Array, stride: int) -> jax.Array:
    """Returns the upper 32 bits of index * stride, from products of their 16-bit halves.

    This is long multiplication in base 2^16. For example, in base 10 it finds 83, the upper digits
    of 97 * 86 = 8342. The index is i1 i0 = 97, the stride is s1 s0 = 86:

        i1 * s1 = 9 * 8                                        72
        upper digits of i0 * s1 = 7 * 8 and i1 * s0 = 9 * 6     5 + 5
        carry of the column of tens, 4 + 6 + 4 = 14             1
                                                               83

    In the column of tens are the upper digit of i0 * s0 = 42 and the lower digits of 56 and 54.
    """
    high, low = divmod(stride, 2**32)
    s1, s0 = (np.uint32(half) for half in divmod(low, 2**16))
    i1, i0 = index >> _HALF, index & _LOW_HALF
    middle = (i0 * s0 >> _HALF) + (i0 * s1 & _LOW_HALF) + (i1 * s0 & _LOW_HALF)
    carried = i1 * s1 + (i0 * s1 >> _HALF) + (i1 * s0 >> _HALF) + (middle >> _HALF)
    return carried + index * np.uint32(high % 2**32)
