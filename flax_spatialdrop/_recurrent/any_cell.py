"""The loop around a cell that is not our own: another one of Flax, or a user's.

Dropout of the state must not scale the state that the cell carries on: scaled by 1 / keep in each
of 100 steps, it would overflow, and multiplied by the mask it would be lost. But the code of a cell
does not tell us where it uses the state for what. So we trace the cell and run its program on two
sets of values: the `raw` ones, and the `seen` ones, which start from the dropped state. Products
(dense layers and convolutions) take the seen values, all other operations keep both. For a cell

    def cell(h, x):                     #           raw           seen
        u = h @ W                       #           drop(h) @ W   drop(h) @ W    a product
        n = tanh(x + u)                 #           the same for both
        return z * h + (1 - z) * n      #  result:  z * h + ...   z * drop(h) + ...

the result is the raw value: the dense layer has seen the dropped state, and z * h is not scaled.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

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
"""step(carry, x) -> carry, y, rest."""

CARRY = "carry"
"""The axis of a variable that each step takes from the step before."""

_PRODUCTS = {"dot_general", "conv_general_dilated", "ragged_dot", "ragged_dot_general"}
_PROGRAMS = (Jaxpr, ClosedJaxpr)
_LOOPS = {"scan", "while", "cond"}


def step_of_cell(
    step: Step, structure: Any, carry: Carry, x: jax.Array, fixed: Fixed, each: Stepwise
) -> tuple[Carry, jax.Array, Any]:
    """Any cell of Flax, or of your own, over a sequence, with dropout of inputs and state.

        s_t, y_t = cell(s_{t-1}, drop(x_t)),   where products read drop(h_{t-1}) in place of h_{t-1}

    h is the last part of the cell's carry s. Products of h, in dense layers and convolutions, read
    the dropped h. Element by element operations, such as z * h in a GRU, read h itself, so that the
    state that is carried on is never scaled. (A custom_jvp or
    custom_vjp function that contains products counts as one product. Products of h inside a loop or
    a branch are refused.) Each sequence has
    one mask for all its steps. With "zoneout", y is the part of the carry that stays as it was, if
    the cell returns that part as y. `LSTM`, `GRU` and `SimpleRNN` do the same for their cells,
    faster and with more variants.

    A cell may draw random numbers and write to its variables, as Dropout and BatchNorm inside it
    do. Each step draws anew, and continues from what the step before has written.

    Args:
      cell: a cell of Flax (RNNCellBase), or a module that has its methods. Its inputs may be
        integers if `dropout` is 0.
      variant: "variational" (default) or "zoneout", which keeps values of the carry as they were.
      per_gate: False; the gates of the cell are not known.

    Reference: Gal & Ghahramani, A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks, 2016, https://arxiv.org/abs/1512.05287
    """
    x = dropped(unpadded(x, each), fixed.inputs)
    new, y, place, rest = _run_step(step, structure, carry, x, fixed.state)
    after = settled(carry, new, fixed, each)
    return after, unpadded(y if place is None else after[place], each), rest


class Variables:
    """The arrays of a cell's variables over the steps of a sequence.

    Attributes:
      axes: for each array None, if it is the same in every step; CARRY, if each step takes it from
        the step before; or the number of its time axis.
      fixed, carried, scanned: the arrays of these three kinds; those that are scanned have time
        first.
    """

    def __init__(self, arrays: list[Any], axes: list[Any]):
        self.axes = axes
        moved = [
            jnp.moveaxis(array, axis, 0) if isinstance(axis, int) else array
            for array, axis in zip(arrays, axes, strict=True)
        ]
        self.fixed, self.carried, self.scanned = self.split(moved)

    def split(self, arrays: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """The arrays that are fixed, carried and scanned."""
        kinds = [axis if axis in (None, CARRY) else "scanned" for axis in self.axes]
        fixed, carried, scanned = (
            [array for array, kind in zip(arrays, kinds, strict=True) if kind == wanted]
            for wanted in (None, CARRY, "scanned")
        )
        return fixed, carried, scanned

    def join(self, fixed: list[Any], carried: list[Any], scanned: list[Any]) -> list[Any]:
        """The inverse of `split`."""
        arrays = {None: iter(fixed), CARRY: iter(carried)}
        others = iter(scanned)
        return [next(arrays.get(axis, others)) for axis in self.axes]

    def updated(self, carried: list[Any], scanned: list[Any]) -> list[Any]:
        """All arrays after the last step, with their time axes in place."""
        return [
            jnp.moveaxis(array, 0, axis) if isinstance(axis, int) else array
            for array, axis in zip(self.join(self.fixed, carried, scanned), self.axes, strict=True)
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

    The arrays are those of the variables of a cell, with `axes` as in `Variables`. Returns the last
    carry, the outputs, and the arrays after the last step, or None if no step writes them.
    """
    tree = jax.tree.unflatten(structure, carry)
    variables = hold_unwritten(call, arrays, axes, tree, inputs, time_axis)
    still, inputs, carry, fixed, stepwise = vary_alike(
        (variables.fixed, inputs, carry, fixed, stepwise)
    )

    def run(state: Any, part: Any) -> Any:
        (carry, carried), (x, each, scanned) = state, part

        def step(carry: Any, x: jax.Array) -> tuple[Any, Any, Any]:
            carry, y, after = call(variables.join(still, carried, scanned), carry, x)
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
    """The variables of a cell; those that no step writes, such as parameters, are not carried.

    JAX keeps a copy of everything that is carried for the gradient of every step.
    """
    is_written: list[bool] = []
    arrays = list(arrays)

    def run(carry: Any, inputs: jax.Array) -> None:
        x = inputs.sum(time_axis).astype(inputs.dtype)  # stands for any step
        before = [
            array.take(0, axis) if isinstance(axis, int) else array
            for array, axis in zip(arrays, axes, strict=True)
        ]
        after = call(before, carry, x)[2]
        for i, (new, old) in enumerate(zip(after, before, strict=True)):
            is_written.append(new is not old)
            missing = tuple(sorted(varying_axes(new) - varying_axes(old)))
            if axes[i] == CARRY and missing:  # in a shard_map
                arrays[i] = vary(arrays[i], missing)

    jax.eval_shape(run, carry, inputs)
    kept = [None if a == CARRY and not w else a for a, w in zip(axes, is_written, strict=True)]
    return Variables(arrays, kept)


