"""DropBlock: drops blocks of neighboring positions."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from .._apply import Recipe, by_mask, drop, kept_or_zero
from .._checks import (
    check_choice,
    check_input,
)
from .._typing import Array, DataFormat, Key, Rate, Shape
from .block_mask import (
    Blocks,
    no_seed_probability,
    resolve_blocks,
    sample_blocks,
    scale_by_position,
)

Normalize: TypeAlias = Literal["expected", "sample", "batch", None]
"""How kept values are scaled; see `drop_block`."""


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
    """Drops blocks of neighboring positions in a sequence, an image or a volume.

        y[b, i, c] = x[b, i, c] * m[b, i, c] / k(i),   m = 0 on the block of every seed
        mean over i of E[1 - m[b, i, c]] = rate

    Each place where a whole block fits is a seed with the same probability, and the blocks of all
    seeds are dropped. The probability is solved for, so that the expected fraction of dropped
    positions is exactly `rate`; this accounts for blocks that overlap, and for positions near a
    border, which fewer blocks cover. (The paper's formula counts overlaps twice and drops less.)
    The paper increases the rate from 0 during training: pass the value of a schedule as rate.

    Kept values are divided by k:

        "expected":  k(i) = E[m(i)] at each position i, which keeps the mean of every value
        "sample":    k = the kept fraction of the sample, over positions and channels
        "batch":     k = the kept fraction of the whole batch, as in the paper
        None:        k = 1

    With "expected", values do not depend on other samples or devices. However, positions in the
    middle are covered by more blocks than those at a border, so they are kept less often and scaled
    more: by 14 for blocks of 7 on a map of 14 x 14 at a rate of 0.5. Use "sample" or "batch" for
    such rates.

    The masks are those of `dropout` if block_size is 1 (with a shared channel axis if per_channel
    is False), and those of `spatial_dropout` if a block is as large as the map.

    Args:
      key: as in `dropout`.
      x: [*batch, *space, channel], floating or complex, with 1 to 3 space axes.
      rate: as in `dropout`; the expected fraction of positions to drop. If it is an array, the
        program solves for the probability of a seed.
      block_size: the size of a block along every space axis, or a tuple with one size per space
        axis. A block larger than the map is the whole map.
      per_channel: whether each channel has its own draws. If False, all channels share them.
      normalize: how to scale kept values: "expected", "sample", "batch" or None, see above.
      data_format: "channels_last", or "channels_first" for x of [*batch, channel, *space].
      batch_dims: the number of leading batch axes; 0 for a single example. With the default of 1,
        [height, width, channel] is a batch of sequences.

    Returns:
      An array with the shape, dtype and sharding of x; zeros if everything is dropped.

    Raises:
      ValueError: if x does not have 1 to 3 space axes, block_size is below 1 or has the wrong
        length, or normalize or data_format is unknown; else as in `dropout`.
      TypeError: as in `dropout`.

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
    return recipe_of_blocks(blocks, normalize)


def recipe_of_blocks(blocks: Blocks, normalize: Normalize) -> Recipe:
    """Returns the recipe that drops these blocks."""
    if not blocks.long_axes and normalize == "expected":
        return Recipe(blocks.noise_shape)
    return Recipe(
        blocks.noise_shape,
        sample=partial(_sample, blocks),
        apply=partial(_apply, blocks, normalize),
        apply_key=None,
        is_bernoulli=False,
    )


def _sample(
    blocks: Blocks, key: Key, rate: Rate, _: Shape, sharding: NamedSharding | None
) -> jax.Array:
    return sample_blocks(key, rate, blocks, sharding)


def _apply(blocks: Blocks, normalize: Normalize, x: Array, mask: Array, rate: Rate) -> jax.Array:
    if normalize == "expected":
        return by_mask(_ByExpectation(blocks), mask, x, no_seed_probability(rate, blocks))
    if normalize is None:
        return by_mask(kept_or_zero, mask, x, np.float32(1))
    return by_mask(_ByKeptShare(blocks.batch_dims if normalize == "sample" else 0), mask, x)


@dataclasses.dataclass(frozen=True)
class _ByExpectation:
    """Divides each position by the probability that it is kept."""

    blocks: Blocks

    def __call__(self, mask: jax.Array, x: jax.Array, no_seed: jax.Array) -> jax.Array:
        return kept_or_zero(mask, x, scale_by_position(no_seed, self.blocks))


@dataclasses.dataclass(frozen=True)
class _ByKeptShare:
    """Divides by the fraction of the mask that is kept, separately along the first axes."""

    num_separate: int

    def __call__(self, mask: jax.Array, x: jax.Array) -> jax.Array:
        axes = tuple(range(self.num_separate, mask.ndim))
        share = jnp.mean(mask, axes, np.float32, keepdims=True)
        return kept_or_zero(mask, x, np.float32(1) / jnp.where(share > 0, share, np.float32(1)))
