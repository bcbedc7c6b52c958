"""Bernoulli masks: drawn as arrays, drawn again in the backward pass, or drawn in blocks.

These functions draw the same mask from a key:

    function            draws           used for
    sample_mask         a whole mask    masks that are kept, with any key
    sample_sharded      a whole mask    masks of an input that is sharded over devices
    redraw_mask         whole or part   masks that are drawn where they are applied, in both passes;
                                        with `seeds`, those of `draw_seeds`
    mask_block          a part          users: it checks its arguments

These give each entry its own hash, and 23 bits of it, with any key:

    draw_seeds          a whole array   the seeds of blocks, which need small probabilities
    sample_each         a whole mask    entries that are kept with probabilities of their own

With a key of JAX, all of them draw the bits of `jax.random.bernoulli`. Masks of a fast key follow
the equation in `groups`. `redraw_mask` is in `redraw`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from .._checks import (
    check_key,
    check_rate,
    is_at_most,
    is_sequence,
    is_static,
    is_symbolic,
    is_whole,
    needs_no_key,
    shown,
    unboxed,
)
from .._compat import assert_shape
from .._noise_shape import check_block_fits, check_shape
from .._rates import keep_probability
from .._typing import Array, Key, Rate, Shape
from .groups import BITS, draws_of_elements
from .redraw import THRESHOLD_BITS, redraw_mask, short_threshold
from .sharding import drawn
from .threefry import (
    FAST_ROUNDS,
    Index,
    Words,
    can_hash_by_position,
    can_number_elements,
    check_numbered,
    mark_as_used,
    rounds_of,
)


def sample_mask(key: Key, rate: Rate, noise_shape: Sequence[int]) -> jax.Array:
    """Draws a mask with independent entries, True where a value is kept.

        mask[i] ~ Bernoulli(1 - rate)

    The mask is `jax.random.bernoulli(key, keep, noise_shape)`, where `keep` is `float32(1 - rate)`
    for a number and `float32(1) - float32(rate)` for an array. A `fast_key` draws another mask, by
    the equation in its docstring. A mask does not depend on the dtype of x, or on jit, vmap or x64.
    With threefry keys, it does not depend on the number of devices either.

    Args:
      key: a JAX PRNG key, typed or legacy, which the call consumes. It may be None if rate is the
        number 0 or 1.
      rate: the probability to drop, in [0, 1]: a number or a scalar array, traced or not. An array
        is clipped to [0, 1], and NaN drops everything.
      noise_shape: the shape of the mask, a tuple of integers.

    Returns:
      bool[noise_shape], for `apply_mask`.

    Raises:
      ValueError: if a number for rate is outside [0, 1], a size is negative, or the key is missing
        or is a batch of keys.
      TypeError: if rate, key or noise_shape has the wrong type.

    Example:
      >>> import jax
      >>> from flax_spatialdrop import sample_mask
      >>> sample_mask(jax.random.key(0), 0.5, (2, 1, 3)).shape
      (2, 1, 3)

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """
    rate = check_rate(rate)
    return sample_sharded(key, rate, check_shape(noise_shape, "the noise_shape of a mask"))


def sample_sharded(
    key: Key, rate: Rate, shape: Shape, sharding: NamedSharding | None = None
) -> jax.Array:
    """Returns the mask of `sample_mask`, where each device draws only its own part.

    The rate and the shape have been checked. On meshes of explicit axes, the mask has `sharding`.
    """
    if needs_no_key(rate):
        fill = jnp.ones if is_static(rate, 0.0) else jnp.zeros
        return fill(shape, bool, out_sharding=sharding)
    key = check_key(key)
    keep = keep_probability(drawn_rate(key, rate))
    if rounds_of(key) == FAST_ROUNDS:
        check_numbered(shape)
        mask: jax.Array = _whole(_fast_in_loop, key, keep_threshold(keep), shape, sharding)
    else:
        mask = drawn(partial(jax.random.bernoulli, key, keep, shape), sharding)
    assert_shape(mask, shape)
    return mask


def _fast_in_loop(
    words: Words, _: int, threshold: np.uint32 | jax.Array, like: jax.Array
) -> jax.Array:
    """Returns the mask of `sample_mask` with a fast key; a small mask is hashed in a loop."""
    draws = draws_of_elements(words, like, None, like.shape, in_loop=True)
    return draws < short_threshold(threshold)


@partial(jax.jit, static_argnums=(0, 3, 4))
def _whole(
    draw: Callable[..., jax.Array],
    key: jax.Array,
    threshold: np.uint32 | jax.Array,
    shape: tuple[int, ...],
    sharding: NamedSharding | None,
) -> jax.Array:
    """Returns draw(words, rounds, threshold, like) for an array of `shape`, and uses up the key."""
    words = jax.random.key_data(key)
    mark_as_used(key)
    like = jnp.zeros(shape, bool, out_sharding=sharding)
    return draw(words, rounds_of(key), threshold, like)


def drawn_rate(key: Key | tuple[Array, Array], rate: Rate) -> Rate:
    """Returns the rate at which the masks of this key drop; call it where a key and a rate meet.

    A draw of a fast key has 16 bits, so 1 - rate is rounded to a multiple of 2^-16. It stays above
    0 unless the rate is 1. The result is exact in float32, so a scale that is computed from it
    keeps the mean. All other keys drop at the rate itself.

    Args:
      key: a checked key, or the words of a key of JAX; None if the masks are given by the user.
      rate: a checked rate.
    """
    if key is None or isinstance(key, tuple) or rounds_of(key) != FAST_ROUNDS:
        return rate
    if isinstance(rate, float):
        return 1 - max(round((1 - rate) * (1 << BITS)), rate < 1) / (1 << BITS)
    keep, one = keep_probability(rate), np.float32(1)
    count = jnp.round(keep * np.float32(1 << BITS))
    drawn: jax.Array = one - jnp.where(keep > 0, jnp.maximum(count, one), count) / (1 << BITS)
    return drawn


def sample_each(key: Key, keep: jax.Array, sharding: NamedSharding | None = None) -> jax.Array:
    """Draws mask[i] ~ Bernoulli(keep[i]): `jax.random.bernoulli(key, keep)`."""
    return drawn(partial(jax.random.bernoulli, check_key(key), keep, keep.shape), sharding)


def is_redrawn(key: jax.Array, noise_shape: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether to draw a mask again for the gradient, instead of keeping it.

    Drawing again is faster if each element has its own draw. A draw that is shared by two elements
    would be hashed twice. On TPUs it is then faster to keep the mask; on CPUs it is not
    (`python -m experiments.benchmarks --only=line`).
    """
    return noise_shape == shape and can_hash_by_position(key, shape)


