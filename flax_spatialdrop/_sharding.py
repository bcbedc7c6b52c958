"""How arrays lie over devices, where their types say so: on meshes of explicit axes."""

from typing import Any

import jax
from jax import lax


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
    axes = frozenset[str]().union(*map(_varying_axes, jax.tree.leaves(tree)))

    def vary(x: Any) -> Any:
        missing = tuple(sorted(axes - _varying_axes(x)))
        if not missing:
            return x
        if hasattr(lax, "pcast"):
            return lax.pcast(x, missing, to="varying")
        return lax.pvary(x, missing)  # type: ignore[attr-defined]  # before JAX 0.9

    return jax.tree.map(vary, tree)


def _varying_axes(x: Any) -> frozenset[str]:
    """The axes of a shard_map's mesh along which devices have arrays of their own, by x's type."""
    kind = jax.typeof(x)
    return kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying
