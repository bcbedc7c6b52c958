"""The forms of dropout that are compared, and their masks of feature maps."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flax_spatialdrop import linen

FORMS: dict[str, Callable[[float, int], nn.Module]] = {
    "Dropout": lambda rate, size: linen.Dropout(rate, deterministic=False),
    "DropBlock": lambda rate, size: linen.DropBlock(
        rate, block_size=size, normalize="sample", deterministic=False
    ),
    "SpatialDropout": lambda rate, size: linen.SpatialDropout(rate, deterministic=False),
}
"""Makes the layers, for a rate and the size of a block. They drop single values, blocks of a
channel, or whole channels."""
NEIGHBORS = ("Dropout", "DropBlock")
"""The forms that leave neighbors in the same channel visible."""


def draw(layer: nn.Module, seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Draws masks of maps [map, height, width, channel]: True where a value is visible."""
    ones = jnp.ones(shape, jnp.float32)
    return np.asarray(layer.apply({}, ones, rngs={"dropout": jax.random.key(seed)}) != 0)
