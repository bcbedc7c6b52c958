"""A cell of NNX as a function of what its variables hold."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .._compat import vary, varying_axes
from .._recurrent.any_cell import Variables


class CellState:
    """The leaves of a cell's variables: which are the same in every step, carried or scanned.

    `axes` says so as of `nnx.scan`: None, nnx.Carry, or the axis of time.
    """

    def __init__(self, cell: Any, axes: nnx.StateAxes):
        self.cell = cell
        self.graph, self.paths, self.tree, self.leaves = _flat(cell)
        variables = jax.tree.unflatten(self.tree, self.leaves)
        pairs = zip(self.paths, variables, strict=True)
        self.axes = [axes.map_prefix(p, v) for p, v in pairs for _ in jax.tree.leaves(v)]

    def carry_what_is_written(self, carry: Any, xs: jax.Array, time_axis: int) -> None:
        """Of what may be carried, holds fixed what no step writes, such as the parameters.

        JAX would keep a copy of all that is carried for the gradient of every step.
        """
        is_written: list[bool] = []

        def run(carry: Any, xs: jax.Array) -> None:
            step_input = xs.sum(time_axis).astype(xs.dtype)  # stands for any step
            before = [
                leaf.take(0, axis) if isinstance(axis, int) else leaf
                for leaf, axis in zip(self.leaves, self.axes, strict=True)
            ]
            after = self._call(before, carry, step_input)[2]
            for i, (new, old) in enumerate(zip(after, before, strict=True)):
                is_written.append(new is not old)
                missing = tuple(sorted(varying_axes(new) - varying_axes(old)))
                if self.axes[i] is nnx.Carry and missing:  # in a shard_map
                    self.leaves[i] = vary(self.leaves[i], missing)

        jax.eval_shape(run, carry, xs)
        self.axes = [
            None if axis is nnx.Carry and not written else axis
            for axis, written in zip(self.axes, is_written, strict=True)
        ]

    def variables(self) -> Variables:
        """What the cell holds now."""
        moved = [
            jnp.moveaxis(leaf, axis, 0) if isinstance(axis, int) else leaf
            for leaf, axis in zip(self.leaves, self.axes, strict=True)
        ]
        return self._sorted(moved)

    def step(self, variables: Variables, carry: Any, x: jax.Array) -> tuple[Any, Any, Variables]:
        """Calls the cell; of what is fixed nothing is returned."""
        carry, y, after = self._call(self._joined(variables), carry, x)
        return carry, y, self._sorted(after)._replace(fixed=[])

    def write(self, variables: Variables) -> None:
        """Leaves what is carried and scanned in the cell."""
        if any(axis is not None for axis in self.axes):
            fixed = self._sorted(self.leaves).fixed
            leaves = [
                jnp.moveaxis(leaf, 0, axis) if isinstance(axis, int) else leaf
                for leaf, axis in zip(
                    self._joined(variables._replace(fixed=fixed)), self.axes, strict=True
                )
            ]
            nnx.update(self.cell, self._state(leaves))

    def _state(self, leaves: list[Any]) -> Any:
        variables = jax.tree.unflatten(self.tree, leaves)
        return nnx.from_flat_state(zip(self.paths, variables, strict=True))

    def _call(self, leaves: list[Any], carry: Any, x: jax.Array) -> tuple[Any, Any, list[Any]]:
        cell = nnx.merge(self.graph, self._state(leaves))
        carry, y = cell(carry, x)
        _, paths, tree, after = _flat(cell)
        if (paths, tree) != (self.paths, self.tree):
            raise ValueError(
                "RNN takes a cell that has the same variables after a step as before, since they "
                f"are carried: got {len(paths)} in place of {len(self.paths)}"
            )
        return carry, y, after

    def _sorted(self, leaves: list[Any]) -> Variables:
        found = Variables([], [], [])
        for leaf, axis in zip(leaves, self.axes, strict=True):
            kind = found.scanned if isinstance(axis, int) else found.carried
            (found.fixed if axis is None else kind).append(leaf)
        return found

    def _joined(self, variables: Variables) -> list[Any]:
        fixed, carried, scanned = map(iter, variables)
        return [
            next(fixed if axis is None else scanned if isinstance(axis, int) else carried)
            for axis in self.axes
        ]


def _flat(cell: Any) -> tuple[Any, list[Any], Any, list[Any]]:
    graph, state = nnx.split(cell)
    flat = list(nnx.to_flat_state(state))
    leaves, tree = jax.tree.flatten([variable for _, variable in flat])
    return graph, [path for path, _ in flat], tree, leaves
