"""Cutout: DropBlock's sibling for inputs, which hides rectangles of an image."""

import contextlib
import dataclasses
import math
import numbers
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

import chex
import jax
import jax.numpy as jnp
import numpy as np

from .._apply import Recipe, Select, by_mask, drop
from .._checks import (
    check_array,
    check_input,
    check_key,
    check_whole,
    is_at_most,
    is_sequence,
    is_static,
    shown,
    unboxed,
)
from .._random.mask import sample_mask
from .._random.sharding import sharding_of_part
from .._typing import Array, DataFormat, Key, Rate, Shape
from .blocks import Blocks, dilate, resolve_blocks

Fill: TypeAlias = float | Sequence[float] | Array | Literal["mean"]
"""What is seen in place of what is hidden: a number, one for each channel, or the mean."""


def cutout(
    key: Key,
    x: Array,
    rate: Rate,
    *,
    block_size: int | Sequence[int] = 16,
    num_blocks: int = 1,
    fill: Fill = 0.0,
    data_format: DataFormat = "channels_last",
    batch_dims: int = 1,
) -> jax.Array:
    """Hides rectangles of each input, in all its channels: augmentation, before the first layer.

        y[b, i, c] = x[b, i, c] where m[b, i], else fill;   m[b] = 0 on num_blocks rectangles,
        each there with probability rate, at a place uniform among those where it fits

    Kept values are not scaled. Unlike the paper's, rectangles lie inside the image, as blocks of
    `drop_block` do, so that all hide as much; they may overlap.

    Args:
      key: as in `dropout`, but None is allowed at a rate of exactly 0 only.
      x: [*batch, *space, channel], floating or complex, with 1 to 3 space axes.
      rate: the probability that a rectangle is there; else as in `dropout`.
      block_size: positions along each side of a rectangle, or a tuple of one for each space axis;
        where it is larger than the image, the whole of it.
      num_blocks: rectangles of an input, at least 1.
      fill: what hidden positions hold: a number, one number for each channel (complex only where
        x is, and finite in x's dtype unless inf or NaN is given), or "mean", the mean
        of the positions of the channel that are not hidden (0 if all are).
      data_format: "channels_last", or "channels_first" for [*batch, channel, *space].
      batch_dims: how many leading axes are batch axes; 0 for one example.

    Returns:
      An array of x's shape, dtype and sharding.

    Raises:
      ValueError: for x without 1 to 3 space axes, a block_size or num_blocks below 1, a fill that
        does not fit, an unknown data_format, a number for rate outside [0, 1], a missing key.
      TypeError: for integer or bool x (scale images to floats first), or an argument of another
        type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import cutout
      >>> y = cutout(jax.random.key(0), jnp.ones((1, 4, 5, 1)), 1.0, block_size=(2, 3))
      >>> y[0, :, :, 0]
      Array([[1., 1., 1., 1., 1.],
             [1., 1., 1., 1., 1.],
             [1., 1., 0., 0., 0.],
             [1., 1., 0., 0., 0.]], dtype=float32)

    Reference: DeVries & Taylor, Improved Regularization of Convolutional Neural Networks with
    Cutout, 2017, https://arxiv.org/abs/1708.04552
    """
    recipe = cutout_recipe(x, block_size, num_blocks, fill, data_format, batch_dims)
    return drop(key, x, rate, recipe)


def cutout_recipe(
    x: Array,
    block_size: int | Sequence[int],
    num_blocks: int,
    fill: Fill,
    data_format: DataFormat,
    batch_dims: int,
) -> Recipe:
    """Returns the recipe of cutout for x, which is checked here."""
    x = check_array(x)
    if jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(
            f"x must have a floating or complex dtype: got dtype {x.dtype}; of an image of bytes "
            "give x.astype(jnp.float32) / 255"
        )
    shape = check_input(x).shape
    blocks = resolve_blocks(
        "cutout",
        shape,
        block_size,
        per_channel=False,
        data_format=data_format,
        batch_dims=batch_dims,
    )
    num_blocks = check_whole(num_blocks, "num_blocks", least=1, unit="rectangle")
    channel = blocks.batch_dims if data_format == "channels_first" else len(shape) - 1
    return Recipe(
        blocks.noise_shape,
        sample=partial(_sample, blocks, num_blocks, sharding_of_part(x, blocks.noise_shape)),
        apply=partial(_apply, *_values_of(fill, x.dtype, shape, channel, blocks.axes)),
        apply_key=None,
        draws_at_1=True,
    )


