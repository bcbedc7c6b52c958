"""The DropBlock module."""

from collections.abc import Sequence

from flax import nnx

from .._ops.blocks import Normalize, block_choices
from .._ops.cutout import Fill, cutout_choices
from .._typing import DataFormat, Rate
from ._base import Regularizer, hashable


class DropBlock(Regularizer):
    """Drops whole blocks of neighbouring positions, of a sequence, an image or a volume.

        y[b, i, c] = x[b, i, c] * m[b, i, c] / k(i),   m = 0 on the block of every seed
        mean over i of E[1 - m[b, i, c]] = rate

    The module of `flax_spatialdrop.drop_block`, which has the meanings of `normalize`. The paper
    lets the rate grow from 0 while the network learns: give a schedule's value as `rate=` at the
    call, which may be traced.

    Args:
      rate: the share of positions to drop, in [0, 1]; a number or a scalar array;
        None if each call gives one.
      block_size: positions along each side of a block, or a tuple of one for each space axis.
      per_channel: a draw for each channel of its own; False for one that all channels share.
      normalize: "expected" (default), "sample", "batch" or None.
      data_format: "channels_last" (default) or "channels_first".
      batch_dims: how many leading axes are batch axes (default 1).
      deterministic: True returns the inputs as they are; set by `train()` and `eval()`, and
        overruled at the call.
      rng_collection: the name of the stream of `rngs` that the key is asked of (default "dropout").
      rngs: a stream is forked from it; without, the module holds no state and takes `rngs=` (a key
        will do) at the call.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.nnx import DropBlock
      >>> layer = DropBlock(0.1, block_size=7)
      >>> x = jnp.ones((2, 14, 14, 4))
      >>> y = layer(x, rngs=jax.random.key(0))
      >>> y = layer(x, rngs=jax.random.key(0), rate=jnp.float32(0.05))

    Reference: Ghiasi et al., DropBlock: A regularization method for convolutional networks, 2018,
    https://arxiv.org/abs/1810.12890
    """

    def __init__(
        self,
        rate: Rate | None,
        *,
        block_size: int | Sequence[int] = 7,
        per_channel: bool = True,
        normalize: Normalize = "expected",
        data_format: DataFormat = "channels_last",
        batch_dims: int = 1,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        self.block_size = hashable(block_size)
        self.per_channel = per_channel
        self.normalize = normalize
        self.data_format = data_format
        self.batch_dims = batch_dims
        super().__init__(rate, deterministic, rng_collection, rngs)

    def _choices(self, inputs):
        return block_choices(
            inputs,
            self.block_size,
            self.per_channel,
            self.normalize,
            self.data_format,
            self.batch_dims,
        )


class Cutout(Regularizer):
    """Hides rectangles of each input, in all its channels: augmentation, before the first layer.

        y[b, i, c] = x[b, i, c] where m[b, i], else fill;   m[b] = 0 on num_blocks rectangles,
        each there with probability rate, at a place uniform among those where it fits

    The module of `flax_spatialdrop.cutout`. Kept values are not scaled.

    Args:
      rate: the probability that a rectangle is there, in [0, 1]; a number or a scalar array;
        None if each call gives one.
      block_size: positions along each side of a rectangle, or a tuple of one for each space axis.
      num_blocks: rectangles of an input (default 1).
      fill: what hidden positions hold: a number (default 0), one for each channel, or "mean".
      data_format: "channels_last" (default) or "channels_first".
      batch_dims: how many leading axes are batch axes (default 1).
      deterministic: True returns the inputs as they are; set by `train()` and `eval()`, and
        overruled at the call.
      rng_collection: the name of the stream of `rngs` that the key is asked of (default "dropout").
      rngs: a stream is forked from it; without, the module holds no state and takes `rngs=` (a key
        will do) at the call.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.nnx import Cutout
      >>> layer = Cutout(0.5, block_size=8, fill="mean")
      >>> x = jnp.ones((2, 32, 32, 3))
      >>> y = layer(x, rngs=jax.random.key(0))

    Reference: DeVries & Taylor, Improved Regularization of Convolutional Neural Networks with
    Cutout, 2017, https://arxiv.org/abs/1708.04552
    """

    def __init__(
        self,
        rate: Rate | None,
        *,
        block_size: int | Sequence[int] = 16,
        num_blocks: int = 1,
        fill: Fill = 0.0,
        data_format: DataFormat = "channels_last",
        batch_dims: int = 1,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        self.block_size = hashable(block_size)
        self.num_blocks = num_blocks
        self.fill = hashable(fill)
        self.data_format = data_format
        self.batch_dims = batch_dims
        super().__init__(rate, deterministic, rng_collection, rngs)

    def _choices(self, inputs):
        return cutout_choices(
            inputs,
            self.block_size,
            self.num_blocks,
            self.fill,
            self.data_format,
            self.batch_dims,
        )
