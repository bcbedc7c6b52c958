"""The loop around any cell: another cell of Flax, or one that a user wrote.

Dropout of the state must not change the state that the cell carries to the next step. A state that
is scaled by 1 / keep in each of 100 steps would overflow, and values that are set to 0 would be
lost. Only the products of the state (dense layers and convolutions) should read the dropped state.

We cannot change the code of a cell, so we trace it and run its jaxpr on two values for each
variable. The `raw` value comes from the state, and the `seen` value from the dropped state. A
product computes its output from the seen values, and this output is both the raw and the seen value
from there on. All other operations run on both values. The raw result is returned:

    def cell(h, x):                  raw value                seen value
        u = h @ W                    drop(h) @ W              drop(h) @ W
        n = tanh(x + u)              tanh(x + u)              tanh(x + u)
        return z * h + (1 - z) * n   z * h + (1 - z) * n      z * drop(h) + (1 - z) * n
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._checks import shown
from .._compat import (
    CALLS,
    REMATS,
    ClosedJaxpr,
    Jaxpr,
    Literal,
    jaxpr_as_fun,
    vary,
    varying_axes,
)
from .._random.sharding import vary_alike
from .spec import CellSpec
from .step import Carry, Drop, Fixed, Stepwise, dropped, settled, unpadded

Step = Callable[[Any, jax.Array], tuple[Any, Any, Any]]
"""step(carry, x) returns the new carry, the output, and arrays that are passed through."""

CARRY = "carry"
"""Stands for the axis of a variable that each step takes from the step before."""

_PRODUCTS = {"dot_general", "conv_general_dilated", "ragged_dot", "ragged_dot_general"}
_JAXPR_TYPES = (Jaxpr, ClosedJaxpr)
_LOOPS = {"scan", "while", "cond"}


# The docstring is used in that of the layers `RNN`, which have the arguments that it explains.
def step_of_cell(
    step: Step, structure: Any, carry: Carry, x: jax.Array, fixed: Fixed, each: Stepwise
) -> tuple[Carry, jax.Array, Any]:
    """Runs any cell of Flax, or your own cell, over a sequence, with dropout of inputs and state.

        s_t, y_t = cell(s_{t-1}, drop(x_t)),   where products read drop(h_{t-1}) in place of h_{t-1}

    h is the last part of the cell's carry s. Products of h, in dense layers and convolutions, read
    the dropped h. Operations on single elements, such as z * h in a GRU, read h itself, so the
    state in the carry is never scaled. A custom_jvp or custom_vjp function that contains products
    counts as one product. A product of h inside a loop or a branch is an error.

    Each sequence has one mask for all its steps. If the output y is a part of the carry, "zoneout"
    acts on both. `LSTM`, `GRU` and `SimpleRNN` do the same for their cells, but are faster and have
    more variants.

    A cell may draw random numbers and write to its variables, for example if it contains Dropout or
    BatchNorm. Each step draws new numbers, and reads the variables that the step before wrote.

    Args:
      cell: a cell of Flax (RNNCellBase), or a module that has its methods. Its inputs may be
        integers if `dropout` is 0.
      variant: "variational" (default), or "zoneout", which keeps random values of the carry from
        the step before.
      per_gate: must be False, since the gates of the cell are not known.

    Reference: Gal & Ghahramani, A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks, 2016, https://arxiv.org/abs/1512.05287
    """
    x = dropped(unpadded(x, each), fixed.inputs)
    new, y, index_in_carry, passed_through = _run_step(step, structure, carry, x, fixed.state)
    after = settled(carry, new, fixed, each)
    y = y if index_in_carry is None else after[index_in_carry]
    return after, unpadded(y, each), passed_through


class Variables:
    """The arrays of a cell's variables over the steps of a sequence.

    Attributes:
      axes: for each array: None if all steps read the same array, CARRY if each step takes it from
        the step before, or the number of its time axis if each step has its own part.
      shared, carried, scanned: the arrays of these three kinds. Scanned arrays have time first.
    """

    def __init__(self, arrays: list[Any], axes: list[Any]):
        self.axes = axes
        moved = [
            jnp.moveaxis(array, axis, 0) if isinstance(axis, int) else array
            for array, axis in zip(arrays, axes, strict=True)
        ]
        self.shared, self.carried, self.scanned = self.split(moved)

    def split(self, arrays: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """Splits arrays into those that are shared, carried and scanned."""
        kinds = [axis if axis in (None, CARRY) else "scanned" for axis in self.axes]
        shared, carried, scanned = (
            [array for array, kind in zip(arrays, kinds, strict=True) if kind == wanted]
            for wanted in (None, CARRY, "scanned")
        )
        return shared, carried, scanned

    def join(self, shared: list[Any], carried: list[Any], scanned: list[Any]) -> list[Any]:
        """The inverse of `split`."""
        sources = {None: iter(shared), CARRY: iter(carried)}
        with_time = iter(scanned)
        return [next(sources.get(axis, with_time)) for axis in self.axes]

    def updated(self, carried: list[Any], scanned: list[Any]) -> list[Any]:
        """Returns all arrays after the last step, with each time axis in its own place."""
        return [
            jnp.moveaxis(array, 0, axis) if isinstance(axis, int) else array
            for array, axis in zip(self.join(self.shared, carried, scanned), self.axes, strict=True)
        ]


def scan_cell(
    call: Callable[..., Any],
    arrays: list[Any],
    axes: list[Any],
    structure: Any,
    inputs: jax.Array,
    carry: Carry,
    fixed: Fixed,
    stepwise: Stepwise,
    *,
    time_axis: int,
    unroll: int = 1,
) -> tuple[Carry, jax.Array, list[Any] | None]:
    """Runs `call(arrays, carry, x) -> carry, y, arrays` over the steps of the inputs.

    The arrays are the variables of a cell, with `axes` as in `Variables`. Returns the last carry,
    the outputs, and the arrays after the last step (None if no step writes to them).
    """
    tree = jax.tree.unflatten(structure, carry)
    variables = hold_unwritten(call, arrays, axes, tree, inputs, time_axis)
    shared, inputs, carry, fixed, stepwise = vary_alike(
        (variables.shared, inputs, carry, fixed, stepwise)
    )

    def run(state: Any, slices: Any) -> Any:
        (carry, carried), (x, each, scanned) = state, slices

        def step(carry: Any, x: jax.Array) -> tuple[Any, Any, Any]:
            carry, y, after = call(variables.join(shared, carried, scanned), carry, x)
            return carry, y, variables.split(after)[1:]

        carry, y, (carried, scanned) = step_of_cell(step, structure, carry, x, fixed, each)
        return (carry, carried), (y, scanned)

    xs = jnp.moveaxis(inputs, time_axis, 0), stepwise, variables.scanned
    (last, carried), (outputs, scanned) = lax.scan(
        run, (carry, variables.carried), xs, unroll=unroll
    )
    outputs = jnp.moveaxis(outputs, 0, time_axis)
    if all(axis is None for axis in variables.axes):
        return last, outputs, None
    return last, outputs, variables.updated(carried, scanned)


def hold_unwritten(
    call: Callable[..., Any],
    arrays: list[Any],
    axes: list[Any],
    carry: Any,
    inputs: jax.Array,
    time_axis: int,
) -> Variables:
    """Returns the variables of a cell. Those that no step writes, such as parameters, are shared.

    If they were carried, JAX would keep a copy of them at every step, for the gradient.
    """
    is_written: list[bool] = []
    arrays = list(arrays)

    def run(carry: Any, inputs: jax.Array) -> None:
        # An array like the inputs of one step. `take` would fail if there were no steps.
        x = inputs.sum(time_axis).astype(inputs.dtype)
        before = [
            array.take(0, axis) if isinstance(axis, int) else array
            for array, axis in zip(arrays, axes, strict=True)
        ]
        after = call(before, carry, x)[2]
        for i, (new, old) in enumerate(zip(after, before, strict=True)):
            is_written.append(new is not old)  # an unwritten variable is the same tracer
            missing = tuple(sorted(varying_axes(new) - varying_axes(old)))
            if axes[i] == CARRY and missing:  # in a shard_map
                arrays[i] = vary(arrays[i], missing)

    jax.eval_shape(run, carry, inputs)
    kept = [None if a == CARRY and not w else a for a, w in zip(axes, is_written, strict=True)]
    return Variables(arrays, kept)


def check_cell(cell: Any, kind: type, example: str) -> None:
    """Raises unless this is a module of this kind with the methods that the hosts' loops use."""
    # By name, because the property num_feature_axes of the hosts' base class raises.
    is_like_one = callable(cell) and {"initialize_carry", "num_feature_axes"} <= set(dir(cell))
    if not isinstance(cell, kind) or not is_like_one:
        raise TypeError(
            f"RNN takes a cell, such as an instance of {example}: a module with "
            f"initialize_carry and num_feature_axes: got {shown(cell)}"
        )


