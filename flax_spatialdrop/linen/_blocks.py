"""The modules of DropBlock and cutout."""

from collections.abc import Sequence

from .._ops.blocks import Normalize, block_recipe, drop_block
from .._ops.cutout import cutout, cutout_recipe
from .._ops.fill import Fill
from .._typing import AxisNames, DataFormat, Rate
from ._base import Regularizer


class DropBlock(Regularizer, of=drop_block, recipe=block_recipe):
    """The module of `flax_spatialdrop.drop_block`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import DropBlock
      >>> layer, rngs = DropBlock(0.1, block_size=7), {"dropout": jax.random.key(0)}
      >>> y = layer.apply({}, jnp.ones((2, 14, 14, 4)), deterministic=False, rngs=rngs)
    """

    rate: Rate | None
    block_size: int | Sequence[int] = 7
    per_channel: bool = True
    normalize: Normalize = "expected"
    data_format: DataFormat = "channels_last"
    batch_dims: int = 1
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    axis_name: AxisNames | None = None


class Cutout(Regularizer, of=cutout, recipe=cutout_recipe):
    """The module of `flax_spatialdrop.cutout`.

    Attributes:
      rate: the probability that a rectangle is present, in [0, 1]; a number or a scalar array;
        None if each call gives one.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import Cutout
      >>> layer, rngs = Cutout(0.5, block_size=8, fill="mean"), {"dropout": jax.random.key(0)}
      >>> y = layer.apply({}, jnp.ones((2, 32, 32, 3)), deterministic=False, rngs=rngs)
    """

    rate: Rate | None
    block_size: int | Sequence[int] = 16
    num_blocks: int = 1
    fill: Fill = 0.0
    data_format: DataFormat = "channels_last"
    batch_dims: int = 1
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    axis_name: AxisNames | None = None
