"""DropBlock: blocks of neighbouring positions, which neighbours cannot make up for."""

import dataclasses
import functools
import math
import operator
from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._apply import Recipe, by_mask, drop, kept_or_zero
from .._checks import (
    check_batch_dims,
    check_choice,
    check_input,
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
from .._noise_shape import axis_roles
from .._random.mask import draw_in_one_pass
from .._random.sharding import sharding_of_part
from .._rates import keep_probability
from .._typing import Array, DataFormat, Key, Rate, Shape


class Blocks(NamedTuple):
    """Blocks inside the space axes of a mask.

    A block of 3 on 5 positions begins at one of 3 seeds, so position i is covered by up to n(i):

        position   0  1  2  3  4
        seeds      s  s  s            each the first position of its block
        n(i)       1  2  3  2  1      which blocks reach i

    Along an axis that a block covers whole, the mask has one draw for all: sizes 1 in both.

    Attributes:
      noise_shape: the mask's shape, as many axes as x.
      axes: the space axes.
      sizes: of a block along them.
      batch_dims: how many leading axes are batch axes.
    """

    noise_shape: Shape
    axes: Shape
    sizes: Shape
    batch_dims: int

    @property
    def space(self) -> Shape:
        """The sizes of the space axes."""
        return tuple(self.noise_shape[axis] for axis in self.axes)

    @property
    def long_axes(self) -> list[tuple[int, int]]:
        """The axes along which a block is longer than 1, each with its length."""
        return [(axis, size) for axis, size in zip(self.axes, self.sizes, strict=True) if size > 1]

    def check_sizes(self) -> None:
        """Raises unless it is known how many blocks reach each position."""
        for axis, size in self.long_axes:
            if is_symbolic(self.noise_shape[axis]):
                raise ValueError(
                    "block_size must be 1 along an axis of symbolic size, where blocks are drawn: "
                    f"got {size} along axis {axis} of size {shown(self.noise_shape[axis])}"
                )

    @property
    def seed_shape(self) -> Shape:
        """One seed for each place where a whole block fits: its corner of lowest indices."""
        shape = list(self.noise_shape)
        for axis, size in zip(self.axes, self.sizes, strict=True):
            shape[axis] += 1 - size
        return tuple(shape)


def resolve_blocks(
    what: str,
    shape: Shape,
    block_size: int | Sequence[int],
    *,
    per_channel: bool,
    data_format: DataFormat,
    batch_dims: int,
) -> Blocks:
    """The blocks that lie in x of `shape`; `what` names who asks."""
    batch_dims = check_batch_dims(batch_dims)
    roles = axis_roles(shape, data_format, batch_dims)
    axes = tuple(axis for axis, role in enumerate(roles) if role == "space")
    if not 1 <= len(axes) <= 3:
        raise ValueError(
            f"{what} takes x with 1 to 3 space axes between {plural(batch_dims, 'batch axis')} and "
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
    what = "a whole number of positions, or a tuple of one for each space axis"
    sizes = (
        (block_size,) * num_space
        if is_whole(block_size)
        else check_sequence(block_size, "block_size", what)
    )
    if not all(map(is_whole, sizes)):
        raise TypeError(f"block_size must be {what}: got {shown(block_size)}")
    if min(sizes, default=1) < 1:
        raise ValueError(f"block_size must be at least 1 along every axis: got {shown(block_size)}")
    if len(sizes) != num_space:
        raise ValueError(
            f"block_size needs one entry per space axis of x, {num_space} in all: "
            f"got block_size={shown(block_size)}"
        )
    return tuple(map(operator.index, sizes))


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


Normalize: TypeAlias = Literal["expected", "sample", "batch", None]
"""What kept values are divided by: `drop_block` has the equations."""


def drop_block(
    key: Key,
    x: Array,
    rate: Rate,
    *,
    block_size: int | Sequence[int] = 7,
    per_channel: bool = True,
    normalize: Normalize = "expected",
    data_format: DataFormat = "channels_last",
    batch_dims: int = 1,
) -> jax.Array:
    """Drops whole blocks of neighbouring positions, of a sequence, an image or a volume.

        y[b, i, c] = x[b, i, c] * m[b, i, c] / k(i),   m = 0 on the block of every seed
        mean over i of E[1 - m[b, i, c]] = rate

    A seed is drawn, with one probability, for each place where a whole block fits; what the blocks
    cover is dropped. The probability is solved for, with blocks that overlap and positions near a
    border, which fewer blocks reach, counted exactly, so that `rate` of all positions is dropped
    in expectation. (The paper's formula counts overlaps of blocks twice, and so drops less.)

    What kept values are divided by:

        "expected":  k(i) = E[m(i)], of each position i; the mean of every value is kept
        "sample":    k = the kept share of the sample, over positions and channels
        "batch":     k = the kept share of the whole batch, as in the paper
        None:        k = 1

    With "expected" no value depends on another sample, nor on another device. But positions in the
    middle, which more blocks reach than a border's, are kept less often and scaled the more: at a
    rate of .5, with blocks of 7 on 14 x 14, by 14. At such rates take "sample" or "batch".

    At block_size 1 it is `dropout` (`per_channel=False`: with the channel axis shared), with a
    block as large as the map `spatial_dropout`, mask for mask.

    Args:
      key: as in `dropout`.
      x: [*batch, *space, channel], floating or complex, with 1 to 3 space axes.
      rate: the expected share of positions to drop; else as in `dropout`. For an array, the program
        solves for the probability of a seed.
      block_size: positions along each side of a block, or a tuple of one for each space axis.
        Where it is larger than the map, the block is the whole map.
      per_channel: a draw for each channel of its own; False for one that all channels share.
      normalize: "expected", "sample", "batch" or None, see above.
      data_format: "channels_last", or "channels_first" for [*batch, channel, *space].
      batch_dims: how many leading axes are batch axes; 0 for one example, without which
        [height, width, channel] is a batch of sequences.

    Returns:
      An array of x's shape, dtype and sharding. Where all is dropped, zeros.

    Raises:
      ValueError: for x without 1 to 3 space axes, a block_size below 1 or of another length, an
        unknown normalize or data_format, a number for rate outside [0, 1], a missing key.
      TypeError: for integer or bool x, or an argument of another type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import drop_block
      >>> y = drop_block(jax.random.key(5), jnp.ones((1, 6, 1)), 0.4, block_size=3, normalize=None)
      >>> y[0, :, 0]
      Array([1., 0., 0., 0., 1., 1.], dtype=float32)

    Reference: Ghiasi et al., DropBlock: A regularization method for convolutional networks, 2018,
    https://arxiv.org/abs/1810.12890
    """
    recipe = block_recipe(x, block_size, per_channel, normalize, data_format, batch_dims)
    return drop(key, x, rate, recipe)


def block_recipe(
    x: Array,
    block_size: int | Sequence[int],
    per_channel: bool,
    normalize: Normalize,
    data_format: DataFormat,
    batch_dims: int,
) -> Recipe:
    """Returns the recipe of DropBlock for x, which is checked here."""
    x = check_input(x)
    blocks = resolve_blocks(
        "DropBlock",
        x.shape,
        block_size,
        per_channel=per_channel,
        data_format=data_format,
        batch_dims=batch_dims,
    )
    check_choice(normalize, "normalize", get_args(Normalize))
    return recipe_of(blocks, normalize, x)


def recipe_of(blocks: Blocks, normalize: Normalize, x: Array) -> Recipe:
    """Returns the recipe that drops these blocks of x."""
    if not blocks.long_axes and normalize == "expected":
        return Recipe(blocks.noise_shape)
    return Recipe(
        blocks.noise_shape,
        sample=partial(_sample, blocks, sharding_of_part(x, blocks.seed_shape)),
        apply=partial(_apply, blocks, normalize),
        apply_key=None,
    )


def _sample(
    blocks: Blocks, sharding: jax.sharding.NamedSharding | None, key: Key, rate: Rate, _: Shape
) -> jax.Array:
    return sample_blocks(key, rate, blocks, sharding)


def _apply(blocks: Blocks, normalize: Normalize, x: Array, mask: Array, rate: Rate) -> jax.Array:
    if normalize == "expected":
        return by_mask(_ByExpectation(blocks), mask, x, unseeded_probability(rate, blocks))
    if normalize is None:
        return by_mask(kept_or_zero, mask, x, np.float32(1))
    return by_mask(_ByKeptShare(blocks.batch_dims if normalize == "sample" else 0), mask, x)


@dataclasses.dataclass(frozen=True)
class _ByExpectation:
    """Divides each position by the probability that it is kept."""

    blocks: Blocks

    def __call__(self, mask: jax.Array, x: jax.Array, unseeded: jax.Array) -> jax.Array:
        return kept_or_zero(mask, x, scale_by_position(unseeded, self.blocks))


@dataclasses.dataclass(frozen=True)
class _ByKeptShare:
    """Divides by the share of the mask that is kept, over all but the first axes."""

    own: int

    def __call__(self, mask: jax.Array, x: jax.Array) -> jax.Array:
        share = jnp.mean(mask, tuple(range(self.own, mask.ndim)), np.float32, keepdims=True)
        return kept_or_zero(mask, x, np.float32(1) / jnp.where(share > 0, share, np.float32(1)))