def spec_of_cell(first: Any, step: tuple[int, ...], feature_axes: int) -> CellSpec:
    """Checks the first carry of a cell; `step` is the shape of the inputs of one step."""
    batch = step[: len(step) - feature_axes]
    parts = jax.tree.leaves(first)
    if not parts or any(part.shape[: len(batch)] != batch for part in parts):
        raise ValueError(
            "RNN takes a cell whose carry has parts of shape [*batch, ...], here with the batch "
            f"{batch}: got shapes {[part.shape for part in parts]}"
        )
    if not jnp.issubdtype(parts[-1].dtype, jnp.floating):
        raise TypeError(
            "RNN takes a cell whose state, the last part of its carry, is floating: "
            f"got dtype {parts[-1].dtype}"
        )
    return CellSpec(None, False, tuple(part.shape[len(batch) :] for part in parts), feature_axes)


def _run_step(
    step: Step, structure: Any, carry: Carry, x: jax.Array, drop: Drop | None
) -> tuple[Carry, jax.Array, int | None, Any]:
    """Runs one step, in which products read the dropped state.

    Returns the parts of the new carry, the output, the index of the output among the parts of the
    carry (None if it is not one of them), and the arrays that `step` passes through.
    """

    def flat_step(carry: Carry, x: jax.Array) -> tuple[list[Any], list[Any], Any]:
        new, y, passed_through = step(jax.tree.unflatten(structure, carry), x)
        return jax.tree.leaves(new), jax.tree.leaves(y), passed_through

    closed, (new, outputs, passed_through) = jax.make_jaxpr(flat_step, return_shape=True)(carry, x)
    if len(new) != len(carry) or len(outputs) != 1:
        raise ValueError(
            f"RNN takes a cell that returns a carry like the one it is given, of {len(carry)} "
            f"arrays, and one array of outputs: got {len(new)} and {len(outputs)}"
        )
    parts, output = closed.jaxpr.outvars[: len(carry)], closed.jaxpr.outvars[len(carry)]
    index_in_carry = parts.index(output) if output in parts else None
    interpreter = _Interpreter()
    seen = (*carry[:-1], dropped(carry[-1], drop), x)
    results = interpreter.run(closed.jaxpr, closed.consts, (*carry, x), seen)[0]
    if drop is not None and not interpreter.products:
        raise ValueError(
            "RNN drops the state, the last part of a cell's carry, where a dense layer or a "
            "convolution reads it: got a cell in which none reads it; use variant='zoneout', or "
            "set recurrent_dropout=0"
        )
    passed_through = jax.tree.unflatten(
        jax.tree.structure(passed_through), results[len(carry) + 1 :]
    )
    return tuple(results[: len(carry)]), results[len(carry)], index_in_carry, passed_through


