"""Runs a recurrent network over a sequence: the loop and its derivative, for any equations.

    a_t = drop(x_t) W_x + b_x,   u_t = drop(h_{t-1}) W_h + b_h
    z_t = join(a_t, u_t),        s_t = update(z_t, s_{t-1})

Here s is the carry, and h is its last part. `join` is linear, and `update` acts on each element.
Masks are drawn before the loop. In the padding the carry does not change, the output is 0, and the
inputs are not used.

The derivative is a custom JVP, which JAX transposes for the gradient, so forward and reverse mode
work to any order. The forward pass keeps z_t and s_t of every step. From them the JVP computes

    da_t = drop(dx_t) W_x + drop(x_t) dW_x + db_x
    du_t = drop(dh_{t-1}) W_h + drop(h_{t-1}) dW_h + db_h
    ds_t = the JVP of update for (join(da_t, du_t), ds_{t-1})

Only the first term of du_t needs the tangents of the step before, and must be computed step by
step. All other terms are computed for a piece of 8 steps at once. For 24 steps:

    for piece in range(3):              outer loop, `run_piece`
        da, and the rest of du          products for 8 steps at once
        for step in range(8):           inner loop, `run_step`
            drop(dh) W_h, then ds       needs dh of the step before

JAX transposes drop(x_t) dW_x of a piece to one matrix product, which sums the gradient of W_x over
8 steps. Pieces and steps are checkpointed, so the values that they compute are not kept.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._compat import as_linear
from .._random.sharding import vary_alike
from .step import (
    Carry,
    Equations,
    Fixed,
    Stepwise,
    Weights,
    advance,
    affine,
    project,
    unpadded,
)

PIECE = 8
"""Steps in a piece: enough for fast products, and few enough that they need little memory."""


class Segment(NamedTuple):
    """A part of the inputs that one loop runs over: `steps` steps, which begin at `start`."""

    time_axis: int
    start: int
    steps: int
    unroll: int

    @property
    def piece(self) -> int:
        return min(PIECE, self.steps)

    def take(self, sequence: jax.Array, first: Any, steps: int) -> jax.Array:
        """Takes steps of a sequence, from step `first` of this segment on: [steps, batch, ...]."""
        part = lax.dynamic_slice_in_dim(sequence, self.start + first, steps, self.time_axis)
        return jnp.moveaxis(part, self.time_axis, 0)


def scan_sequence(
    equations: Equations,
    weights: Weights,
    inputs: jax.Array,
    carry: Carry,
    fixed: Fixed,
    stepwise: Stepwise,
    *,
    time_axis: int,
    unroll: int = 1,
) -> tuple[Carry, jax.Array]:
    """Runs the equations over inputs [batch, time, features], or with time first if time_axis is 0.

    Returns the last carry, and h of every step with the same axes as the inputs.
    """
    time = inputs.shape[time_axis]
    weights, inputs, carry, fixed, stepwise = vary_alike((weights, inputs, carry, fixed, stepwise))
    if not isinstance(time, int):  # a symbolic size cannot be divided into pieces
        segment = Segment(time_axis, 0, time, 1)
        return _scan_plainly(equations, segment, weights, inputs, carry, fixed, stepwise)
    if not time:
        return carry, jnp.zeros((*inputs.shape[:-1], carry[-1].shape[-1]), carry[-1].dtype)
    rest = time % PIECE if time > PIECE else 0
    outputs = []
    for start, steps in ((0, time - rest), (time - rest, rest)):
        if steps or start == 0:
            segment = Segment(time_axis, start, steps, unroll)
            each = jax.tree.map(lambda a, s=slice(start, start + steps): a[s], stepwise)
            carry, found = _scan(equations, segment, weights, inputs, carry, fixed, each)
            outputs.append(found)
    return carry, outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, time_axis)


def _scan_plainly(
    equations: Equations,
    segment: Segment,
    weights: Weights,
    inputs: jax.Array,
    carry: Carry,
    fixed: Fixed,
    stepwise: Stepwise,
) -> tuple[Carry, jax.Array]:
    carry, states, _ = _forward(equations, segment, False, weights, inputs, carry, fixed, stepwise)
    return carry, unpadded(states, stepwise).swapaxes(0, segment.time_axis)


_scan = jax.custom_jvp(_scan_plainly, nondiff_argnums=(0, 1))


@_scan.defjvp
def _scan_jvp(
    equations: Equations, segment: Segment, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Any, Any]:
    weights, inputs, first, fixed, stepwise = primals
    dweights, dinputs, dfirst, *_ = tangents
    last, states, (joined, others) = _forward(equations, segment, True, *primals)
    outputs = unpadded(states, stepwise).swapaxes(0, segment.time_axis)

    @partial(jax.checkpoint, prevent_cse=False)
    def run_step(dcarry: Carry, part: Any) -> tuple[Carry, jax.Array]:
        z, carry, dz, each = part
        du = project(dcarry[-1], fixed.state, weights.state)
        dz = jax.tree.map(jnp.add, dz, equations.join(jnp.zeros_like(du), du))

        def element_wise(z: Any, carry: Carry) -> Carry:
            return advance(equations, z, carry, fixed, each)

        _, dcarry = jax.jvp(element_wise, (z, carry), (dz, dcarry))
        return dcarry, unpadded(dcarry[-1], each)

    # `starts` holds the carry before each piece. Its h comes from the outputs, so that h need not
    # be kept twice. The outputs are 0 in the padding, but there the derivative does not depend on
    # h.
    ends = slice(segment.piece - 1, -1, segment.piece)
    h_ends = jnp.moveaxis(outputs, segment.time_axis, 0)[ends]
    starts = jax.tree.map(
        lambda s, c: jnp.concatenate([s[None], c]),
        first,
        (*(part[ends] for part in others), h_ends),
    )
    z, others, each = _fold((joined, others, stepwise), segment.piece)

    def derivative(dweights: Weights, dinputs: jax.Array, dfirst: Carry) -> Any:
        @partial(jax.checkpoint, prevent_cse=False)
        def run_piece(dcarry: Carry, part: Any) -> Any:
            index, z, start, others, each, dx = part
            x = unpadded(segment.take(inputs, index * segment.piece, segment.piece), each)
            h = segment._replace(start=0).take(outputs, index * segment.piece, segment.piece)
            before = jax.tree.map(
                lambda s, c: jnp.concatenate([s[None], c[:-1]]), start, (*others, h)
            )
            da = project(unpadded(dx, each), fixed.inputs, weights.inputs)
            da = affine(da + project(x, fixed.inputs, dweights.inputs), dweights.input_bias)
            du = affine(project(before[-1], fixed.state, dweights.state), dweights.state_bias)
            dz = equations.join(da, du)
            return lax.scan(run_step, dcarry, (z, before, dz, each), unroll=segment.unroll)

        dxs = _fold(segment.take(dinputs, 0, segment.steps), segment.piece)
        parts = (jnp.arange(len(starts[0]), dtype=np.int32), z, starts, others, each, dxs)
        return lax.scan(run_piece, dfirst, parts)

    dlast, dstates = as_linear(derivative)(dweights, dinputs, dfirst)
    dstates = dstates.reshape(segment.steps, *dstates.shape[2:])
    return (last, outputs), (dlast, dstates.swapaxes(0, segment.time_axis))


def _forward(
    equations: Equations,
    segment: Segment,
    keep: bool,
    weights: Weights,
    inputs: jax.Array,
    carry: Carry,
    fixed: Fixed,
    stepwise: Stepwise,
) -> Any:
    """Returns the last carry and all h; if `keep`, also all z and the other parts of the carry."""

    def of_inputs(x: jax.Array, each: Stepwise) -> jax.Array:
        x = unpadded(x, each)
        return affine(project(x, fixed.inputs, weights.inputs), weights.input_bias)

    def run(
        carry: Carry,
        sequence: jax.Array,
        each: Stepwise,
        unroll: int,
        step_input: Callable[..., jax.Array] = lambda a, each: a,
    ) -> Any:
        def step(carry: Carry, part: Any) -> Any:
            a = step_input(*part)
            u = affine(project(carry[-1], fixed.state, weights.state), weights.state_bias)
            z = equations.join(a, u)
            carry = advance(equations, z, carry, fixed, part[1])
            return carry, (carry[-1], (z, carry[:-1]) if keep else None)

        return lax.scan(step, carry, (sequence, each), unroll=unroll)

    def step_by_step() -> Any:
        def step_input(t: jax.Array, each: Stepwise) -> jax.Array:
            return of_inputs(segment.take(inputs, t, 1)[0], each)

        steps = jnp.arange(segment.steps, dtype=np.int32)
        return run(carry, steps, stepwise, segment.unroll, step_input)

    def in_pieces() -> Any:
        def run_piece(carry: Carry, part: Any) -> Any:
            index, each = part
            x = segment.take(inputs, index * segment.piece, segment.piece)
            return run(carry, of_inputs(x, each), each, segment.piece)

        indices = jnp.arange(segment.steps // segment.piece, dtype=np.int32)
        last, found = lax.scan(run_piece, carry, (indices, _fold(stepwise, segment.piece)))
        return last, jax.tree.map(lambda a: a.reshape(segment.steps, *a.shape[2:]), found)

    def all_at_once() -> Any:
        a = of_inputs(segment.take(inputs, 0, segment.steps), stepwise)
        return run(carry, a, stepwise, segment.unroll)

    # On a CPU, computing many products at once saves less time than writing and reading them takes.
    # A TPU's compiler may interleave the steps of a long array, and then reading one is slow. A
    # layout constraint would prevent this, but gathers the batch of all devices on each of them.
    on_tpu = in_pieces if isinstance(segment.steps, int) else all_at_once
    last, (states, kept) = lax.platform_dependent(cpu=step_by_step, tpu=on_tpu, default=all_at_once)
    return last, states, kept


def _fold(tree: Any, piece: int) -> Any:
    """[time, ...] -> [time / piece, piece, ...]."""
    return jax.tree.map(lambda a: a.reshape(len(a) // piece, piece, *a.shape[1:]), tree)
