"""Cutout: hides rectangles of input images."""

import contextlib
import dataclasses
import math
import numbers
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from .._apply import Recipe, Select, by_mask, drop
from .._checks import (
    check_array,
    check_input,
    check_key,
    check_whole,
    is_array,
    is_at_most,
    is_sequence,
    is_static,
    shown,
    unboxed,
)
from .._compat import assert_shape
from .._random.mask import sample_mask
from .._random.sharding import sharding_of_part
from .._typing import Array, DataFormat, Key, Rate, Shape
from .blocks import Blocks, dilate, resolve_blocks

Fill: TypeAlias = float | Sequence[float] | Array | Literal["mean"]
"""The values of hidden positions: one number, one number per channel, or "mean"."""


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
    """Hides rectangles of each input in all channels; a data augmentation for the first layer.

        y[b, i, c] = x[b, i, c] where m[b, i], else fill
        m[b] = 0 on num_blocks rectangles, each of which is present with probability rate

    The place of a rectangle is uniform among those where it fits. Kept values are not scaled. As in
    `drop_block`, but unlike in the paper, rectangles lie inside the image, so all of them hide the
    same number of positions. They may overlap.

    Args:
      key: as in `dropout`, but it may be None only if rate is the number 0.
      x: [*batch, *space, channel], floating or complex, with 1 to 3 space axes.
      rate: as in `dropout`; the probability that a rectangle is present.
      block_size: the size of a rectangle along every space axis, or a tuple with one size per space
        axis. A rectangle larger than the image is the whole image.
      num_blocks: the number of rectangles per input, at least 1.
      fill: the values of hidden positions: a number; one number per channel; or "mean", the mean of
        the visible positions of the channel (0 if all are hidden). Numbers may be complex only if x
        is, and must not overflow in x's dtype.
      data_format: "channels_last", or "channels_first" for x of [*batch, channel, *space].
      batch_dims: the number of leading batch axes; 0 for a single example.

    Returns:
      An array with the shape, dtype and sharding of x.

    Raises:
      ValueError: if x does not have 1 to 3 space axes, block_size or num_blocks is below 1, fill
        does not fit, or data_format is unknown; else as in `dropout`.
      TypeError: as in `dropout`. Convert images of integers to floats first.

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
            f"x must have a floating or complex dtype: got dtype {x.dtype}; convert "
            "an image of bytes with x.astype(jnp.float32) / 255"
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
        apply=partial(_apply, *_resolve_fill(fill, x.dtype, shape, channel, blocks.axes)),
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
    """Draws a mask that is False on each rectangle that is present."""
    if is_static(rate, 0.0):
        return jnp.ones(noise_shape, bool)
    presence_key, place_key = jax.random.split(check_key(key))
    batch = noise_shape[: blocks.batch_dims]
    is_present = ~sample_mask(presence_key, rate, (num_blocks, *batch))
    space = [size if axis in blocks.axes else 1 for axis, size in enumerate(blocks.seed_shape)]
    if not is_at_most(math.prod(space), 2**31 - 1):
        raise ValueError(
            "x must have a known number of places for a rectangle, below 2^31: "
            f"got {shown(math.prod(space))}"
        )
    places = jnp.arange(math.prod(space), dtype=np.int32).reshape(space)
    place = jax.random.randint(place_key, is_present.shape, 0, places.size, np.int32)
    seeds = jnp.zeros(blocks.seed_shape, bool)
    for present, at in zip(is_present, place, strict=True):
        shape = (*batch, *[1] * len(blocks.axes), 1)
        seeds |= present.reshape(shape) & (at.reshape(shape) == places)
    mask = ~dilate(seeds, blocks)
    assert_shape(mask, noise_shape)
    return mask if sharding is None else jax.sharding.reshard(mask, sharding)


def _apply(select: Select, fill: Sequence[jax.Array], x: Array, mask: Array, _: Rate) -> jax.Array:
    return by_mask(select, mask, x, *fill)


def _kept_or_fill(mask: jax.Array, x: jax.Array, fill: jax.Array) -> jax.Array:
    return jnp.where(mask, x, fill)


@dataclasses.dataclass(frozen=True)
class _KeptOrMean:
    """Replaces hidden values by the mean of the kept ones over `axes`, in at least float32."""

    axes: Shape

    def __call__(self, mask: jax.Array, x: jax.Array) -> jax.Array:
        kept = jnp.where(mask, x, jnp.zeros((), x.dtype))
        dtype = np.promote_types(x.dtype, np.float32)
        total = jnp.sum(kept, self.axes, dtype, keepdims=True)
        count = jnp.sum(jnp.broadcast_to(mask, x.shape), self.axes, np.float32, keepdims=True)
        mean = total / jnp.maximum(count, np.float32(1)).astype(dtype)
        return jnp.where(mask, x, mean.astype(x.dtype))


def _resolve_fill(
    fill: Any, dtype: Any, shape: Shape, channel: int, space: Shape
) -> tuple[Select, Sequence[jax.Array]]:
    """Returns the function that computes the output, and its constants."""
    if isinstance(fill, str) and fill == "mean":
        return _KeptOrMean(space), ()
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    values = _fill_values(fill, dtype)
    if values.shape not in ((), (shape[channel],)):
        raise ValueError(
            f"fill must be a number, or one number for each of the {shape[channel]} channels of x: "
            f"got fill={shown(fill)}"
        )
    if not isinstance(values, jax.core.Tracer) and not _can_hold(dtype, values):
        raise ValueError(f"fill must be finite in x's dtype, {dtype}: got {shown(fill)}")
    along = [values.size if axis == channel else 1 for axis in range(len(shape))]
    return _kept_or_fill, (jnp.asarray(values, dtype).reshape(along),)


def _fill_values(fill: Any, dtype: Any) -> Array:
    """Returns the values as an array of any dtype; it may be complex only if `dtype` is complex."""
    is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
    fill = unboxed(fill)
    given = fill if is_sequence(fill) else (fill,)
    kind = numbers.Complex if is_complex else numbers.Real
    if all(isinstance(number, kind) and not isinstance(number, bool) for number in given):
        with contextlib.suppress(OverflowError, TypeError):
            return np.asarray(fill, complex if is_complex else float)
        raise ValueError(f"fill must be finite in x's dtype, {dtype}: got {shown(fill)}")
    if not is_array(fill) or not (
        jnp.issubdtype(fill.dtype, jnp.integer)
        or jnp.issubdtype(fill.dtype, jnp.inexact if is_complex else jnp.floating)
    ):
        kind_of_number = "complex" if is_complex else "real"
        kind_of_error = ValueError if isinstance(fill, str) else TypeError
        raise kind_of_error(
            f"fill must be a {kind_of_number} number, one for each channel, or 'mean': "
            f"got {shown(fill)}"
        )
    return fill


def _can_hold(dtype: Any, values: Array) -> bool:
    """Whether all finite values are finite in the dtype too."""
    parts = np.asarray(values, complex).reshape(-1).view(float)
    return not np.any(np.isfinite(parts) & (np.abs(parts) > float(jnp.finfo(dtype).max)))