class _Interpreter:
    """Runs a jaxpr on raw and seen values, as described at the top of this file.

    Attributes:
      products: the number of products whose raw and seen inputs differed.
    """

    def __init__(self) -> None:
        self.products = 0

    def run(self, jaxpr: Jaxpr, consts: Any, raw: Any, seen: Any) -> tuple[list[Any], list[Any]]:
        """Returns the raw and the seen outputs."""
        values = dict(zip(jaxpr.constvars, zip(consts, consts, strict=True), strict=True))
        values |= zip(jaxpr.invars, zip(raw, seen, strict=True), strict=True)

        def read(variables: Any) -> tuple[list[Any], list[Any]]:
            pairs = [(v.val,) * 2 if isinstance(v, Literal) else values[v] for v in variables]
            return [a for a, _ in pairs], [b for _, b in pairs]

        for equation in jaxpr.eqns:
            outputs = self._run_equation(jaxpr, equation, *read(equation.invars))
            values |= zip(equation.outvars, zip(*outputs, strict=True), strict=True)
        return read(jaxpr.outvars)

    def _run_equation(
        self, jaxpr: Jaxpr, equation: Any, raw: list[Any], seen: list[Any]
    ) -> tuple[list[Any], list[Any]]:
        compute = partial(_compute, jaxpr, equation)
        name, inner = equation.primitive.name, equation.params.get("jaxpr")
        if all(a is b for a, b in zip(raw, seen, strict=True)):
            outputs = compute(raw)
            return outputs, outputs
        if not _has_product(equation):
            return compute(raw), compute(seen)
        if name in CALLS:
            return self.run(inner.jaxpr, inner.consts, raw, seen)
        if name in REMATS:
            options = {key: equation.params[key] for key in ("prevent_cse", "policy")}
            run = jax.checkpoint(partial(self.run, inner, ()), **options)
            both: tuple[list[Any], list[Any]] = run(raw, seen)
            return both
        if name in _LOOPS:
            raise ValueError(
                "RNN cannot drop the state where a dense layer or a convolution reads it inside "
                f"jax.lax.{name}; move that layer out of jax.lax.{name}, or use variant='zoneout'"
            )
        self.products += 1
        outputs = compute(seen)
        return outputs, outputs


def _compute(jaxpr: Jaxpr, equation: Any, values: list[Any]) -> list[Any]:
    """Returns the outputs of one equation of a jaxpr.

    `values` are the inputs of the equation. Constants of the jaxpr are among them, so the program
    of the equation alone has no constants.
    """
    pairs = zip(equation.invars, values, strict=True)
    inputs = {v: value for v, value in pairs if not isinstance(v, Literal)}
    program = jaxpr.replace(
        constvars=[], invars=list(inputs), outvars=equation.outvars, eqns=[equation]
    )
    outputs: list[Any] = jaxpr_as_fun(ClosedJaxpr(program, []))(*inputs.values())
    return outputs


def _has_product(equation: Any) -> bool:
    if equation.primitive.name in _PRODUCTS:
        return True
    programs = jax.tree.leaves(equation.params, is_leaf=lambda v: isinstance(v, _JAXPR_TYPES))
    inside = [p.eqns for p in programs if isinstance(p, _JAXPR_TYPES)]
    return any(_has_product(e) for equations in inside for e in equations)
