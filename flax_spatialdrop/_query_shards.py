"""Queries that lie on several devices: each walks over its own, with its part of the mask."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from ._blockwise import attend
from ._cut import Cut
from ._sharding import explicit_sharding, spec_of
from ._typing import Array
from ._weights_block import Operands, Plan


@partial(jax.jit, static_argnums=0)
def attend_by_shards(plan: Plan, operands: Operands) -> jax.Array:
    """`attend`, where queries may be sharded over devices of a mesh of explicit axes."""
    sharding = explicit_sharding(operands.query)
    if sharding is None:
        return attend(plan, operands)
    key, value = (_gathered(array) for array in (operands.key, operands.value))
    bias, mask = (_beside(operands.query, array) for array in (operands.bias, operands.mask))
    operands = operands._replace(key=key, value=value, bias=bias, mask=mask)
    names = spec_of(operands.query)[-3]
    if names is None:
        return attend(plan, operands)
    names = (names,) if isinstance(names, str) else names
    shards = math.prod(sharding.mesh.shape[name] for name in names)
    length = plan.queries.length // shards
    split = partial(_split, shards=shards, names=names)
    of_weights = {"bias": operands.bias, "mask": operands.mask}
    with_queries = {n: a for n, a in of_weights.items() if a is not None and a.shape[-2] > 1}
    changed: dict[str, Any] = dict(
        query=split(operands.query, -3),
        first_row=jnp.arange(shards, dtype=np.int32, out_sharding=PartitionSpec(names)) * length,
        visits=None,  # else all devices would wait for the one that has most to visit
        **{name: split(array, -2) for name, array in with_queries.items()},
    )
    axes: dict[str, Any] = dict.fromkeys(operands._fields) | {"query": operands.query.ndim - 3}
    axes |= {"first_row": 0, **{name: array.ndim - 2 for name, array in with_queries.items()}}
    plan = plan._replace(queries=Cut(length, min(plan.queries.size, length)))
    attend_one = partial(attend, plan)
    y = jax.vmap(attend_one, (Operands(**axes),), axes["query"])(operands._replace(**changed))
    *before, _, heads, features = spec_of(y)
    shape = (*y.shape[:-4], shards * length, *y.shape[-2:])
    return jnp.reshape(y, shape, out_sharding=PartitionSpec(*before, heads, features))


def _split(array: Array, axis: int, shards: int, names: Any) -> jax.Array:
    """[..., queries, ...] as [..., shards, queries of one, ...], each on its device."""
    spec, axis = spec_of(array), array.ndim + axis
    length = array.shape[axis] // shards
    shape = (*array.shape[:axis], shards, length, *array.shape[axis + 1 :])
    whole = jax.sharding.reshard(array, PartitionSpec(*spec[:axis], names, *spec[axis + 1 :]))
    out_sharding = PartitionSpec(*spec[:axis], names, None, *spec[axis + 1 :])
    return jnp.reshape(whole, shape, out_sharding=out_sharding)


def _beside(query: jax.Array, array: Array | None) -> Array | None:
    """A bias or mask with its batch and heads where those of the query are."""
    if array is None:
        return None
    *batch, _, heads, _ = spec_of(query)
    sizes = zip((*batch, heads), array.shape[:-2], strict=True)
    names = [own if size > 1 else None for own, size in sizes]
    return jax.sharding.reshard(array, PartitionSpec(*names, *spec_of(array)[-2:]))


def _gathered(array: jax.Array) -> jax.Array:
    """Keys or values, of which every query may need all."""
    spec = spec_of(array)
    if spec[-3] is None:
        return array
    return jax.sharding.reshard(array, PartitionSpec(*spec[:-3], None, *spec[-2:]))
