"""The cutout module."""

from collections.abc import Sequence

import flax.linen as nn

from .._ops.cutout import Fill, cutout_choices
from .._typing import DataFormat, Rate
from ._base import Regularizer


class Cutout(Regularizer):
    """Hides rectangles of each input, in all its channels: augmentation, before the first layer.

        y[b, i, c] = x[b, i, c] where m[b, i], else fill;   m[b] = 0 on num_blocks rectangles,
        each there with probability rate, at a place uniform among those where it fits

    The module of `flax_spatialdrop.cutout`. Kept values are not scaled.

    Attributes:
      rate: the probability that a rectangle is there, in [0, 1]; a number or a scalar array;
        None if each call gives one.
      block_size: positions along each side of a rectangle, or a tuple of one for each space axis.
      num_blocks: rectangles of an input (default 1).
      fill: what hidden positions hold: a number (default 0), one for each channel, or "mean".
      data_format: "channels_last" (default) or "channels_first".
      batch_dims: how many leading axes are batch axes (default 1).
      deterministic: True returns the inputs as they are; to be given here or at the call.
      rng_collection: the name of the stream that the key is asked of (default "dropout").

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import Cutout
      >>> layer = Cutout(0.5, block_size=8, fill="mean")
      >>> x = jnp.ones((2, 32, 32, 3))
      >>> y = layer.apply({}, x, deterministic=False, rngs={"dropout": jax.random.key(0)})

    Reference: DeVries & Taylor, Improved Regularization of Convolutional Neural Networks with
    Cutout, 2017, https://arxiv.org/abs/1708.04552
    """

    rate: Rate | None
    block_size: int | Sequence[int] = 16
    num_blocks: int = 1
    fill: Fill = 0.0
    data_format: DataFormat = "channels_last"
    batch_dims: int = 1
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    @nn.nowrap
    def _choices(self, inputs):
        return cutout_choices(
            inputs,
            self.block_size,
            self.num_blocks,
            self.fill,
            self.data_format,
            self.batch_dims,
        )
