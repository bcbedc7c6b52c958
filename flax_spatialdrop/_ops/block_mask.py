"""Masks of whole blocks: how seeds become blocks, and the probability of a seed."""

import functools
import math
import operator
from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from .._checks import (
    check_batch_dims,
    check_key,
    check_sequence,
    check_switch,
    is_at_most,
    is_static,
    is_symbolic,
    is_whole,
    needs_no_key,
    plural,
    shown,
)
from .._compat import assert_shape
from .._noise_shape import axis_roles
from .._random.mask import draw_seeds, keep_threshold, sample_sharded
from .._random.redraw import redraw_mask
from .._random.threefry import can_hash_by_position, mark_as_used, rounds_of
from .._rates import keep_probability
from .._typing import DataFormat, Key, Rate, Shape


class Blocks(NamedTuple):
    """Where blocks may lie in a mask.

    A block starts at its seed and must fit inside the map. For example, a block of size 3 has 3
    possible seeds among 5 positions, and n(i) of them have a block that covers position i:

        position   0  1  2  3  4
        seed       s  s  s
        n(i)       1  2  3  2  1

    An axis that a block covers completely is treated as one position, since all of it shares a
    draw: the noise shape and the block have size 1 along it.

    Attributes:
      noise_shape: the shape of the mask, with one entry per axis of x.
      axes: the space axes.
      sizes: the size of a block along each space axis.
      batch_dims: the number of leading batch axes.
    """

    noise_shape: Shape
    axes: Shape
    sizes: Shape
    batch_dims: int

    @property
    def long_axes(self) -> list[tuple[int, int]]:
        """The axes along which a block is longer than 1, with its size along each."""
        return [(axis, size) for axis, size in zip(self.axes, self.sizes, strict=True) if size > 1]

    def check_sizes(self) -> None:
        """Raises if n(i) is unknown because the map has a symbolic size."""
        for axis, size in self.long_axes:
            if is_symbolic(self.noise_shape[axis]):
                raise ValueError(
                    "block_size must be 1 along an axis of symbolic size: "
                    f"got {size} along axis {axis} of size {shown(self.noise_shape[axis])}"
                )

    @property
    def seed_shape(self) -> Shape:
        """The shape of the seeds: one for each place where a whole block fits."""
        shape = list(self.noise_shape)
        for axis, size in zip(self.axes, self.sizes, strict=True):
            shape[axis] += 1 - size
        return tuple(shape)


def resolve_blocks(
    name: str,
    shape: Shape,
    block_size: int | Sequence[int],
    *,
    per_channel: bool,
    data_format: DataFormat,
    batch_dims: int,
) -> Blocks:
    """Returns the blocks for x of `shape`. Errors start with `name`, the regularizer."""
    batch_dims = check_batch_dims(batch_dims)
    roles = axis_roles(shape, data_format, batch_dims)
    axes = tuple(axis for axis, role in enumerate(roles) if role == "space")
    if not 1 <= len(axes) <= 3:
        raise ValueError(
            f"{name} takes x with 1 to 3 space axes between {plural(batch_dims, 'batch axis')} and "
            f"the channel axis: got x.shape={shape}, which has {len(axes)}"
        )
    check_switch(per_channel, "per_channel")
    sizes = list(_one_per_axis(block_size, len(axes)))
    noise_shape = [
        1 if role == "channel" and not per_channel else size
        for role, size in zip(roles, shape, strict=True)
    ]
    for i, axis in enumerate(axes):
        if is_at_most(noise_shape[axis], sizes[i]):
            sizes[i] = noise_shape[axis] = 1
    return Blocks(tuple(noise_shape), axes, tuple(sizes), batch_dims)


def _one_per_axis(block_size: Any, num_space: int) -> Shape:
    rule = "an integer, or a tuple of one per space axis"
    sizes = (
        (block_size,) * num_space
        if is_whole(block_size)
        else check_sequence(block_size, "block_size", rule)
    )
    if not all(map(is_whole, sizes)):
        raise TypeError(f"block_size must be {rule}: got {shown(block_size)}")
    if min(sizes, default=1) < 1:
        raise ValueError(f"block_size must be at least 1 along every axis: got {shown(block_size)}")
    if len(sizes) != num_space:
        raise ValueError(
            f"block_size needs one entry per space axis of x, {num_space} in all: "
            f"got block_size={shown(block_size)}"
        )
    return tuple(map(operator.index, sizes))


_NEWTON_STEPS = 12  # 9 reach double precision on a map of 512 x 512 at a rate of .9999
_BELOW_1 = np.float32(1 - 2**-24)  # the largest float32 below 1
# Finite, since 0 times it must be 0: a value may be 0, and the derivative of a dropped value is 0.
_LARGEST_SCALE = np.float32(2.0**100)