def keep_threshold(keep: np.float32 | jax.Array) -> np.uint32 | jax.Array:
    """Returns the threshold for 23 bits of a draw: a value is kept if they are below.

    `jax.random.bernoulli(key, keep)` compares multiples of 2^-23 to the float32 `keep`. Comparing
    integers to this threshold has the same result.
    """
    count = keep * np.float32(2**THRESHOLD_BITS)  # exact: a power of two
    if isinstance(count, np.float32):
        return np.uint32(np.ceil(count))
    return jnp.ceil(count).astype(np.uint32)


_redraw_seeds = partial(redraw_mask, seeds=True)


def draw_seeds(
    key: Key,
    keep: np.float32 | jax.Array,
    shape: tuple[int, ...],
    sharding: NamedSharding | None = None,
) -> jax.Array:
    """Returns `jax.random.bernoulli(key, keep, shape)`, but not in a loop, which is slow on CPUs.

    It is False where a block or a span begins. On meshes of explicit axes, it has `sharding`.
    """
    key = check_key(key)
    if not can_hash_by_position(key, shape):
        return drawn(partial(jax.random.bernoulli, key, keep, shape), sharding)
    seeds: jax.Array = _whole(_redraw_seeds, key, keep_threshold(keep), shape, sharding)
    return seeds


_THREEFRY_ROUNDS = 20


def mask_block(
    key: Key | tuple[Array, Array],
    rate: Rate,
    noise_shape: Sequence[int],
    start: Sequence[int | Array] | Array,
    sizes: Sequence[int],
) -> jax.Array:
    """Draws one block of a mask, without computing the rest of the mask.

        mask_block(key, rate, noise_shape, start, sizes)
            = sample_mask(key, rate, noise_shape)[start : start + sizes]

    The bits are the same as in the whole mask, so each step of a loop, each device and each kernel
    can draw only the part that it needs. Time and memory depend only on the size of the block. Only
    32-bit integer operations are used (sums, products, shifts, xors), so this also runs inside a
    Pallas kernel.

    Args:
      key: a threefry key (JAX's default), typed or legacy, or a `fast_key`. With other keys, a bit
        does not depend on its position alone. All blocks of a mask use the same key, so it is not
        consumed; do not use it for anything else. In a Pallas kernel, pass the two words of a
        threefry key's data as a tuple of uint32 scalars. The words of a `fast_key` draw the masks
        of the key that it was made from: a fast key cannot be used there. It may be None if rate is
        the number 0 or 1.
      rate: the probability to drop, in [0, 1]: a number or a scalar array, traced or not. An array
        is clipped to [0, 1], and NaN drops everything.
      noise_shape: the shape of the whole mask, a tuple of integers. The mask may have more than
        2^32 elements. (The first size may be a symbolic size of `jax.export`.)
      start: the position where the block begins: a tuple with an integer or an integer scalar array
        for each axis, or one array of integers. Entries may be traced, such as the index of a loop,
        of a device, or of a program of a kernel. Traced entries cannot be checked; they are clipped
        so that the block lies inside the mask.
      sizes: the shape of the block, a tuple of integers.

    Returns:
      bool[sizes], True where a value is kept.

    Raises:
      ValueError: if the block does not lie inside the mask, a number for rate is outside [0, 1],
        the key is missing, or its masks cannot be drawn in parts.
      TypeError: if an argument has the wrong type.

    Example:
      >>> import jax
      >>> from flax_spatialdrop import mask_block, sample_mask
      >>> key = jax.random.key(0)
      >>> part = mask_block(key, 0.5, (8, 1, 16), (2, 0, 4), (1, 1, 8))
      >>> bool((part == sample_mask(key, 0.5, (8, 1, 16))[2:3, :, 4:12]).all())
      True

    Reference: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011,
    https://doi.org/10.1145/2063384.2063405
    """
    rate = check_rate(rate)
    shape = check_shape(noise_shape, "the noise_shape of a mask")
    if is_sequence(sizes) and any(isinstance(size, jax.core.Tracer) for size in sizes):
        raise TypeError(f"the sizes of a block must be known when tracing: got {shown(sizes)}")
    sizes = check_shape(sizes, "the sizes of a block")
    first = _check_start(start, sizes, shape)
    if needs_no_key(rate):
        return jnp.full(sizes, is_static(rate, 0.0))
    words, rounds = words_and_rounds(key, shape, "key")
    indices = tuple(
        np.uint32(entry) if isinstance(entry, int) else clipped(entry, size - length)
        for entry, size, length in zip(first, shape, sizes, strict=True)
    )
    threshold = keep_threshold(keep_probability(drawn_rate(key, rate)))
    block: jax.Array = _draw_block(words, threshold, indices, rounds, shape, sizes)
    return block


