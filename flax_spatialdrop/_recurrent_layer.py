"""What the recurrent layers of Linen and NNX do, once the host's arguments are settled."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ._apply import check_mask
from ._mask import check_key, sample_mask
from ._rates import is_static, keep_probability, scale_of
from ._recurrent_arguments import Layer, RecurrentMasks, check_lengths
from ._recurrent_scan import scan_sequence
from ._recurrent_step import Carry, Drop, Fixed, Stepwise, Weights
from ._sharding import explicit_sharding
from ._typing import Array, Key, Rate


def is_dropping(layer: Layer) -> bool:
    """Whether any of the rates may be above 0."""
    return not (is_static(layer.dropout, 0.0) and is_static(layer.recurrent_dropout, 0.0))


def draw_masks(layer: Layer, find_key: Callable[[], Key], shape: tuple[int, ...]) -> RecurrentMasks:
    """The masks of a pass over inputs of `shape`; each has a key of its own, whatever the other."""
    batch, features = _batch(layer, shape), shape[-1]
    if not is_dropping(layer):
        return RecurrentMasks()
    fixed = all(
        is_static(rate, 0.0) or is_static(rate, 1.0)
        for rate in (layer.dropout, layer.recurrent_dropout)
    )
    keys = [None, None] if fixed else list(jax.random.split(check_key(find_key())))
    gates = (layer.cell.gates,) if layer.per_gate else ()
    inputs: Any = None
    state: Any = None
    if not is_static(layer.dropout, 0.0):
        inputs = sample_mask(keys[0], layer.dropout, (*gates, *batch, features))
    if not is_static(layer.recurrent_dropout, 0.0):
        rate, key = layer.recurrent_dropout, keys[1]
        if layer.variant == "zoneout":
            time = shape[0 if layer.time_major else -2]
            steps = (time, *batch) if layer.time_major else (*batch, time)
            many = (
                [None] * layer.cell.parts
                if key is None
                else jax.random.split(key, layer.cell.parts)
            )
            state = tuple(sample_mask(k, rate, (*steps, layer.hidden)) for k in many)
        else:
            gates = gates if layer.variant == "variational" else ()
            state = sample_mask(key, rate, (*gates, *batch, layer.hidden))
    return RecurrentMasks(inputs, state)


def run_layer(
    layer: Layer,
    weights: Weights,
    inputs: jax.Array,
    carry: Carry,
    masks: RecurrentMasks,
    *,
    deterministic: bool,
    seq_lengths: Array | None,
    reverse: bool,
    keep_order: bool,
    unroll: int,
) -> tuple[Carry, jax.Array]:
    """Runs over inputs [*batch, time, features], or with time first; returns carry and outputs."""
    batch = _batch(layer, inputs.shape)
    time_axis = 0 if layer.time_major else len(batch)
    time = inputs.shape[time_axis]
    first = int(layer.time_major)
    xs = _flat(inputs, first, len(batch))
    lengths = None if seq_lengths is None else check_lengths(seq_lengths, batch, time).reshape(-1)
    if reverse:
        xs = _flipped(xs, lengths, 1 - first)
    fixed, stepwise = Fixed(), Stepwise()
    if deterministic:
        if layer.variant == "zoneout" and not is_static(layer.recurrent_dropout, 0.0):
            keep = jnp.asarray(keep_probability(layer.recurrent_dropout), jnp.float32)
            fixed = Fixed(zoneout=jnp.float32(1) - keep)
    else:
        check_masks(layer, masks, inputs.shape)
        fixed, stepwise = _arrange(layer, masks, batch)
    if lengths is not None:
        padding = jnp.arange(time)[:, None] >= lengths[None]
        stepwise = stepwise._replace(padding=padding[..., None])
    flat = tuple(_flat(part, 0, len(batch)) for part in carry)
    flat, fixed, stepwise = jax.tree.map(partial(_divided_as, xs, first), (flat, fixed, stepwise))
    last, outputs = scan_sequence(
        layer.cell, weights, xs, flat, fixed, stepwise, time_axis=1 - first, unroll=unroll
    )
    if reverse and keep_order:
        outputs = _flipped(outputs, lengths, 1 - first)
    return (
        tuple(part.reshape(*batch, layer.hidden) for part in last),
        outputs.reshape(*inputs.shape[:-1], layer.hidden),
    )


def check_masks(layer: Layer, masks: Any, shape: tuple[int, ...]) -> None:
    """Raises unless masks given have the shapes that would be drawn."""
    if not isinstance(masks, RecurrentMasks):
        raise TypeError(f"masks must be RecurrentMasks, as sample_masks returns: got {masks!r}")
    drawn = jax.eval_shape(lambda key: draw_masks(layer, lambda: key, shape), jax.random.key(0))
    for name, given, expected in zip(masks._fields, masks, drawn, strict=True):
        if given is None and expected is None:
            continue
        found = jax.tree.map(lambda m: check_mask(m).shape, given)
        needed = jax.tree.map(lambda m: m.shape, expected)
        if found != needed:
            raise ValueError(f"masks.{name} must have the shape {needed}: got {found}")


def _arrange(layer: Layer, masks: RecurrentMasks, batch: tuple[int, ...]) -> tuple[Fixed, Stepwise]:
    """The masks, in the order and with the scales that the loop takes."""
    inputs = _drop(masks.inputs, layer.dropout, len(batch), layer.per_gate)
    if layer.variant == "zoneout" and masks.state is not None:
        axis = 0 if layer.time_major else len(batch)
        stays = tuple(
            ~_flat(jnp.moveaxis(jnp.asarray(mask), axis, 0), 1, len(batch)) for mask in masks.state
        )
        return Fixed(inputs), Stepwise(stays)
    per_gate = layer.per_gate and layer.variant == "variational"
    state = _drop(masks.state, layer.recurrent_dropout, len(batch), per_gate)
    if layer.variant == "variational":
        return Fixed(inputs, state), Stepwise()
    return Fixed(inputs, None, state), Stepwise()


def _drop(mask: Array | None, rate: Rate, batch_dims: int, per_gate: bool) -> Drop | None:
    if mask is None:
        return None
    flat = _flat(jnp.asarray(mask), 1 if per_gate else 0, batch_dims)
    return Drop(flat, jnp.asarray(scale_of(keep_probability(rate))))


def _batch(layer: Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[1:-1] if layer.time_major else shape[:-2]


def _flat(x: jax.Array, start: int, batch_dims: int) -> jax.Array:
    """Makes one axis of the batch axes."""
    if batch_dims == 1:
        return x
    return x.reshape(*x.shape[:start], -1, *x.shape[start + batch_dims :])


def _divided_as(xs: jax.Array, batch_axis: int, part: jax.Array) -> jax.Array:
    """A mask or a carry, [..., batch, features], with its batch over devices as that of xs."""
    sharding = explicit_sharding(xs)
    if sharding is None or part.ndim < 2:  # a scale has no batch
        return part
    before = [None] * (part.ndim - 2)
    spec = jax.sharding.PartitionSpec(*before, sharding.spec[batch_axis], None)
    return jax.sharding.reshard(part, spec)


def _flipped(xs: jax.Array, lengths: jax.Array | None, time_axis: int) -> jax.Array:
    """A sequence backwards, with the padding left at the end."""
    if lengths is None:
        return jnp.flip(xs, time_axis)
    step = jnp.arange(xs.shape[time_axis], dtype=lengths.dtype)
    step, lengths = jnp.expand_dims(step, 1 - time_axis), jnp.expand_dims(lengths, time_axis)
    index = jnp.where(step < lengths, lengths - 1 - step, step)
    return jnp.take_along_axis(xs, index[..., None], axis=time_axis)