def sample_blocks(
    key: Key, rate: Rate, blocks: Blocks, sharding: NamedSharding | None = None
) -> jax.Array:
    """Draws a mask that is False on whole blocks, with this sharding if one is given."""
    if needs_no_key(rate):
        fill = jnp.ones if is_static(rate, 0.0) else jnp.zeros
        return fill(blocks.noise_shape, bool, out_sharding=sharding)
    if not blocks.long_axes:
        return sample_sharded(key, rate, blocks.noise_shape, sharding)
    key, keep = check_key(key), no_seed_probability(rate, blocks)
    if sharding is not None:
        divided = [axis for axis, _ in blocks.long_axes if sharding.spec[axis] is not None]
        if divided and can_hash_by_position(key, blocks.seed_shape):
            mask: jax.Array = _sample_by_devices(key, keep_threshold(keep), blocks, sharding)
            return mask
        spec = (None if axis in divided else names for axis, names in enumerate(sharding.spec))
        sharding = sharding.update(spec=P(*spec))
    mask = ~dilate(~draw_seeds(key, keep, blocks.seed_shape, sharding), blocks)
    assert_shape(mask, blocks.noise_shape)
    return mask


@partial(jax.jit, static_argnums=(2, 3))
def _sample_by_devices(
    key: jax.Array,
    threshold: np.uint32 | jax.Array,
    blocks: Blocks,
    sharding: NamedSharding,
) -> jax.Array:
    """Draws a mask whose space is divided over devices, which send nothing to one another.

    Each device draws all seeds whose blocks reach its positions, so two devices draw the seeds near
    a border. For 8 positions on 2 devices and blocks of size 3, whose seeds are 0 to 5:

        positions of a device     0 1 2 3      4 5 6 7
        seeds that it draws       0 1 2 3      2 3 4 5
    """
    words, rounds = jax.random.key_data(key), rounds_of(key)
    mark_as_used(key)
    own = sharding.shard_shape(blocks.noise_shape)
    margins = [dict(blocks.long_axes).get(axis, 1) - 1 for axis in range(len(own))]
    sizes = tuple(map(min, map(operator.add, own, margins), blocks.seed_shape))

    def draw(words: jax.Array, threshold: np.uint32 | jax.Array) -> jax.Array:
        start = [_first(size, names) for size, names in zip(own, sharding.spec, strict=True)]
        first = [
            jnp.clip(begin - margin, 0, num - size)
            for begin, margin, num, size in zip(
                start, margins, blocks.seed_shape, sizes, strict=True
            )
        ]
        corner = tuple(index.astype(np.uint32) for index in first)
        like = jnp.zeros(sizes, bool)
        draw_part = partial(redraw_mask, words, rounds, threshold, seeds=True)
        no_seed = draw_part(like, corner, blocks.seed_shape)
        return lax.dynamic_slice(~dilate(~no_seed, blocks), [*map(jnp.subtract, start, first)], own)

    names = {name for entry in sharding.spec if entry for name in jax.tree.leaves(entry)}
    drawn: jax.Array = jax.shard_map(
        draw, mesh=sharding.mesh, in_specs=P(), out_specs=sharding.spec, axis_names=names
    )(words, threshold)
    return drawn


def _first(size: int, names: Any) -> jax.Array:
    """Returns the first index on this device of an axis that is sharded over `names`."""
    device = lax.axis_index(names) if names else 0
    return jnp.asarray(device * size, np.int32)


def dilate(seeds: jax.Array, blocks: Blocks) -> jax.Array:
    """Turns seeds into a mask of the noise shape that is True on the block of each seed."""
    # Without the barrier, XLA may draw a seed again for each position of its block.
    dilated: jax.Array = lax.platform_dependent(
        lax.optimization_barrier(seeds),
        tpu=partial(_dilate_by_windows, blocks=blocks),
        default=partial(_dilate_by_shifts, blocks=blocks),
    )
    return dilated


def _dilate_by_shifts(seeds: jax.Array, blocks: Blocks) -> jax.Array:
    """Grows blocks by doubling: a window of size 2n is the union of two windows of size n.

    The barriers separate the axes. Without them, XLA may fuse the steps of several axes, and
    compute those of the first axis again for each position of the next.
    """
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
    """Grows blocks along one axis after another, in float32, which TPUs can reduce over windows."""
    found = seeds.astype(np.float32)
    for axis, size in blocks.long_axes:
        window, padding = [1] * seeds.ndim, [(0, 0)] * seeds.ndim
        window[axis], padding[axis] = size, (size - 1, size - 1)
        found = lax.reduce_window(found, np.float32(0), lax.max, window, [1] * seeds.ndim, padding)
    return found > 0


