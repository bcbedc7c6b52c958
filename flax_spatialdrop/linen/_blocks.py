"""The DropBlock module."""

from collections.abc import Sequence

import flax.linen as nn

from .._ops.blocks import Normalize, block_choices
from .._typing import DataFormat, Rate
from ._base import Regularizer


class DropBlock(Regularizer):
    """Drops whole blocks of neighbouring positions, of a sequence, an image or a volume.

        y[b, i, c] = x[b, i, c] * m[b, i, c] / k(i),   m = 0 on the block of every seed
        mean over i of E[1 - m[b, i, c]] = rate

    The module of `flax_spatialdrop.drop_block`, which has the meanings of `normalize`. The paper
    lets the rate grow from 0 while the network learns: give a schedule's value as `rate=` at the
    call, which may be traced.

    Attributes:
      rate: the share of positions to drop, in [0, 1]; a number or a scalar array;
        None if each call gives one.
      block_size: positions along each side of a block, or a tuple of one for each space axis.
      per_channel: a draw for each channel of its own; False for one that all channels share.
      normalize: "expected" (default), "sample", "batch" or None.
      data_format: "channels_last" (default) or "channels_first".
      batch_dims: how many leading axes are batch axes (default 1).
      deterministic: True returns the inputs as they are; to be given here or at the call.
      rng_collection: the name of the stream that the key is asked of (default "dropout").

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import DropBlock
      >>> layer = DropBlock(0.1, block_size=7)
      >>> rngs = {"dropout": jax.random.key(0)}
      >>> x = jnp.ones((2, 14, 14, 4))
      >>> y = layer.apply({}, x, deterministic=False, rngs=rngs)
      >>> y = layer.apply({}, x, deterministic=False, rngs=rngs, rate=jnp.float32(0.05))

    Reference: Ghiasi et al., DropBlock: A regularization method for convolutional networks, 2018,
    https://arxiv.org/abs/1810.12890
    """

    rate: Rate | None
    block_size: int | Sequence[int] = 7
    per_channel: bool = True
    normalize: Normalize = "expected"
    data_format: DataFormat = "channels_last"
    batch_dims: int = 1
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    @nn.nowrap
    def _choices(self, inputs):
        return block_choices(
            inputs,
            self.block_size,
            self.per_channel,
            self.normalize,
            self.data_format,
            self.batch_dims,
        )