def _sample(
    blocks: Blocks,
    num_blocks: int,
    sharding: jax.sharding.NamedSharding | None,
    key: Key,
    rate: Rate,
    noise_shape: Shape,
) -> jax.Array:
    """The mask: False on each rectangle that is there."""
    if is_static(rate, 0.0):
        return jnp.ones(noise_shape, bool)
    for_presence, for_place = jax.random.split(check_key(key))
    batch = noise_shape[: blocks.batch_dims]
    is_there = ~sample_mask(for_presence, rate, (num_blocks, *batch))
    space = [size if axis in blocks.axes else 1 for axis, size in enumerate(blocks.seed_shape)]
    if not is_at_most(math.prod(space), 2**31 - 1):
        raise ValueError(
            "x must have a known number of places for a rectangle, below 2^31: "
            f"got {shown(math.prod(space))}"
        )
    places = jnp.arange(math.prod(space), dtype=np.int32).reshape(space)
    place = jax.random.randint(for_place, is_there.shape, 0, places.size, np.int32)
    seeds = jnp.zeros(blocks.seed_shape, bool)
    for there, at in zip(is_there, place, strict=True):
        spread = (*batch, *[1] * len(blocks.axes), 1)
        seeds |= there.reshape(spread) & (at.reshape(spread) == places)
    mask = ~dilate(seeds, blocks)
    chex.assert_shape(mask, noise_shape)
    return mask if sharding is None else jax.sharding.reshard(mask, sharding)


def _apply(select: Select, fill: Sequence[jax.Array], x: Array, mask: Array, _: Rate) -> jax.Array:
    return by_mask(select, mask, x, *fill)


def _kept_or_fill(mask: jax.Array, x: jax.Array, fill: jax.Array) -> jax.Array:
    return jnp.where(mask, x, fill)


@dataclasses.dataclass(frozen=True)
class _KeptOrMean:
    """The mean over `axes` of what is kept, in at least float32."""

    axes: Shape

    def __call__(self, mask: jax.Array, x: jax.Array) -> jax.Array:
        kept = jnp.where(mask, x, jnp.zeros((), x.dtype))
        dtype = np.promote_types(x.dtype, np.float32)
        total = jnp.sum(kept, self.axes, dtype, keepdims=True)
        count = jnp.sum(jnp.broadcast_to(mask, x.shape), self.axes, np.float32, keepdims=True)
        mean = total / jnp.maximum(count, np.float32(1)).astype(dtype)
        return jnp.where(mask, x, mean.astype(x.dtype))


def _values_of(
    fill: Any, dtype: Any, shape: Shape, channel: int, space: Shape
) -> tuple[Select, Sequence[jax.Array]]:
    """What hidden positions become, and its constants."""
    if isinstance(fill, str) and fill == "mean":
        return _KeptOrMean(space), ()
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    values = _numbers_of(fill, dtype)
    if values.shape not in ((), (shape[channel],)):
        raise ValueError(
            f"fill must be one number, or one for each of the {shape[channel]} channels of x: "
            f"got fill={shown(fill)}"
        )
    if not isinstance(values, jax.core.Tracer) and not _can_hold(dtype, values):
        raise ValueError(f"fill must be finite in x's dtype, {dtype}: got {shown(fill)}")
    along = [values.size if axis == channel else 1 for axis in range(len(shape))]
    return _kept_or_fill, (jnp.asarray(values, dtype).reshape(along),)


def _numbers_of(fill: Any, dtype: Any) -> Array:
    """The numbers to fill with, in any dtype; complex ones only where x is."""
    is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
    fill = unboxed(fill)
    given = fill if is_sequence(fill) else (fill,)
    kind = numbers.Complex if is_complex else numbers.Real
    if all(isinstance(number, kind) and not isinstance(number, bool) for number in given):
        with contextlib.suppress(OverflowError, TypeError):
            return np.asarray(fill, complex if is_complex else float)
        raise ValueError(f"fill must be finite in x's dtype, {dtype}: got {shown(fill)}")
    is_array = isinstance(fill, jax.Array | np.ndarray) and not isinstance(fill, np.ma.MaskedArray)
    if not is_array or not (
        jnp.issubdtype(fill.dtype, jnp.integer)
        or jnp.issubdtype(fill.dtype, jnp.inexact if is_complex else jnp.floating)
    ):
        what = "complex number" if is_complex else "real number"
        kind_of_error = ValueError if isinstance(fill, str) else TypeError
        raise kind_of_error(
            f"fill must be a {what}, one for each channel, or 'mean': got {shown(fill)}"
        )
    return fill


def _can_hold(dtype: Any, values: Array) -> bool:
    """Whether no finite number becomes infinite."""
    parts = np.asarray(values, complex).reshape(-1).view(float)
    return not np.any(np.isfinite(parts) & (np.abs(parts) > float(jnp.finfo(dtype).max)))
