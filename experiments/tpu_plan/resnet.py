"""ResNet-50 on images, with DropBlock and stochastic depth."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from flax_spatialdrop import linen

from ..benchmarks.architectures import ResNet50

NAMES = ("none", "DropBlock", "stochastic depth", "both")


class Classifier(nn.Module):
    """ResNet-50, called like the networks of the experiments.

    Attributes:
      regularizer: "DropBlock" drops after each block of the last two stages. "stochastic depth"
        drops branches of samples, and reaches the rate in the last block. "both" does both.
      flax: whether Flax's own layer drops in the same places: values instead of blocks.
      classes, blocks, features: the sizes of the network.
    """

    regularizer: str
    flax: bool
    classes: int
    blocks: tuple[int, ...]
    features: int

    @nn.compact
    def __call__(self, images: jax.Array, rate: Any, *, deterministic: bool) -> jax.Array:
        """Maps images [batch, height, width, 3] to scores [batch, classes]."""
        after: Callable[[], nn.Module] | None = None
        branch: Callable[[float], nn.Module] | None = None
        if self.regularizer in ("DropBlock", "both"):
            layer: Any = nn.Dropout if self.flax else linen.DropBlock
            after = partial(layer, rate, deterministic=deterministic)
        if self.regularizer in ("stochastic depth", "both"):

            def branch(depth: float) -> nn.Module:
                if self.flax:
                    dims = (-3, -2, -1)
                    return nn.Dropout(rate * depth, dims, deterministic=deterministic)
                return linen.DropPath(rate * depth, deterministic=deterministic)

        return ResNet50(after, branch, self.classes, self.blocks, self.features)(images)
