"""Cutout: hides rectangles of input images."""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

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
from .._random.mask import sample_sharded
from .._random.sharding import drawn
from .._typing import Array, DataFormat, Key, Rate, Shape
from .block_mask import Blocks, resolve_blocks
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
        sample=partial(_sample, blocks, num_blocks),
        apply=partial(_apply, *resolve_fill(fill, x.dtype, shape, channel, blocks.axes)),
        apply_key=None,
        is_bernoulli=False,
        draws_at_1=True,
    )


def _sample(
    blocks: Blocks,
    num_blocks: int,
    key: Key,
    rate: Rate,
    noise_shape: Shape,
    sharding: NamedSharding | None,
) -> jax.Array:
    """Draws a mask that is False on each rectangle that is present.

    Each position is compared to the borders of the rectangles, so a device needs no other positions
    than its own.
    """
    if is_static(rate, 0.0):
        return jnp.ones(noise_shape, bool, out_sharding=sharding)
    presence_key, place_key = jax.random.split(check_key(key))
    space = [blocks.seed_shape[axis] for axis in blocks.axes]
    if not is_at_most(math.prod(space), 2**31 - 1):
        raise ValueError(
            "x must have a known number of places for a rectangle, below 2^31: "
            f"got {shown(math.prod(space))}"
        )
    shape, of_draws = (num_blocks, *noise_shape[: blocks.batch_dims]), None
    if sharding is not None:
        of_draws = sharding.update(spec=P(None, *sharding.spec[: blocks.batch_dims]))
    is_present = ~sample_sharded(presence_key, rate, shape, of_draws)
    draw = partial(jax.random.randint, place_key, shape, 0, math.prod(space), np.int32)
    place = drawn(draw, of_draws)
    mask = jnp.ones(noise_shape, bool, out_sharding=sharding)
    for present, at in zip(is_present, place, strict=True):
        mask &= ~_rectangle(present, at, blocks, noise_shape, sharding)
    return mask


def _rectangle(
    is_present: jax.Array,
    place: jax.Array,
    blocks: Blocks,
    noise_shape: Shape,
    sharding: NamedSharding | None,
) -> jax.Array:
    """Returns an array of the noise shape that is True on a rectangle of each sample.

    The places are numbered in row-major order.
    """
    others = range(blocks.batch_dims, len(noise_shape))
    found = jnp.expand_dims(is_present, others)
    for axis, size in reversed([*zip(blocks.axes, blocks.sizes, strict=True)]):
        place, start = jnp.divmod(place, blocks.seed_shape[axis])
        i = jax.lax.broadcasted_iota(np.int32, noise_shape, axis, out_sharding=sharding)
        distance = i - jnp.expand_dims(start, others)
        found &= (distance >= 0) & (distance < size)
    return found


def _apply(select: Select, fill: Sequence[jax.Array], x: Array, mask: Array, _: Rate) -> jax.Array:
    return by_mask(select, mask, x, *fill)
