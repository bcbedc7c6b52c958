"""Queries that lie on several devices: each walks over its own, with its part of the mask."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from .._random.sharding import explicit_sharding, spec_of, vary_alike
from .._typing import Array
from .flash import attend
from .tile import Operands, Plan
from .tiling import Cut


@partial(jax.jit, static_argnums=0)
def attend_by_shards(plan: Plan, operands: Operands) -> jax.Array:
    """`attend`, where queries may be sharded over devices of a mesh of explicit axes."""
    sharding = explicit_sharding(operands.query)
    if sharding is None:
        return attend(plan, vary_alike(operands))
    operands = _beside_queries(operands)
    names = spec_of(operands.query)[-3]
    if names is None:
        return attend(plan, operands)
    names = (names,) if isinstance(names, str) else names
    shards = math.prod(sharding.mesh.shape[name] for name in names)
    length = plan.queries.length // shards
    plan = plan._replace(queries=Cut(length, min(plan.queries.size, length)))
    operands, axes = _split_queries(operands, shards, names)
    y = jax.vmap(partial(attend, plan), (axes,), axes.query)(operands)
    *before, _, heads, features = spec_of(y)
    shape = (*y.shape[:-4], shards * length, *y.shape[-2:])
    return jnp.reshape(y, shape, out_sharding=PartitionSpec(*before, heads, features))


def _beside_queries(x: Operands) -> Operands:
    """All that a device's queries need on that device: the batch and heads of theirs, all keys."""
    *batch, length, heads, _ = spec_of(x.query)

    def of_keys(array: jax.Array) -> jax.Array:
        own = heads if array.shape[-2] == x.query.shape[-2] else spec_of(array)[-2]
        return _laid(array, *batch, None, own, None)

    def of_weights(array: Array | None) -> Array | None:
        if array is None:
            return None
        sizes = zip((*batch, heads), array.shape[:-2], strict=True)
        return _laid(array, *(own if size > 1 else None for own, size in sizes), None, None)

    return x._replace(
        query=_laid(x.query, *batch, length, heads, None),
        key=of_keys(x.key),
        value=of_keys(x.value),
        bias=of_weights(x.bias),
        mask=of_weights(x.mask),
    )


def _split_queries(x: Operands, shards: int, names: tuple[str, ...]) -> tuple[Operands, Operands]:
    """The operands with an axis of shards wherever there are queries, and where that axis is."""
    length = x.query.shape[-3] // shards
    changed: dict[str, Any] = {
        "query": _split(x.query, -3, shards, names),
        "first_row": length * jnp.arange(shards, dtype=np.int32, out_sharding=PartitionSpec(names)),
        "visits": None,  # else all devices would wait for the one that has most to visit
    }
    axes: dict[str, int | None] = dict.fromkeys(x._fields)
    axes |= {"query": x.query.ndim - 3, "first_row": 0}
    for name, array in {"bias": x.bias, "mask": x.mask}.items():
        if array is not None and array.shape[-2] > 1:  # else all queries share it
            changed[name] = _split(array, -2, shards, names)
            axes[name] = array.ndim - 2
    return x._replace(**changed), Operands(**axes)  # type: ignore[arg-type]


def _split(array: Array, axis: int, shards: int, names: tuple[str, ...]) -> jax.Array:
    """[..., queries, ...] as [..., shards, queries of one, ...], each on its device."""
    spec, axis = spec_of(array), array.ndim + axis
    shape = (*array.shape[:axis], shards, array.shape[axis] // shards, *array.shape[axis + 1 :])
    whole = _laid(array, *spec[:axis], names, *spec[axis + 1 :])
    out_sharding = PartitionSpec(*spec[:axis], names, None, *spec[axis + 1 :])
    return jnp.reshape(whole, shape, out_sharding=out_sharding)


def _laid(array: Array, *spec: Any) -> jax.Array:
    """An array laid over the mesh by a spec."""
    return jax.sharding.reshard(array, PartitionSpec(*spec))
