"""Some rows of an array: gathered, and added back.

The rows along an axis are seen as groups of the same size, and the indices [groups, k, 1] hold k
rows of each. The axis of groups is a batch axis of the gather and the scatter. So if it is sharded,
each device works on groups of its own, and nothing is sent.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from .._apply import CHECKPOINT_NAME, times
from .._random.sharding import explicit_sharding, spec_of

_HOW: Any = {
    "indices_are_sorted": True,
    "unique_indices": True,
    "mode": jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS,
}


@partial(jax.jit, static_argnums=2)
def take_rows(x: jax.Array, indices: jax.Array, axis: int) -> jax.Array:
    """Returns the rows of x along an axis, in order: groups * k of them."""
    grouped = _grouped(x, indices, axis)
    numbers = jax.lax.GatherDimensionNumbers(
        offset_dims=_other_axes(grouped, axis),
        collapsed_slice_dims=(axis + 1,),
        start_index_map=(axis + 1,),
        operand_batching_dims=(axis,),
        start_indices_batching_dims=(0,),
    )
    sizes = (*x.shape[:axis], 1, 1, *x.shape[axis + 1 :])
    return _merged(jax.lax.gather(grouped, indices, numbers, sizes, **_HOW), axis)


@partial(jax.jit, static_argnums=(3, 4))
def add_to_rows(
    x: jax.Array, y: jax.Array, indices: jax.Array, axis: int, scale: np.float32
) -> jax.Array:
    """Adds y * scale to the rows that `take_rows` took; the backward pass keeps the indices."""
    scaled = checkpoint_name(times(y, scale), CHECKPOINT_NAME)
    grouped = _grouped(x, indices, axis)
    numbers = jax.lax.ScatterDimensionNumbers(
        update_window_dims=_other_axes(grouped, axis),
        inserted_window_dims=(axis + 1,),
        scatter_dims_to_operand_dims=(axis + 1,),
        operand_batching_dims=(axis,),
        scatter_indices_batching_dims=(0,),
    )
    rows = _grouped(scaled, indices, axis)
    y = _merged(jax.lax.scatter_add(grouped, indices, rows, numbers, **_HOW), axis)
    sharding = explicit_sharding(x)
    return y if sharding is None else jax.sharding.reshard(y, sharding)


def sharding_of_groups(x: jax.Array, axis: int, groups: int) -> NamedSharding | None:
    """Returns the sharding of indices [groups, k] if x has an explicit sharding.

    It is that of the rows of x if each device has whole groups of them.
    """
    sharding = explicit_sharding(x)
    if sharding is None:
        return None
    names = spec_of(x)[axis]
    given = names if isinstance(names, tuple) else (names,) if names else ()
    shards = math.prod(sharding.mesh.shape[name] for name in given)
    return NamedSharding(sharding.mesh, P(None if groups % shards else names, None))


def _grouped(x: jax.Array, indices: jax.Array, axis: int) -> jax.Array:
    """Returns x with an axis of groups in place of the rows, sharded as the indices are."""
    groups = indices.shape[0]
    shape = (*x.shape[:axis], groups, x.shape[axis] // groups, *x.shape[axis + 1 :])
    if explicit_sharding(x) is None:
        return x.reshape(shape)
    spec = spec_of(x)
    spec[axis] = spec_of(indices)[0]
    x = jax.sharding.reshard(x, P(*spec))
    return jnp.reshape(x, shape, out_sharding=P(*spec[: axis + 1], None, *spec[axis + 1 :]))


def _merged(x: jax.Array, axis: int) -> jax.Array:
    """Returns x with its groups along an axis as one axis of rows."""
    shape = (*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :])
    if explicit_sharding(x) is None:
        return x.reshape(shape)
    spec = spec_of(x)
    return jnp.reshape(x, shape, out_sharding=P(*spec[: axis + 1], *spec[axis + 2 :]))


def _other_axes(grouped: jax.Array, axis: int) -> tuple[int, ...]:
    """Returns all axes but those of groups and rows."""
    return tuple(i for i in range(grouped.ndim) if i not in (axis, axis + 1))