def words_and_rounds(key: Key | tuple[Array, Array], shape: Shape, name: str) -> tuple[Words, int]:
    """Returns the words and the rounds of a key; raises if it cannot draw a part of the mask.

    The key is not consumed.
    """
    if not can_number_elements(shape):
        rule = "no axis but the first has a symbolic size"
        if not any(map(is_symbolic, shape)):
            rule = "every axis is shorter than 2^32"
        raise ValueError(
            f"a part of a mask can be drawn alone only if {rule}: "
            f"got a mask of shape {shown(shape)}"
        )
    if isinstance(key, tuple):
        return _check_words(key), _THREEFRY_ROUNDS
    key = check_key(key, name)
    if rounds_of(key) == 0:
        raise ValueError(
            f"{name} must be a threefry2x32 key or a fast_key, since a part of a mask is drawn "
            f"alone: got a key of {_implementation(key)}; "
            "write jax.random.key(seed, impl='threefry2x32')"
        )
    if not can_hash_by_position(key, shape):
        raise ValueError(
            "jax_threefry_partitionable must be on, since a part of a mask is drawn alone: "
            f"got False; turn it on or make {name} a fast_key"
        )
    return jax.random.key_data(key), rounds_of(key)


@partial(jax.jit, static_argnums=(3, 4, 5))
def _draw_block(
    words: Words,
    threshold: np.uint32 | jax.Array,
    start: tuple[Index, ...],
    rounds: int,
    shape: Shape,
    sizes: Shape,
) -> jax.Array:
    """Returns the part of a mask of `shape` that begins at `start`; compiled once for its sizes."""
    return redraw_mask(words, rounds, threshold, jnp.zeros(sizes, bool), start, shape)


def _implementation(key: jax.Array) -> str:
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return str(jax.random.key_impl(key))
    return str(jax.config.jax_default_prng_impl)  # type: ignore[attr-defined]


def _check_words(words: tuple[Any, ...]) -> tuple[jax.Array, jax.Array]:
    for word in words:
        if getattr(word, "dtype", None) != jnp.uint32 or word.shape != ():
            raise TypeError(
                "key must be a JAX PRNG key or a tuple of two uint32 scalars: "
                f"got {shown(word)} in it"
            )
    if len(words) != 2:
        raise ValueError(f"key must have the two words of threefry: got a tuple of {len(words)}")
    return words


def _check_start(start: Any, sizes: Shape, shape: Shape) -> tuple[int | jax.Array, ...]:
    """Returns where the block begins along each axis. Entries that are not traced are checked."""
    if isinstance(start, jax.Array | np.ndarray) and start.ndim == 1:
        start = tuple(start[axis] for axis in range(len(start)))
    if not is_sequence(start):
        raise TypeError(
            "start must be a tuple with one entry per axis of the mask, or an array of them: "
            f"got {shown(start)}"
        )
    checked = tuple(int(entry) if is_whole(entry) else _check_index(entry) for entry in start)
    check_block_fits(checked, sizes, shape)
    return checked


def _check_index(entry: Any) -> int | jax.Array:
    entry = unboxed(entry)
    if not isinstance(entry, jax.Array | np.ndarray) or entry.shape != ():
        raise TypeError(f"start must hold integers or integer scalar arrays: got {shown(entry)}")
    if not jnp.issubdtype(entry.dtype, jnp.integer):
        raise TypeError(
            f"start must hold integers or integer scalar arrays: got one of dtype {entry.dtype}"
        )
    return entry if isinstance(entry, jax.core.Tracer) else int(entry)


def clipped(index: jax.Array, last: int) -> jax.Array:
    """Clips an index of any integer dtype to 0, ..., `last`, and returns it as uint32."""
    largest = int(jnp.iinfo(index.dtype).max)
    if is_at_most(last, largest):
        largest = last
    return jnp.clip(index, index.dtype.type(0), jnp.asarray(largest, index.dtype)).astype(np.uint32)
