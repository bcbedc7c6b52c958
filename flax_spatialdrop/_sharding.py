"""How arrays lie over devices, where their types say so: on meshes of explicit axes."""

from typing import Any

import jax


def explicit_sharding(x: Any) -> jax.sharding.NamedSharding | None:
    """The sharding in x's type; None where the compiler finds it, or there is none."""
    sharding = jax.typeof(x).sharding
    is_explicit = jax.sharding.AxisType.Explicit in sharding.mesh.axis_types
    return sharding if is_explicit else None


def sharding_of_part(x: Any, shape: tuple[int, ...]) -> jax.sharding.NamedSharding | None:
    """That of an array like x but of other sizes along some axes, which are not sharded."""
    sharding = explicit_sharding(x)
    if sharding is None:
        return None
    spec = [*sharding.spec] + [None] * (x.ndim - len(sharding.spec))
    kept = (part if a == b else None for part, a, b in zip(spec, x.shape, shape, strict=True))
    return sharding.update(spec=jax.sharding.PartitionSpec(*kept))
