"""Fully convolutional networks that map scenes to a heat map for each keypoint."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from flax_spatialdrop import linen

from ..convolution import convolve

STRIDE = 4
"""The pixels of a scene that share a row or a column of the heat maps."""
REGULARIZERS = ("none", "Dropout", "SpatialDropout2D", "DropBlock", "DropBlock growing")
Conv = partial(nn.Conv, conv_general_dilated=convolve)


class Trunk(nn.Module):
    """Three convolutions, the first two with a stride of 2."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, row, column] to features, a fourth as high and as wide."""
        x = x[..., None]
        for features, size, stride in ((1, 5, 2), (2, 3, 2), (4, 3, 1)):
            convolve = Conv(features * self.features, (size, size), stride, dtype=self.dtype)
            x = nn.relu(convolve(x))
        return x


class Classifier(nn.Module):
    """The trunk, the maximum over all places, and a class. It pretrains the trunk."""

    features: int
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, rate: jax.Array, *, deterministic: bool) -> jax.Array:
        """Maps [batch, row, column] to scores of classes [batch, class]. It drops nothing."""
        x = Trunk(self.features, name="trunk")(x)
        return nn.Dense(self.classes)(x.max((1, 2)))


class Localizer(nn.Module):
    """The trunk at three resolutions, then a wide layer of 1 x 1 with dropout before and after.

    Attributes:
      keypoints: the number of heat maps.
      features: the number of features of the trunk's first convolution.
      width: the number of features of the wide layer.
      regularizer: one of REGULARIZERS, at the rate of the call.
      block_size: the side of DropBlock's blocks, in places of the heat maps.
      dtype: the type to compute in. Parameters and outputs are float32.
    """

    keypoints: int
    features: int
    width: int
    regularizer: str = "none"
    block_size: int = 5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, rate: jax.Array, *, deterministic: bool) -> jax.Array:
        """Maps scenes [batch, row, column] to heat maps [batch, row, column, keypoint]."""
        trunk = Trunk(self.features, self.dtype, name="trunk")
        views = [trunk(x)]
        for _ in range(2):
            x = nn.avg_pool(x[..., None], (2, 2), (2, 2))[..., 0]
            views.append(_enlarged(trunk(x), views[0].shape))
        x = jnp.concatenate(views, -1)
        x = self._dropped(x, rate, deterministic)
        x = nn.relu(nn.Dense(self.width, dtype=self.dtype)(x))
        x = self._dropped(x, rate, deterministic)
        return nn.Dense(self.keypoints, dtype=self.dtype)(x).astype(jnp.float32)

    def _dropped(self, x: jax.Array, rate: jax.Array, deterministic: bool) -> jax.Array:
        if self.regularizer == "none":
            return x
        layer: Callable[..., nn.Module] = {
            "Dropout": linen.Dropout,
            "SpatialDropout2D": linen.SpatialDropout2D,
        }.get(self.regularizer, partial(linen.DropBlock, block_size=self.block_size))
        return layer(rate, deterministic=deterministic)(x)


def _enlarged(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Repeats rows and columns to those of a shape."""
    for axis in (1, 2):
        x = jnp.repeat(x, shape[axis] // x.shape[axis], axis)
    return x
