"""Attention with queries that are sharded over devices: each device runs its queries on all keys.

The loop over blocks of queries would mix the devices. So the queries get an axis of shards, and
`vmap` over this axis runs one loop on each device:

    8 queries on 2 devices    [batch, 8, heads, depth], spec (None, "x", None, None)
    with an axis of shards    [batch, 2, 4, heads, depth], spec (None, "x", None, None, None)
    vmap over axis 1          each device loops over its [batch, 4, heads, depth]
    first_row                 [0, 4]: where each shard begins in the mask of all 8 queries
    outputs                   [batch, 2, 4, heads, features], reshaped back to 8 queries
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from .._random.sharding import explicit_sharding, shard_axis, spec_of, vary_alike
from .._typing import Array
from .flash import attend
from .tile import Operands, TilePlan
from .tiling import tile_axis


@partial(jax.jit, static_argnums=0)
def attend_by_shards(plan: TilePlan, operands: Operands) -> jax.Array:
    """Runs `attend`. On a mesh of explicit axes, the queries may be sharded over devices."""
    sharding = explicit_sharding(operands.query)
    if sharding is None:
        return attend(plan, vary_alike(operands))
    operands = shard_like_queries(operands)
    names = spec_of(operands.query)[-3]
    if names is None:
        return attend(plan, operands)
    names = (names,) if isinstance(names, str) else names
    shards = math.prod(sharding.mesh.shape[name] for name in names)
    length = plan.queries.length // shards
    plan = plan._replace(queries=tile_axis(length, plan.queries.size))
    operands, axes = _split_queries(operands, shards, names)
    y = jax.vmap(partial(attend, plan), (axes,), axes.query)(operands)
    *before, _, heads, features = spec_of(y)
    shape = (*y.shape[:-4], shards * length, *y.shape[-2:])
    return jnp.reshape(y, shape, out_sharding=PartitionSpec(*before, heads, features))


def shard_like_queries(x: Any) -> Any:
    """Shards the batch and the heads of all operands as in the queries.

    Keys and features are not sharded, since the weights of a query are a sum over features, and
    its output is a sum over keys.
    """
    if explicit_sharding(x.query) is None:
        return x
    *batch, length, heads, _ = spec_of(x.query)

    def of_keys(array: jax.Array) -> jax.Array:
        own = heads if array.shape[-2] == x.query.shape[-2] else spec_of(array)[-2]
        return _reshard(array, *batch, None, own, None)

    def of_weights(array: Array | None) -> Array | None:
        if array is None:
            return None
        sizes = zip((*batch, heads), array.shape[:-2], strict=True)
        return _reshard(array, *(own if size > 1 else None for own, size in sizes), None, None)

    return x._replace(
        query=_reshard(x.query, *batch, length, heads, None),
        key=of_keys(x.key),
        value=of_keys(x.value),
        bias=of_weights(x.bias),
        mask=of_weights(x.mask),
        segment_ids=jax.tree.map(of_weights, x.segment_ids),
    )


def shard_features(y: jax.Array, value: jax.Array) -> jax.Array:
    """Shards the features of the outputs as those of the values, unless y uses the same devices."""
    names = spec_of(value)[-1]
    others = set(jax.tree.leaves(spec_of(y)))
    return y if others & set(jax.tree.leaves(names)) else shard_axis(y, -1, names)


def _split_queries(x: Operands, shards: int, names: tuple[str, ...]) -> tuple[Operands, Operands]:
    """Adds an axis of shards to each operand with queries; returns them, and where the axis is."""
    length = x.query.shape[-3] // shards
    changed: dict[str, Any] = {
        "query": _split(x.query, -3, shards, names),
        "first_row": length * jnp.arange(shards, dtype=np.int32, out_sharding=PartitionSpec(names)),
        "visits": None,  # vmap of loops with different lengths runs all as long as the longest
    }
    axes: dict[str, Any] = dict.fromkeys(x._fields)
    axes |= {"query": x.query.ndim - 3, "first_row": 0}
    for name, array in {"bias": x.bias, "mask": x.mask}.items():
        if array is not None and array.shape[-2] > 1:  # otherwise all queries share it
            changed[name] = _split(array, -2, shards, names)
            axes[name] = array.ndim - 2
    if x.segment_ids is not None:
        of_queries, of_keys = x.segment_ids
        changed["segment_ids"] = _split(of_queries, -2, shards, names), of_keys
        axes["segment_ids"] = of_queries.ndim - 2, None
    return x._replace(**changed), Operands(**axes)


def _split(array: Array, axis: int, shards: int, names: tuple[str, ...]) -> jax.Array:
    """Reshapes [..., queries, ...] to [..., shards, queries of a shard, ...]."""
    spec, axis = spec_of(array), array.ndim + axis
    shape = (*array.shape[:axis], shards, array.shape[axis] // shards, *array.shape[axis + 1 :])
    whole = _reshard(array, *spec[:axis], names, *spec[axis + 1 :])
    out_sharding = PartitionSpec(*spec[:axis], names, None, *spec[axis + 1 :])
    return jnp.reshape(whole, shape, out_sharding=out_sharding)


def _reshard(array: Array, *spec: Any) -> jax.Array:
    """Reshards an array."""
    sharded: jax.Array = jax.sharding.reshard(array, PartitionSpec(*spec))
    return sharded
