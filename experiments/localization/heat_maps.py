"""Heat maps: a bump for each keypoint, and the keypoint of a heat map."""

import jax
import jax.numpy as jnp

from ..task import Array
from .models import STRIDE

SPREAD = 1.0
"""The standard deviation of a bump, in places of the heat map."""


def bumps(keypoints: Array, rows: int, columns: int) -> jax.Array:
    """Returns heat maps [..., row, column, keypoint] of keypoints [..., keypoint, 2] in pixels.

    h[i, j, k] = exp(-|(i, j) - p[k]|^2 / (2 s^2))
    """
    places = (keypoints - (STRIDE - 1) / 2) / STRIDE
    row, column = (
        _bump(places[..., None, :, axis], size) for axis, size in enumerate((rows, columns))
    )
    return row[..., :, None, :] * column[..., None, :, :]


def _bump(places: Array, size: int) -> jax.Array:
    """Returns a bump along one axis: [..., size, keypoint] for places [..., 1, keypoint]."""
    index = jnp.arange(size).reshape(*(1,) * (places.ndim - 2), size, 1)
    return jnp.exp(-((index - places) ** 2) / (2 * SPREAD**2))


def peaks(maps: jax.Array) -> jax.Array:
    """Returns keypoints [..., keypoint, 2] in pixels: the highest place, refined by its neighbors.

    The logarithm of a bump is a parabola. Its top follows from three places in a row.
    """
    *batch, rows, columns, keypoints = maps.shape
    highest = maps.reshape(*batch, rows * columns, keypoints).argmax(-2)
    row, column = highest // columns, highest % columns
    padded = jnp.pad(
        jnp.log(jnp.maximum(maps, 1e-3)),
        [(0, 0)] * len(batch) + [(1, 1), (1, 1), (0, 0)],
        mode="edge",
    )

    def at(down: int, right: int) -> jax.Array:
        place = (row + 1 + down) * (columns + 2) + column + 1 + right
        flat = padded.reshape(*batch, -1, keypoints)
        return jnp.take_along_axis(flat, place[..., None, :], -2)[..., 0, :]

    def top(before: jax.Array, here: jax.Array, after: jax.Array) -> jax.Array:
        curvature = 2 * here - before - after
        return jnp.where(curvature > 0, (after - before) / (2 * jnp.maximum(curvature, 1e-6)), 0.0)

    refined = jnp.stack(
        [
            row + jnp.clip(top(at(-1, 0), at(0, 0), at(1, 0)), -0.5, 0.5),
            column + jnp.clip(top(at(0, -1), at(0, 0), at(0, 1)), -0.5, 0.5),
        ],
        -1,
    )
    return refined * STRIDE + (STRIDE - 1) / 2
