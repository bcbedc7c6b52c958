"""The loop around a cell that is not our own: Flax's others, and those that users write.

What such a cell does is not known, and yet the state that it carries on must not be scaled by
dropout of the state that it reads: h * m / keep, carried for 100 steps, is 0 or beyond bounds. So
the cell is traced, and of its operations the products (its dense layers and convolutions) are given
what comes of the dropped state, and all others what comes of the state itself.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._compat import CALLS, REMATS, ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun
from .._random.sharding import vary_alike
from .spec import Kind
from .step import Carry, Drop, Fixed, Stepwise, dropped, settled, unpadded

Step = Callable[[Any, jax.Array], tuple[Any, Any, Any]]


class Variables(NamedTuple):
    """What a cell holds, as lists of arrays.

    Attributes:
      fixed: what is the same in every step.
      carried: what a step leaves for the next one.
      scanned: what has an axis of time, which comes first.
    """

    fixed: list[Any]
    carried: list[Any]
    scanned: list[Any]


_PRODUCTS = {"dot_general", "conv_general_dilated", "ragged_dot", "ragged_dot_general"}
_PROGRAMS = (Jaxpr, ClosedJaxpr)
_LOOPS = {"scan", "while", "cond"}


def step_of_cell(
    step: Step, structure: Any, carry: Carry, x: jax.Array, fixed: Fixed, each: Stepwise
) -> tuple[Carry, jax.Array, Any]:
    """Runs `step(carry, x) -> carry, y, rest`, and drops of its input and of the state it reads.

    `structure` is that of the carry, whose parts are given and returned. What is dropped of the
    state is dropped of its last part. `rest` is returned as it is.
    """
    x = dropped(unpadded(x, each), fixed.inputs)
    new, y, place, rest = _run_step(step, structure, carry, x, fixed.state)
    after = settled(carry, new, fixed, each)
    return after, unpadded(y if place is None else after[place], each), rest


def scan_cell(
    step: Callable[..., Any],
    structure: Any,
    variables: Variables,
    inputs: jax.Array,
    carry: Carry,
    fixed: Fixed,
    stepwise: Stepwise,
    *,
    time_axis: int,
    unroll: int = 1,
) -> tuple[Carry, jax.Array, Variables]:
    """Runs `step(variables, carry, x) -> carry, y, variables` over the steps of the inputs.

    Returns the last carry, the outputs, and the variables after the last step.
    """
    still, inputs, carry, fixed, stepwise = vary_alike(
        (variables.fixed, inputs, carry, fixed, stepwise)
    )
    variables = variables._replace(fixed=still)

    def run(state: Any, part: Any) -> Any:
        (carry, carried), (x, each, scanned) = state, part
        before = variables._replace(carried=carried, scanned=scanned)
        carry, y, after = step_of_cell(partial(step, before), structure, carry, x, fixed, each)
        return (carry, after.carried), (y, after.scanned)

    xs = jnp.moveaxis(inputs, time_axis, 0), stepwise, variables.scanned
    (last, carried), (outputs, scanned) = lax.scan(
        run, (carry, variables.carried), xs, unroll=unroll
    )
    after = variables._replace(carried=carried, scanned=scanned)
    return last, jnp.moveaxis(outputs, 0, time_axis), after


def is_cell(value: Any) -> bool:
    """Whether it has what the hosts' loops ask of a cell."""
    # By its names, since the hosts' base class raises when asked for num_feature_axes.
    return callable(value) and {"initialize_carry", "num_feature_axes"} <= set(dir(value))


def kind_of_cell(first: Any, of_step: tuple[int, ...], feature_axes: int) -> Kind:
    """What can be dropped of a cell with a first carry, or why it cannot be looked after."""
    batch = of_step[: len(of_step) - feature_axes]
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
    state = tuple(part.shape[len(batch) :] for part in parts)
    return Kind(1, False, state, feature_axes, "does not know the gates of its cell")


def _run_step(step: Step, structure: Any, carry: Carry, x: jax.Array, drop: Drop | None) -> Any:
    """The new parts of the carry; the output; which part of the carry that is, if any; the rest."""

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
    program = _Program()
    seen = (*carry[:-1], dropped(carry[-1], drop), x)
    results = program.run(closed.jaxpr, closed.consts, (*carry, x), seen)[0]
    if drop is not None and not program.products:
        raise ValueError(
            "RNN drops what a cell's dense layers and convolutions see of its state, the last part "
            "of its carry, and in this cell none sees it; use variant='zoneout', or set "
            "recurrent_dropout=0"
        )
    rest = jax.tree.unflatten(jax.tree.structure(rest), results[len(carry) + 1 :])
    return tuple(results[: len(carry)]), results[len(carry)], place, rest


class _Program:
    """Runs a program on values as they are, and on those that products see, side by side.

    `products` counts those that saw another value than there was.
    """

    def __init__(self) -> None:
        self.products = 0

    def run(self, jaxpr: Jaxpr, consts: Any, raw: Any, seen: Any) -> tuple[list[Any], list[Any]]:
        """The outputs for both."""
        values = dict(zip(jaxpr.constvars, zip(consts, consts, strict=True), strict=True))
        values |= zip(jaxpr.invars, zip(raw, seen, strict=True), strict=True)

        def read(variables: Any) -> tuple[list[Any], list[Any]]:
            pairs = [(v.val,) * 2 if isinstance(v, Literal) else values[v] for v in variables]
            return [a for a, _ in pairs], [b for _, b in pairs]

        for equation in jaxpr.eqns:
            found = self._one(jaxpr, equation, *read(equation.invars))
            values |= zip(equation.outvars, zip(*found, strict=True), strict=True)
        return read(jaxpr.outvars)

    def _one(self, jaxpr: Jaxpr, equation: Any, raw: list[Any], seen: list[Any]) -> Any:
        def compute(values: list[Any]) -> list[Any]:
            given = {
                v: value
                for v, value in zip(equation.invars, values, strict=True)
                if not isinstance(v, Literal)
            }
            one = jaxpr.replace(
                constvars=[], invars=list(given), outvars=equation.outvars, eqns=[equation]
            )
            return jaxpr_as_fun(ClosedJaxpr(one, []))(*given.values())

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


def _has_product(equation: Any) -> bool:
    if equation.primitive.name in _PRODUCTS:
        return True
    programs = jax.tree.leaves(equation.params, is_leaf=lambda v: isinstance(v, _PROGRAMS))
    inside = [p.eqns for p in programs if isinstance(p, _PROGRAMS)]
    return any(_has_product(e) for equations in inside for e in equations)
