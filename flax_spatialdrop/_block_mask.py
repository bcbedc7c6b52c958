"""Masks of whole blocks: how likely a block must begin, where it reaches, how it is drawn."""

import functools
import math
from functools import partial
from types import ModuleType
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ._block_shape import Blocks
from ._checks import is_static, needs_no_key
from ._random.mask import draw_in_one_pass
from ._rates import keep_probability
from ._typing import Key, Rate

_NEWTON_STEPS = 12  # 9 reach double precision on a map of 512 x 512 at a rate of .9999
_BELOW_1 = np.float32(1 - 2**-24)
_LARGEST_SCALE = np.float32(2.0**100)  # finite, so that 0 times it is 0


def sample_blocks(key: Key, rate: Rate, blocks: Blocks, sharding: Any = None) -> jax.Array:
    """Draws a mask that is False on whole blocks, laid out as `sharding` says of x, if given."""
    if needs_no_key(rate):
        return jnp.full(blocks.noise_shape, is_static(rate, 0.0))
    unseeded = draw_in_one_pass(
        key, unseeded_probability(rate, blocks), blocks.seed_shape, sharding
    )
    mask = ~dilate(~unseeded, blocks)
    chex.assert_shape(mask, blocks.noise_shape)
    return mask


def dilate(seeds: jax.Array, blocks: Blocks) -> jax.Array:
    """From the shape of the seeds to that of the mask: True on the whole block of each seed."""
    # What draws the seeds must not be computed again for each position that they reach.
    return lax.platform_dependent(
        lax.optimization_barrier(seeds),
        tpu=partial(_dilate_by_windows, blocks=blocks),
        default=partial(_dilate_by_shifts, blocks=blocks),
    )


def _dilate_by_shifts(seeds: jax.Array, blocks: Blocks) -> jax.Array:
    """By doubling: windows of 1, 2, 4 and so on, each the union of two of half its size."""
    for axis, size in blocks.long_axes:
        config = [(0, 0, 0)] * seeds.ndim
        config[axis] = (size - 1, size - 1, 0)
        seeds = lax.optimization_barrier(lax.pad(seeds, np.False_, config))
        reached = 1
        while reached < size:
            step, length = min(reached, size - reached), seeds.shape[axis]
            seeds = lax.bitwise_or(
                lax.slice_in_dim(seeds, 0, length - step, axis=axis),
                lax.slice_in_dim(seeds, step, length, axis=axis),
            )
            reached += step
        seeds = lax.optimization_barrier(seeds)
    return seeds


def _dilate_by_windows(seeds: jax.Array, blocks: Blocks) -> jax.Array:
    """One axis after another, in float32, the type that TPUs have windows of."""
    found = seeds.astype(np.float32)
    for axis, size in blocks.long_axes:
        window, padding = [1] * seeds.ndim, [(0, 0)] * seeds.ndim
        window[axis], padding[axis] = size, (size - 1, size - 1)
        found = lax.reduce_window(found, np.float32(0), lax.max, window, [1] * seeds.ndim, padding)
    return found > 0


def unseeded_probability(rate: Rate, blocks: Blocks) -> np.float32 | jax.Array:
    """The probability u of no seed with which `rate` of all positions is dropped on average.

        mean over i of u^n(i) = 1 - rate,   n(i) = the number of seeds whose block covers i

    Of a number it is solved here, in double precision; of an array by the program.
    """
    keep = keep_probability(rate)
    if not blocks.long_axes or is_static(rate, 1.0):
        return keep
    blocks.check_sizes()
    if isinstance(rate, float):
        return _solve_once(min(rate, float(_BELOW_1)), blocks)
    counts, shares = _histogram(blocks)
    drop = jnp.minimum(np.float32(1) - keep, _BELOW_1)
    solved = _solve(jnp, counts.astype(np.float32), shares.astype(np.float32), drop)
    return jnp.where(keep > 0, solved, np.float32(0))


@functools.lru_cache(maxsize=64)
def _solve_once(rate: float, blocks: Blocks) -> np.float32:
    return np.float32(_solve(np, *_histogram(blocks), np.float64(rate)))


@functools.lru_cache(maxsize=64)
def _histogram(blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
    """The n(i) that there are, and the share of positions that has each."""
    counts: np.ndarray = np.ones(1, np.int64)
    times: np.ndarray = np.ones(1)
    for axis, size in blocks.long_axes:  # each alone: the whole map may not fit into memory
        along, repeats = np.unique(_reach(np, blocks.noise_shape[axis], size), return_counts=True)
        counts, places = np.unique(np.outer(counts, along), return_inverse=True)
        times = np.bincount(places.ravel(), np.outer(times, repeats).ravel())
    return counts, times / times.sum()


def _solve(xp: ModuleType, counts: Any, shares: Any, drop: Any) -> Any:
    """The u with sum(shares * u^counts) = 1 - drop, by Newton's steps in the logarithms of both.

    There the curve is convex and nearly straight, so that they come near and never go beyond.
    """
    target = xp.log1p(-drop)
    t = xp.zeros_like(drop)  # -log(u)
    for _ in range(_NEWTON_STEPS):
        missing = xp.sum(shares * xp.expm1(-counts * t))
        slope = xp.sum(shares * counts * xp.exp(-counts * t)) / (1 + missing)
        t = t + (xp.log1p(missing) - target) / slope
    return xp.exp(-xp.maximum(t, 0))


def scale_by_position(unseeded: np.float32 | jax.Array, blocks: Blocks) -> jax.Array:
    """1 / u^n(i), which keeps the mean of each position i; as many axes as the mask.

    By squaring: products are the same in every program, powers and logarithms are not.
    """
    counts = _counts(blocks)
    base = np.float32(1) / jnp.where(unseeded > 0, unseeded, np.float32(1))
    scale = jnp.ones(counts.shape, np.float32)
    for bit in range(math.prod(blocks.sizes).bit_length()):
        scale = jnp.where(counts >> bit & 1, scale * base, scale)
        base = base * base
    return lax.optimization_barrier(jnp.minimum(scale, _LARGEST_SCALE))


def _counts(blocks: Blocks) -> jax.Array:
    """How many blocks cover each position: n(i), 1 along all axes but those of long blocks."""
    ndim = len(blocks.noise_shape)
    counts = jnp.ones((1,) * ndim, np.int32)  # NumPy's would be kept for the derivative
    for axis, block in blocks.long_axes:
        along = _reach(jnp, blocks.noise_shape[axis], block)
        counts = counts * jnp.expand_dims(along, [a for a in range(ndim) if a != axis])
    return counts


def _reach(xp: ModuleType, size: int, block: int) -> Any:
    """How many blocks cover each position along one axis."""
    i = xp.arange(size, dtype=np.int32)
    return xp.minimum(i, size - block) - xp.maximum(0, i - block + 1) + 1
