"""How arrays lie over devices, where their types say so: on meshes of explicit axes."""

from typing import Any

import jax

from .._compat import vary, varying_axes


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
    sizes = zip(spec_of(x), x.shape, shape, strict=True)
    kept = (names if a == b else None for names, a, b in sizes)
    return sharding.update(spec=jax.sharding.PartitionSpec(*kept))


def spec_of(x: Any) -> list[Any]:
    """The names of the mesh's axes that each axis of x is sharded over, or None, by x's type."""
    spec = jax.typeof(x).sharding.spec
    return [*spec] + [None] * (x.ndim - len(spec))


def vary_alike(tree: Any) -> Any:
    """All arrays of a tree, in a shard_map of the same type: they differ where one of them does."""
    axes = frozenset[str]().union(*map(varying_axes, jax.tree.leaves(tree)))

    def alike(x: Any) -> Any:
        missing = tuple(sorted(axes - varying_axes(x)))
        return vary(x, missing) if missing else x

    return jax.tree.map(alike, tree)
