"""A recurrent network over a sequence: the loop, and its derivative, for every cell.

    a_t = drop(x_t) W_x + b_x,   u_t = drop(h_{t-1}) W_h + b_h
    s_t = update(join(a_t, u_t), s_{t-1})

with s the carry, of which h is the last part. `join` is linear; `update` works element by element.
Masks are drawn before the loop. Padding leaves the carry as it is, gives 0 and is never read.

The derivative is a forward one, which JAX transposes: both modes work, to any order. It runs in
pieces of several steps, so that what gives the gradients of the weights is one product for a piece,
not one for each step. It keeps join(a, u) and the carry of every step; what else it needs of the
step is made again from these.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._compat import Layout, as_linear, with_layout_constraint
from .._random.sharding import vary_alike
from .step import (
    Carry,
    Cell,
    Fixed,
    Stepwise,
    Weights,
    advance,
    affine,
    project,
    unpadded,
)

PIECE = 8
"""Steps to a piece: their products are large enough to be fast, and what they hold is small."""


class Plan(NamedTuple):
    """Which steps of the inputs to run, where their axis of time is, and how the loops are cut."""

    time_axis: int
    start: int
    steps: int
    unroll: int

    @property
    def piece(self) -> int:
        return min(PIECE, self.steps)

    def steps_of(self, sequence: jax.Array, first: Any, steps: int) -> jax.Array:
        """[steps, batch, features] of a sequence."""
        part = lax.dynamic_slice_in_dim(sequence, self.start + first, steps, self.time_axis)
        return jnp.moveaxis(part, self.time_axis, 0)


def scan_sequence(
    cell: Cell,
    weights: Weights,
    inputs: jax.Array,
    carry: Carry,
    fixed: Fixed,
    stepwise: Stepwise,
    *,
    time_axis: int,
    unroll: int = 1,
) -> tuple[Carry, jax.Array]:
    """Runs over inputs [batch, time, features], or with time first, as `time_axis` says.

    Returns the last carry, and h of every step with the axes of the inputs.
    """
    time = inputs.shape[time_axis]
    weights, inputs, carry, fixed, stepwise = vary_alike((weights, inputs, carry, fixed, stepwise))
    if not isinstance(time, int):  # symbolic, of which no pieces can be cut
        plan = Plan(time_axis, 0, time, 1)
        return _scan_plainly(cell, plan, weights, inputs, carry, fixed, stepwise)
    if not time:
        return carry, jnp.zeros((*inputs.shape[:-1], carry[-1].shape[-1]), carry[-1].dtype)
    rest = time % PIECE if time > PIECE else 0
    outputs = []
    for start, steps in ((0, time - rest), (time - rest, rest)):
        if steps or start == 0:
            plan = Plan(time_axis, start, steps, unroll)
            each = jax.tree.map(lambda a, s=slice(start, start + steps): a[s], stepwise)
            carry, found = _scan(cell, plan, weights, inputs, carry, fixed, each)
            outputs.append(found)
    return carry, outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, time_axis)


def _scan_plainly(cell, plan, weights, inputs, carry, fixed, stepwise):
    carry, states, _ = _forward(cell, plan, False, weights, inputs, carry, fixed, stepwise)
    return carry, unpadded(states, stepwise).swapaxes(0, plan.time_axis)


_scan = jax.custom_jvp(_scan_plainly, nondiff_argnums=(0, 1))


@_scan.defjvp
def _scan_jvp(cell, plan, primals, tangents):
    weights, inputs, first, fixed, stepwise = primals
    dweights, dinputs, dcarry, *_ = tangents
    last, states, (joined, rest) = _forward(cell, plan, True, *primals)
    outputs = unpadded(states, stepwise).swapaxes(0, plan.time_axis)

    @partial(jax.checkpoint, prevent_cse=False)
    def step(dcarry, part):
        z, carry, dz, each = part
        du = project(dcarry[-1], fixed.state, weights.state)
        dz = jax.tree.map(jnp.add, dz, cell.join(jnp.zeros_like(du), du))

        def element_wise(z, carry):
            return advance(cell, z, carry, fixed, each)

        _, dcarry = jax.jvp(element_wise, (z, carry), (dz, dcarry))
        return dcarry, unpadded(dcarry[-1], each)

    ends = slice(plan.piece - 1, -1, plan.piece)
    h_ends = jnp.moveaxis(outputs, plan.time_axis, 0)[ends]
    starts = jax.tree.map(
        lambda s, c: jnp.concatenate([s[None], c]),
        first,
        (*(part[ends] for part in rest), h_ends),
    )
    z, rest, each = _fold((joined, rest, stepwise), plan.piece)

    def derivative(dweights, dinputs, dcarry):
        @partial(jax.checkpoint, prevent_cse=False)
        def run_piece(dcarry, part):
            index, z, start, rest, each, dx = part
            x = unpadded(plan.steps_of(inputs, index * plan.piece, plan.piece), each)
            here = plan._replace(start=0)
            h = here.steps_of(outputs, index * plan.piece, plan.piece)
            before = jax.tree.map(
                lambda s, c: jnp.concatenate([s[None], c[:-1]]), start, (*rest, h)
            )
            da = project(unpadded(dx, each), fixed.inputs, weights.inputs)
            da = affine(da + project(x, fixed.inputs, dweights.inputs), dweights.input_bias)
            du = affine(project(before[-1], fixed.state, dweights.state), dweights.state_bias)
            return lax.scan(step, dcarry, (z, before, cell.join(da, du), each), unroll=plan.unroll)

        dxs = _fold(plan.steps_of(dinputs, 0, plan.steps), plan.piece)
        parts = (jnp.arange(len(starts[0]), dtype=np.int32), z, starts, rest, each, dxs)
        return lax.scan(run_piece, dcarry, parts)

    dlast, dstates = as_linear(derivative)(dweights, dinputs, dcarry)
    dstates = dstates.reshape(plan.steps, *dstates.shape[2:])
    return (last, outputs), (dlast, dstates.swapaxes(0, plan.time_axis))


def _forward(cell, plan, keep, weights, inputs, carry, fixed, stepwise):
    """The last carry; every h; and if `keep`, every join(a, u) and the other parts of the carry."""

    def of_inputs(x, each):
        x = unpadded(x, each)
        return affine(project(x, fixed.inputs, weights.inputs), weights.input_bias)

    def run(step_input, sequence):
        def step(carry, part):
            a = step_input(*part)
            u = affine(project(carry[-1], fixed.state, weights.state), weights.state_bias)
            z = cell.join(a, u)
            carry = advance(cell, z, carry, fixed, part[1])
            return carry, (carry[-1], (z, carry[:-1]) if keep else None)

        last, (states, kept) = lax.scan(step, carry, (sequence, stepwise), unroll=plan.unroll)
        return last, states, kept

    def step_by_step():
        def step_input(t, each):
            return of_inputs(plan.steps_of(inputs, t, 1)[0], each)

        return run(step_input, jnp.arange(plan.steps, dtype=np.int32))

    def all_at_once():
        a = of_inputs(plan.steps_of(inputs, 0, plan.steps), stepwise)
        # Else a TPU's compiler may lay the steps out side by side, where one is slow to take.
        a = with_layout_constraint(a, Layout(major_to_minor=(0, 1, 2)))
        return run(lambda a, each: a, a)

    # On a CPU the product of all steps costs more to write down and read than it spares.
    return lax.platform_dependent(cpu=step_by_step, default=all_at_once)


def _fold(tree, piece):
    """[time, ...] -> [time / piece, piece, ...]."""
    return jax.tree.map(lambda a: a.reshape(len(a) // piece, piece, *a.shape[1:]), tree)
