"""The loop around a cell that is not our own: Flax's others, and those that users write.

What such a cell does is not known, and yet the state that it carries on must not be scaled by
dropout of the state that it reads: h * m / keep, carried for 100 steps, is 0 or beyond bounds. So
the cell is traced, and of its operations the products (its dense layers and convolutions) are given
what comes of the dropped state, and all others what comes of the state itself.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

from ._recurrent_step import Carry, Drop, Fixed, Stepwise, dropped, settled, unpadded

Step = Callable[[Any, jax.Array], tuple[Any, Any]]

_PRODUCTS = {"dot_general", "conv_general_dilated", "ragged_dot", "ragged_dot_general"}
_PROGRAMS = (Jaxpr, ClosedJaxpr)
_CALLS = {"jit", "pjit", "closed_call"}


def scan_cell(
    step: Step,
    structure: Any,
    inputs: jax.Array,
    carry: Carry,
    fixed: Fixed,
    stepwise: Stepwise,
    *,
    time_axis: int,
    unroll: int = 1,
) -> tuple[Carry, jax.Array]:
    """Runs `step(carry, x) -> carry, y` over inputs [batch, time, ...], or with time first.

    `structure` is that of the carry, whose parts are given and returned. What is dropped of the
    state is dropped of its last part.
    """

    def run(carry: Carry, part: Any) -> tuple[Carry, jax.Array]:
        x, each = part
        x = dropped(unpadded(x, each), fixed.inputs)
        new, y, place = _run_step(step, structure, carry, x, fixed.state)
        after = settled(carry, new, fixed, each)
        return after, unpadded(y if place is None else after[place], each)

    xs = jnp.moveaxis(inputs, time_axis, 0)
    last, outputs = lax.scan(run, carry, (xs, stepwise), unroll=unroll)
    return last, jnp.moveaxis(outputs, 0, time_axis)


def _run_step(step: Step, structure: Any, carry: Carry, x: jax.Array, drop: Drop | None) -> Any:
    """The new parts of the carry; the output; and which part of the carry that is, if any."""

    def flat_step(carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array]:
        new, y = step(jax.tree.unflatten(structure, carry), x)
        return tuple(jax.tree.leaves(new)), y

    closed = jax.make_jaxpr(flat_step)(carry, x)
    *parts, output = closed.jaxpr.outvars
    place = parts.index(output) if output in parts else None
    seen = (*carry[:-1], dropped(carry[-1], drop), x)
    *new, y = _evaluate(closed.jaxpr, closed.consts, (*carry, x), seen)[0]
    return tuple(new), y, place


def _evaluate(jaxpr: Jaxpr, consts: Any, raw: Any, seen: Any) -> tuple[list[Any], list[Any]]:
    """Runs a program on values as they are, and on those that products see, side by side."""
    values = dict(zip(jaxpr.constvars, zip(consts, consts, strict=True), strict=True))
    values |= zip(jaxpr.invars, zip(raw, seen, strict=True), strict=True)
    for equation in jaxpr.eqns:
        taken = list(dict.fromkeys(_variables(equation.invars)))
        one = jaxpr.replace(constvars=[], invars=taken, outvars=equation.outvars, eqns=[equation])
        run = jaxpr_as_fun(ClosedJaxpr(one, []))
        first, second = ([values[v][i] for v in taken] for i in range(2))
        inner = equation.params.get("jaxpr")
        if all(a is b for a, b in zip(first, second, strict=True)):
            outputs = run(*first)
            found = outputs, outputs
        elif not _has_product(equation):
            found = run(*first), run(*second)
        elif equation.primitive.name in _CALLS and isinstance(inner, ClosedJaxpr):
            pairs = [_read(values, v) for v in equation.invars]
            found = _evaluate(inner.jaxpr, inner.consts, *zip(*pairs, strict=True))
        else:
            outputs = run(*second)
            found = outputs, outputs
        values |= zip(equation.outvars, zip(*found, strict=True), strict=True)
    pairs = [_read(values, v) for v in jaxpr.outvars]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _read(values: dict[Any, Any], variable: Any) -> tuple[Any, Any]:
    return (variable.val,) * 2 if isinstance(variable, Literal) else values[variable]


def _variables(found: Any) -> list[Any]:
    return [v for v in found if not isinstance(v, Literal)]


def _has_product(equation: Any) -> bool:
    if equation.primitive.name in _PRODUCTS:
        return True
    programs = jax.tree.leaves(equation.params, is_leaf=lambda v: isinstance(v, _PROGRAMS))
    inside = [p.eqns for p in programs if isinstance(p, _PROGRAMS)]
    return any(_has_product(e) for equations in inside for e in equations)