def no_seed_probability(rate: Rate, blocks: Blocks) -> np.float32 | jax.Array:
    """Returns the probability u that a place has no seed, such that `rate` of x is dropped.

        mean over i of u^n(i) = 1 - rate,   n(i) = the number of seeds whose block covers i

    If rate is a number, this solves for u now, in double precision; else when the program runs.
    """
    keep = keep_probability(rate)
    if not blocks.long_axes or is_static(rate, 1.0):
        return keep
    blocks.check_sizes()
    if isinstance(rate, float):
        return _solve_once(min(rate, float(_BELOW_1)), blocks)
    counts, shares = _histogram(blocks)
    rate = jnp.minimum(np.float32(1) - keep, _BELOW_1)
    solved = _solve(jnp, counts.astype(np.float32), shares.astype(np.float32), rate)
    return jnp.where(keep > 0, solved, np.float32(0))


@functools.lru_cache(maxsize=64)
def _solve_once(rate: float, blocks: Blocks) -> np.float32:
    return np.float32(_solve(np, *_histogram(blocks), np.float64(rate)))


@functools.lru_cache(maxsize=64)
def _histogram(blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
    """Returns the values of n(i), and the fraction of positions that have each."""
    counts: np.ndarray = np.ones(1, np.int64)
    positions: np.ndarray = np.ones(1)  # how many have each of the counts
    for axis, size in blocks.long_axes:  # one by one, since the whole map may not fit into memory
        length = blocks.noise_shape[axis]
        cover = _cover(np, np.arange(length, dtype=np.int32), length, size)
        along, repeats = np.unique(cover, return_counts=True)
        counts, bins = np.unique(np.outer(counts, along), return_inverse=True)
        positions = np.bincount(bins.ravel(), np.outer(positions, repeats).ravel())
    return counts, positions / positions.sum()


def _solve(xp: ModuleType, counts: Any, shares: Any, rate: Any) -> Any:
    """Solves sum(shares * u^counts) = 1 - rate for u, by Newton's method.

        f(t) = log(sum(shares * exp(-counts * t))) - log(1 - rate) = 0,   t = -log(u)

    f is decreasing, convex and nearly straight, so the steps t - f(t) / f'(t) from t = 0 converge
    from one side.
    """
    log_target = xp.log1p(-rate)
    t = xp.zeros_like(rate)
    for _ in range(_NEWTON_STEPS):
        kept_minus_1 = xp.sum(shares * xp.expm1(-counts * t))
        minus_slope = xp.sum(shares * counts * xp.exp(-counts * t)) / (1 + kept_minus_1)  # -f'(t)
        f = xp.log1p(kept_minus_1) - log_target
        t = t + f / minus_slope
    return xp.exp(-xp.maximum(t, 0))


def scale_by_position(no_seed: np.float32 | jax.Array, blocks: Blocks) -> jax.Array:
    """Returns 1 / u^n(i), which keeps the mean at each position i, with the mask's axes.

    `no_seed` is the probability u.

    The power is computed from products, by squaring, because XLA rounds products in the same way in
    every program. It does not do so for powers and logarithms.
    """
    counts = _counts(blocks)
    base = np.float32(1) / jnp.where(no_seed > 0, no_seed, np.float32(1))
    scale = jnp.ones(counts.shape, np.float32)
    for bit in range(math.prod(blocks.sizes).bit_length()):  # n(i) is at most prod(sizes)
        scale = jnp.where(counts >> bit & 1, scale * base, scale)
        base = base * base
    stored: jax.Array = lax.optimization_barrier(jnp.minimum(scale, _LARGEST_SCALE))
    return stored


def _counts(blocks: Blocks) -> jax.Array:
    """Returns n(i), with size 1 along the axes where a block has size 1."""
    long_axes = dict(blocks.long_axes)
    shape = [n if axis in long_axes else 1 for axis, n in enumerate(blocks.noise_shape)]
    counts = jnp.ones(shape, np.int32)  # a NumPy array would become a residual
    for axis, block in long_axes.items():
        # In the whole shape, so that each device can compute its own part of it.
        i = lax.broadcasted_iota(np.int32, shape, axis)
        counts = counts * _cover(jnp, i, shape[axis], block)
    return counts


def _cover(xp: ModuleType, i: Any, size: int, block: int) -> Any:
    """Returns how many blocks cover the position i along an axis of this size.

    Their seeds are max(0, i - block + 1), ..., min(i, size - block).
    """
    return xp.minimum(i, size - block) - xp.maximum(0, i - block + 1) + 1