def is_cell(value: Any) -> bool:
    """Whether a value has the methods of a cell that the hosts' loops use."""
    # By name, because the property num_feature_axes of the hosts' base class raises.
    return callable(value) and {"initialize_carry", "num_feature_axes"} <= set(dir(value))


def spec_of_cell(first: Any, step: tuple[int, ...], feature_axes: int) -> CellSpec:
    """Checks the first carry of a cell, for inputs of one step of this shape."""
    batch = step[: len(step) - feature_axes]
    parts = jax.tree.leaves(first)
    if not parts or any(part.shape[: len(batch)] != batch for part in parts):
        raise ValueError(
            f"RNN takes a cell whose carry has parts of shape [*batch, ...], here with the batch "
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
    """Runs one step whose products see the dropped state.

    Returns the new parts of the carry; the output; which part of the carry the output is, if any;
    and the rest.
    """

    def flat_step(carry: Carry, x: jax.Array) -> tuple[list[Any], list[Any], Any]:
        new, y, rest = step(jax.tree.unflatten(structure, carry), x)
        return jax.tree.leaves(new), jax.tree.leaves(y), rest

    closed, (new, outputs, rest) = jax.make_jaxpr(flat_step, return_shape=True)(carry, x)
    if len(new) != len(carry) or len(outputs) != 1:
        raise ValueError(
            f"RNN takes a cell that returns a carry like the one it is given, of {len(carry)} "
            f"arrays, and one array of outputs: got {len(new)} and {len(outputs)}"
        )
    parts, output = closed.jaxpr.outvars[: len(carry)], closed.jaxpr.outvars[len(carry)]
    place = parts.index(output) if output in parts else None
    interpreter = _Interpreter()
    seen = (*carry[:-1], dropped(carry[-1], drop), x)
    results = interpreter.run(closed.jaxpr, closed.consts, (*carry, x), seen)[0]
    if drop is not None and not interpreter.products:
        raise ValueError(
            "RNN drops the state, the last part of a cell's carry, where the cell's dense layers "
            "and convolutions read it, and in this cell none reads it; use variant='zoneout', or "
            "set recurrent_dropout=0"
        )
    rest = jax.tree.unflatten(jax.tree.structure(rest), results[len(carry) + 1 :])
    return tuple(results[: len(carry)]), results[len(carry)], place, rest


class _Interpreter:
    """Runs a program on raw and seen values; products take the seen ones.

    `products` counts the products for which the two differ.
    """

    def __init__(self) -> None:
        self.products = 0

    def run(self, jaxpr: Jaxpr, consts: Any, raw: Any, seen: Any) -> tuple[list[Any], list[Any]]:
        """The raw and the seen outputs."""
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
            return jax.checkpoint(partial(self.run, inner, ()), **options)(raw, seen)
        if name in _LOOPS:
            raise ValueError(
                "RNN cannot drop the state of a cell that takes it through a dense layer or a "
                f"convolution inside jax.lax.{name}; take it out of there, or use variant='zoneout'"
            )
        self.products += 1
        outputs = compute(seen)
        return outputs, outputs


def _compute(jaxpr: Jaxpr, equation: Any, values: list[Any]) -> list[Any]:
    """The outputs of one equation of a program."""
    pairs = zip(equation.invars, values, strict=True)
    inputs = {v: value for v, value in pairs if not isinstance(v, Literal)}
    program = jaxpr.replace(
        constvars=[], invars=list(inputs), outvars=equation.outvars, eqns=[equation]
    )
    return jaxpr_as_fun(ClosedJaxpr(program, []))(*inputs.values())


def _has_product(equation: Any) -> bool:
    if equation.primitive.name in _PRODUCTS:
        return True
    programs = jax.tree.leaves(equation.params, is_leaf=lambda v: isinstance(v, _PROGRAMS))
    inside = [p.eqns for p in programs if isinstance(p, _PROGRAMS)]
    return any(_has_product(e) for equations in inside for e in equations)
