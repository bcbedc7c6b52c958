"""Draws subsets: a fixed number of indices, uniformly and without replacement."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from .._typing import Shape
from .sharding import drawn, vary_alike


def sample_subset(
    key: jax.Array, shape: Shape, num_keep: int, sharding: NamedSharding | None
) -> jax.Array:
    """Returns int32 [*batch, num_keep]: some of the indices 0 to n - 1, sorted.

    They are the indices with the smallest random bits. Of equal bits, the first is taken. Uniform
    floats would be equal 512 times as often.

    Args:
      key: a checked key.
      shape: [*batch, n].
      num_keep: the number of indices, from 1 to n.
      sharding: of an array of `shape`; None if the mesh has no explicit axes.
    """
    bits = drawn(partial(jax.random.bits, key, shape, np.uint32), sharding)
    # The type of a sort in a shard_map would not say that the indices vary where the bits do.
    _, shuffled = jax.lax.sort_key_val(*vary_alike((bits, all_indices(shape, sharding))))
    return jnp.sort(shuffled[..., :num_keep])


def all_indices(shape: Shape, sharding: NamedSharding | None) -> jax.Array:
    """Returns 0, 1, ..., n - 1 along the last axis of [*batch, n], as int32."""
    axis = len(shape) - 1
    return jax.lax.broadcasted_iota(np.int32, shape, axis, out_sharding=sharding)
