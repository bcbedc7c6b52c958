"""DropBlock: blocks of neighbouring positions, which neighbours cannot make up for."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from .._apply import by_mask, kept_or_zero
from .._block_mask import sample_blocks, scale_by_position, unseeded_probability
from .._block_shape import Blocks, resolve_blocks
from .._checks import check_choice, check_input
from .._choices import Choices, drop
from .._random.sharding import sharding_of_part
from .._typing import Array, DataFormat, Key, Rate, Shape

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
      key: one JAX PRNG key; consumed. None will do at a rate of exactly 0 or 1.
      x: [*batch, *space, channel], floating or complex, with 1 to 3 space axes.
      rate: the share of positions to drop, in [0, 1]; a number or a scalar array
        (clipped to [0, 1]; NaN drops all), for which the program solves anew.
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
    choices = block_choices(x, block_size, per_channel, normalize, data_format, batch_dims)
    return drop(key, x, rate, choices)


def block_choices(
    x: Array,
    block_size: int | Sequence[int],
    per_channel: bool,
    normalize: Normalize,
    data_format: DataFormat,
    batch_dims: int,
) -> Choices:
    """The choices of DropBlock for x, which is checked."""
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
    return choices_of(blocks, normalize, x)


def choices_of(blocks: Blocks, normalize: Normalize, x: Array) -> Choices:
    """The choices for x of which whole blocks are to be dropped."""
    if not blocks.long_axes and normalize == "expected":
        return Choices(blocks.noise_shape)
    return Choices(
        blocks.noise_shape,
        sample=partial(_sample, blocks, sharding_of_part(x, blocks.seed_shape)),
        apply=partial(_apply, blocks, normalize),
        redraw=None,
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
