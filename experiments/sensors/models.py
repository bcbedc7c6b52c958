"""A convolutional network with a branch for each sensor, and the places where it drops."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flax_spatialdrop import linen

from .recordings import SENSORS

CONVOLUTIONS = ((16, 8), (5, 2), (5, 1))
"""The length and the stride of each convolution over time."""
BLOCK = 3
"""The number of time steps in a block of DropBlock."""

AFTER_CONVOLUTIONS: dict[str, Callable[..., nn.Module]] = {
    "Dropout": linen.Dropout,
    "SpatialDropout1D": linen.SpatialDropout1D,
    "TimestepDropout": linen.TimestepDropout,
    "DropBlock": lambda rate, **options: linen.DropBlock(rate, block_size=BLOCK, **options),
}
REGULARIZERS = ("none", *AFTER_CONVOLUTIONS, "ModalityDropout")


class SensorNetwork(nn.Module):
    """Convolutions for each sensor -> mean and deviation over time -> both sensors -> Dense.

    "ModalityDropout" drops the measurements of a whole sensor, but never of both. The other
    regularizers drop after each convolution.

    Attributes:
      features: the number of features of each convolution.
      classes: the number of outputs.
      regularizer: one of `REGULARIZERS`.
      dtype: the type to compute in. Parameters and outputs are float32.
    """

    features: int
    classes: int
    regularizer: str = "none"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, rate: jax.Array, *, deterministic: bool) -> jax.Array:
        """Maps windows [batch, time, axis] to logits [batch, class]."""
        options: dict[str, Any] = {"deterministic": deterministic}
        sensors = {name: x[..., axes] for name, axes in SENSORS.items()}
        if self.regularizer == "ModalityDropout":
            sensors, _ = linen.ModalityDropout(rate, **options)(sensors)
        drop = AFTER_CONVOLUTIONS.get(self.regularizer)
        branches = []
        for x in sensors.values():
            for size, stride in CONVOLUTIONS:
                x = nn.relu(nn.Conv(self.features, (size,), (stride,), dtype=self.dtype)(x))
                if drop is not None:
                    x = drop(rate, **options)(x)
            # The small number keeps the gradient finite where a feature is constant.
            branches += [x.mean(axis=1), jnp.sqrt(x.var(axis=1) + 1e-6)]
        x = nn.relu(nn.Dense(self.features, dtype=self.dtype)(jnp.concatenate(branches, axis=-1)))
        return nn.Dense(self.classes, dtype=self.dtype)(x).astype(jnp.float32)
