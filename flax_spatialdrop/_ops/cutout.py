"""Cutout: hides rectangles of input images."""

import math
from collections.abc import Sequence
from functools import partial

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
    is_static,
    shown,
)
from .._compat import assert_shape
from .._random.mask import sample_mask
from .._random.sharding import sharding_of_part
from .._typing import Array, DataFormat, Key, Rate, Shape
from .blocks import Blocks, dilate, resolve_blocks
from .fill import Fill, resolve_fill


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
        apply=partial(_apply, *resolve_fill(fill, x.dtype, shape, channel, blocks.axes)),
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
