"""Convolutions that are fast inside of a loop on CPUs too.

There, XLA's gradients of convolutions are up to 50 times slower inside of a loop than outside, and
training loops over its steps.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def convolve(
    inputs: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **others: Any
) -> jax.Array:
    """Convolves by XLA's convolution, or on CPUs by a matrix product.

    It is for `nn.Conv(conv_general_dilated=convolve)`, with the limits of `conv_by_patches`.
    """
    how = conv_by_patches if jax.default_backend() == "cpu" else lax.conv_general_dilated
    return how(inputs, kernel, strides, padding, **others)


def conv_by_patches(
    inputs: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **others: Any
) -> jax.Array:
    """Convolves [batch, row, column, channel] with a kernel [row, column, channel, feature].

    It takes the arguments of `jax.lax.conv_general_dilated`, with padding "SAME" and no dilation or
    groups. It is a product of the kernel and the values under each of its positions.
    """
    (rows, columns), (down, right) = kernel.shape[:2], strides
    pads = lax.padtype_to_pads(inputs.shape[1:3], (rows, columns), strides, padding)
    padded = jnp.pad(inputs, [(0, 0), *pads, (0, 0)])
    height, width = padded.shape[1] - rows + 1, padded.shape[2] - columns + 1
    patches = [
        padded[:, row : row + height : down, column : column + width : right]
        for row in range(rows)
        for column in range(columns)
    ]
    return jnp.concatenate(patches, -1) @ kernel.reshape(-1, kernel.shape[-1])
