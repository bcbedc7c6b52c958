"""The modules of DropBlock and cutout."""

from collections.abc import Sequence
from dataclasses import KW_ONLY

from .._ops.blocks import Normalize, block_recipe, drop_block
from .._ops.cutout import cutout, cutout_recipe
from .._ops.fill import Fill
from .._typing import DataFormat
from ._base import Regularizer


class DropBlock(Regularizer, of=drop_block, recipe=block_recipe):
    """The module of `flax_spatialdrop.drop_block`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.nnx import DropBlock
      >>> layer = DropBlock(0.1, block_size=7)
      >>> y = layer(jnp.ones((2, 14, 14, 4)), rngs=jax.random.key(0))
    """

    _: KW_ONLY
    block_size: int | Sequence[int] = 7
    per_channel: bool = True
    normalize: Normalize = "expected"
    data_format: DataFormat = "channels_last"
    batch_dims: int = 1


class Cutout(Regularizer, of=cutout, recipe=cutout_recipe):
    """The module of `flax_spatialdrop.cutout`.

    Args:
      rate: the probability that a rectangle is present, in [0, 1]; a number or a scalar array;
        None if each call gives one.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.nnx import Cutout
      >>> layer = Cutout(0.5, block_size=8, fill="mean")
      >>> y = layer(jnp.ones((2, 32, 32, 3)), rngs=jax.random.key(0))
    """

    _: KW_ONLY
    block_size: int | Sequence[int] = 16
    num_blocks: int = 1
    fill: Fill = 0.0
    data_format: DataFormat = "channels_last"
    batch_dims: int = 1
