"""Shardings that are part of the type of an array, as on meshes with explicit axes."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from .._compat import CAN_DRAW_SHARDED, vary, varying_axes


def explicit_sharding(x: Any) -> NamedSharding | None:
    """Returns the sharding in x's type; None if the mesh has no explicit axes."""
    sharding = jax.typeof(x).sharding
    is_explicit = jax.sharding.AxisType.Explicit in sharding.mesh.axis_types
    return sharding if is_explicit else None


def sharding_of_part(x: Any, shape: tuple[int, ...]) -> NamedSharding | None:
    """Returns the sharding of x for an array of `shape`, such as a mask of x.

    Axes with another size than in x are not sharded. If x has another number of axes, nothing is.
    """
    sharding = explicit_sharding(x)
    if sharding is None or x.ndim != len(shape):
        return None
    sizes = zip(spec_of(x), x.shape, shape, strict=True)
    kept = (names if a == b else None for names, a, b in sizes)
    return sharding.update(spec=PartitionSpec(*kept))


def sharding_of_batch(x: Any, num_others: int) -> NamedSharding | None:
    """Returns the sharding of x for an array that lacks the last `num_others` axes of x."""
    sharding = explicit_sharding(x)
    if sharding is None:
        return None
    return sharding.update(spec=PartitionSpec(*spec_of(x)[:-num_others]))


def spec_of(x: Any) -> list[Any]:
    """Returns for each axis of x the axes of the mesh that it is sharded over, or None."""
    spec = jax.typeof(x).sharding.spec
    return [*spec] + [None] * (x.ndim - len(spec))


def drawn(draw: Callable[..., jax.Array], sharding: NamedSharding | None) -> jax.Array:
    """Returns draw(out_sharding=sharding), a draw in which each device draws only its own part."""
    if sharding is None or CAN_DRAW_SHARDED:
        return draw(out_sharding=sharding)
    whole: jax.Array = jax.sharding.reshard(draw(), sharding)
    return whole


def shard_axis(x: Any, axis: int, names: Any) -> Any:
    """Returns x with one axis sharded over `names`, or whole on each device if they are None.

    On meshes without explicit axes, it returns x itself.
    """
    sharding, spec = explicit_sharding(x), spec_of(x)
    if sharding is None or spec[axis] == names:
        return x
    spec[axis] = names
    return jax.sharding.reshard(x, sharding.update(spec=PartitionSpec(*spec)))


def vary_alike(tree: Any) -> Any:
    """Makes all arrays of a tree vary over the same axes of a shard_map, as its loops require."""
    axes = frozenset[str]().union(*map(varying_axes, jax.tree.leaves(tree)))

    def alike(x: Any) -> Any:
        missing = tuple(sorted(axes - varying_axes(x)))
        return vary(x, missing) if missing else x

    return jax.tree.map(alike, tree)
