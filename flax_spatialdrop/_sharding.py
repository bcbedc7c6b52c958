"""How arrays lie over devices, where their types say so: on meshes of explicit axes."""

from typing import Any

import jax


def explicit_sharding(x: Any) -> jax.sharding.NamedSharding | None:
    """The sharding in x's type; None where the compiler finds it, or there is none."""
    sharding = jax.typeof(x).sharding
    is_explicit = jax.sharding.AxisType.Explicit in sharding.mesh.axis_types
    return sharding if is_explicit else None
