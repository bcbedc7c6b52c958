"""Compares programs on several devices to the same programs on one.

`assert_same_on_devices` compiles a function together with its derivative, and checks what must hold
for each way to shard its input: values and gradients, shardings, what the devices send, and what
they draw.
"""

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.random import clone
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flax_spatialdrop._compat import CAN_DRAW_SHARDED

from .hlo import collectives, sizes_of_words

KEY = jax.random.key(4)
MODES = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
WORDS_OF_A_KEY = 4  # the largest array of uint32 that a program has for a key


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """A function of a sharded array, and what it may cost to shard each axis.

    Attributes:
      name: of the row.
      f: f(key, x, *others), which returns arrays.
      x: the array to shard. If it is floating, f is differentiated by it.
      others: arrays with the first axis of x, sharded as x along it, or of no axes.
      sent: for an axis, what the devices may send if it is sharded: the kinds of collectives, and
        how many of each. A key ("auto", axis) or ("explicit", axis) holds on such meshes only.
      split: for an axis, the part of the draw that each of two devices may compute. Without an
        entry, all devices may draw the same.
      per_hash: how many elements share a hash on one device, where several devices hash each.
      free: axes that may be sharded without the result keeping x's sharding.
      tolerance: of values and gradients.
    """

    name: str
    f: Callable[..., Any]
    x: np.ndarray
    others: tuple[np.ndarray, ...] = ()
    sent: Mapping[Any, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    split: Mapping[int, float] = dataclasses.field(default_factory=dict)
    per_hash: int = 1
    free: frozenset[int] = frozenset()
    tolerance: float = 1e-6

    @property
    def axes(self) -> list[int]:
        """The axes that two devices can divide."""
        return [axis for axis, size in enumerate(self.x.shape) if size % 2 == 0]

    def allowed(self, mode: str, axes: tuple[int, ...]) -> Counter[str]:
        """Returns the collectives that the row may need if these axes are sharded."""
        found: Counter[str] = Counter()
        for axis in axes:
            found += Counter(self.sent.get((mode, axis), self.sent.get(axis, {})))
        return found

    @functools.cached_property
    def program(self) -> Callable[..., Any]:
        """Returns f's values, and the gradient of half the sum of their squares."""

        def run(key: jax.Array, x: jax.Array, *others: jax.Array) -> Any:
            def f(x: jax.Array) -> Any:
                return self.f(key, x, *others)

            if not jnp.issubdtype(x.dtype, jnp.floating):
                return f(x), ()
            y, pullback = jax.vjp(f, x)
            return y, pullback(jax.tree.map(_cotangent, y))

        return run

    @functools.cached_property
    def on_one_device(self) -> tuple[Any, int]:
        """The results on one device, and the size of the largest array of random bits."""
        compiled = jax.jit(self.program).lower(clone(KEY), self.x, *self.others).compile()
        found = compiled(clone(KEY), self.x, *self.others)
        return jax.tree.map(np.asarray, found), max([0, *sizes_of_words(compiled.as_text())])


def _cotangent(y: jax.Array) -> Any:
    is_floating = jnp.issubdtype(y.dtype, jnp.floating)
    return y if is_floating else np.zeros(y.shape, jax.dtypes.float0)


def mesh_of(mode: str, *sizes: int) -> jax.sharding.Mesh:
    """Returns a mesh with axes "a", "b", ... of these sizes."""
    devices = jax.devices()[: math.prod(sizes)]
    types = (MODES[mode],) * len(sizes)
    return jax.make_mesh(sizes, tuple("abc"[: len(sizes)]), axis_types=types, devices=devices)


def put(row: Row, mesh: jax.sharding.Mesh, spec: P) -> tuple[jax.Array, ...]:
    """Returns x and the others on the mesh."""
    specs = [spec, *(P(*spec[:1]) if other.ndim else P() for other in row.others)]
    pairs = zip((row.x, *row.others), specs, strict=True)
    return tuple(jax.device_put(array, NamedSharding(mesh, its)) for array, its in pairs)


def assert_same_on_devices(row: Row, mode: str, spec: P) -> None:
    """Asserts that the row has the same results on a mesh, at the cost that it allows."""
    names = jax.tree.leaves(tuple(spec))
    mesh = mesh_of(mode, *[2] * len(names))
    with jax.set_mesh(mesh):
        given = put(row, mesh, spec)
        compiled = jax.jit(row.program).lower(clone(KEY), *given).compile()
        found = compiled(clone(KEY), *given)
    expected, words = row.on_one_device
    assert_close(found, expected, row.tolerance)
    axes = tuple(axis for axis, entry in enumerate(spec) if entry)
    if not row.free & {*axes}:
        assert_sharded_as(given[0], found)
    text = compiled.as_text()
    sent = Counter(collectives(text))
    assert sent <= row.allowed(mode, axes), f"sends {dict(sent)}"
    splits = [row.split.get(axis, 1) ** len(jax.tree.leaves(spec[axis])) for axis in axes]
    share = row.per_hash * math.prod(splits)
    if mode == "explicit" and not CAN_DRAW_SHARDED:
        return
    drawn = max([0, *sizes_of_words(text)])
    assert drawn <= max(WORDS_OF_A_KEY, words * share), f"draws {drawn} of {words} words"


def assert_close(found: Any, expected: Any, tolerance: float) -> None:
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def assert_sharded_as(x: jax.Array, tree: Any) -> None:
    """Asserts that the arrays in a tree are sharded as x along the axes that they have of x."""
    for array in jax.tree.leaves(tree):
        shared = [a == b for a, b in zip(array.shape, x.shape, strict=False)]
        spec = [*x.sharding.spec] + [None] * x.ndim
        own = [name if same else None for name, same in zip(spec, shared, strict=False)]
        expected = NamedSharding(x.sharding.mesh, P(*own))
        is_equal = array.sharding.is_equivalent_to(expected, array.ndim)
        assert is_equal, f"is sharded by {array.sharding.spec}, and not by {expected.spec}"
