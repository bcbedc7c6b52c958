"""Masks that are drawn where they are applied, in both passes.

A draw is a part of the code that XLA fuses with the code that uses the mask, but for a part of
packed ones. For a whole mask, `_lower_for_cpu` chooses the form of the draw, since the platform and
the devices of a program are known only when it is lowered:

    platform and devices of the program            a key of JAX     a fast key
    not a CPU                                      each element     each element
    CPU: a mesh of explicit axes, or under vmap    each element     each element
    CPU: several devices along automatic axes      each element     packed
    CPU: one device, or all axes of a shard_map    in rows          packed, in rows

- Each element: it has its own hash.
- Packed: a hash draws four elements, and their entries are written to memory as bits of a byte. See
  `packed_mask`.
- In rows: the mask of x [8, 32, 32, 128] is drawn as an array of [8192, 128]. XLA multiplies
  matrices in this shape, and can move a reshape from one operand of an operation to its result only
  if all operands have it. A reshape before a product makes XLA's CPU compiler fuse the code before
  it twice, with the hash: once for each product that the backward pass of a dense layer has.

All forms draw the same mask. Along automatic axes, a reshape could move data between devices.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import ad, batching, mlir

from .._checks import is_symbolic
from .._compat import Primitive, kernels_see_whole_arrays
from .groups import BITS, can_pack, draws_of_elements, packed_mask
from .sharding import explicit_sharding, vary_alike
from .threefry import FAST_ROUNDS, Index, Words, can_number_elements, random_bits

THRESHOLD_BITS = 23


def redraw_mask(
    words: Words,
    rounds: int,
    threshold: np.uint32 | jax.Array,
    like: jax.Array,
    start: tuple[Index, ...] | None = None,
    shape: tuple[int, ...] | None = None,
    *,
    seeds: bool = False,
) -> jax.Array:
    """Returns the mask of `sample_mask` in the shape of `like`, in a form that XLA fuses.

    `words` are the two words of the key, and the threshold is that of its `drawn_rate`. With
    `start` and `shape`, returns the part of a mask of `shape` that begins at `start`. With `seeds`,
    returns the seeds of `draw_seeds`, which have 23 bits of a hash of their own with any key.
    """
    is_whole = start is None and not seeds and isinstance(words, jax.Array)
    if is_whole and _has_forms(rounds, like):
        operands = vary_alike((jnp.zeros(like.shape, bool), words, jnp.asarray(threshold)))
        mask: jax.Array = _redraw.bind(*operands, rounds=rounds)
        return mask
    return _each(like, words, threshold, rounds=rounds, start=start, shape=shape, seeds=seeds)


def _has_forms(rounds: int, like: jax.Array) -> bool:
    """Whether the form of the draw depends on the program."""
    if explicit_sharding(like) is not None or any(map(is_symbolic, like.shape[1:])):
        return False
    if rounds == FAST_ROUNDS:
        return can_pack(like)
    return like.ndim > 2


def short_threshold(threshold: np.uint32 | jax.Array) -> np.uint32 | jax.Array:
    """Returns the threshold for the draws of a fast key, which have fewer bits."""
    return threshold >> np.uint32(THRESHOLD_BITS - BITS)


def _each(
    like: jax.Array,
    words: Words,
    threshold: np.uint32 | jax.Array,
    *,
    rounds: int,
    start: tuple[Index, ...] | None = None,
    shape: tuple[int, ...] | None = None,
    seeds: bool = False,
) -> jax.Array:
    shape = like.shape if shape is None else shape
    if seeds or rounds != FAST_ROUNDS:
        bits = random_bits(words, rounds, like, start, shape)
        return bits >> np.uint32(32 - THRESHOLD_BITS) < threshold
    return draws_of_elements(words, like, start, shape) < short_threshold(threshold)


def _packed(like: jax.Array, words: jax.Array, threshold: jax.Array, *, rounds: int) -> jax.Array:
    if rounds != FAST_ROUNDS:
        return _each(like, words, threshold, rounds=rounds)
    return packed_mask(words, short_threshold(threshold), like)


def _in_rows(like: jax.Array, words: jax.Array, threshold: jax.Array, *, rounds: int) -> jax.Array:
    shape = math.prod(like.shape[:-1]), like.shape[-1]
    if not can_number_elements(shape):
        return _packed(like, words, threshold, rounds=rounds)
    mask = _packed(jnp.zeros(shape, bool), words, threshold, rounds=rounds)
    return mask.reshape(like.shape)


_redraw = Primitive("redraw")
"""mask = redraw(like, words, threshold; rounds), in the shape of `like`, which is not read."""


def _jvp(primals: Any, tangents: Any, **params: Any) -> Any:
    mask = _redraw.bind(*primals, **params)
    return mask, ad.Zero(jax.typeof(mask).to_tangent_aval())


def _batch(operands: Any, dims: Any, **params: Any) -> Any:
    def each(*operands: jax.Array) -> jax.Array:
        return _each(*operands, **params)

    return jax.vmap(each, dims)(*operands), 0


def _lower_for_cpu(ctx: Any, *operands: Any, **params: Any) -> Any:
    form = _in_rows if kernels_see_whole_arrays(ctx) else _packed
    return mlir.lower_fun(form, multiple_results=False)(ctx, *operands, **params)


_redraw.def_abstract_eval(lambda like, *others, **params: like)
_redraw.def_impl(_each)
ad.primitive_jvps[_redraw] = _jvp
batching.primitive_batchers[_redraw] = _batch
mlir.register_lowering(_redraw, mlir.lower_fun(_each, multiple_results=False))
mlir.register_lowering(_redraw, _lower_for_cpu, platform="cpu")
