"""What the recurrent layers of Linen and NNX do, once the host's arguments are settled."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from ._apply import check_mask
from ._mask import check_key, sample_mask
from ._rates import check_rate, is_static, keep_probability, scale_of
from ._recurrent_scan import scan_sequence
from ._recurrent_step import Carry, Cell, Drop, Fixed, Stepwise, Weights
from ._typing import Array, Key, Rate

Variant: TypeAlias = Literal["variational", "no_memory_loss", "zoneout"]


class RecurrentMasks(NamedTuple):
    """The masks of one pass over a sequence, True where a value is kept; None where nothing drops.

    Attributes:
      inputs: [*batch, features], or [gates, *batch, features] with a mask for each gate.
      state: the same of the hidden state ("variational"); [*batch, hidden] of the candidate
        ("no_memory_loss"); or True where the new value is taken, [*batch, time, hidden] for each
        part of the carry ("zoneout"), with time first if the layer has it first.
    """

    inputs: Array | None = None
    state: Any = None


class Layer(NamedTuple):
    """How a layer drops."""

    cell: Cell
    hidden: int
    dropout: Rate
    recurrent_dropout: Rate
    variant: Variant
    per_gate: bool
    time_major: bool


def check_layer(layer: Layer, name: str) -> Layer:
    """Returns the layer with its rates checked, or says what does not go together."""
    if layer.variant not in get_args(Variant):
        raise ValueError(
            "variant must be 'variational', 'no_memory_loss' or 'zoneout': "
            f"got variant={layer.variant!r}"
        )
    if layer.variant == "no_memory_loss" and not layer.cell.remembers:
        raise ValueError(
            f"variant='no_memory_loss' drops the new content that gates add to a memory, and "
            f"{name} has neither; use 'variational' or 'zoneout'"
        )
    if layer.per_gate and layer.cell.gates == 1:
        raise ValueError(f"per_gate=True draws a mask for each gate, and {name} has no gates")
    return layer._replace(
        dropout=check_rate(layer.dropout), recurrent_dropout=check_rate(layer.recurrent_dropout)
    )


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
    last, outputs = scan_sequence(
        layer.cell, weights, xs, flat, fixed, stepwise, time_axis=1 - first, unroll=unroll
    )
    if reverse and keep_order:
        outputs = _flipped(outputs, lengths, 1 - first)
    return (
        tuple(part.reshape(*batch, layer.hidden) for part in last),
        outputs.reshape(*inputs.shape[:-1], layer.hidden),
    )


def check_inputs(layer: Layer, inputs: Any) -> Array:
    """Returns the inputs, or says that they are no sequence."""
    if not isinstance(inputs, jax.Array | np.ndarray) or not jnp.issubdtype(
        inputs.dtype, jnp.floating
    ):
        got = f"dtype {inputs.dtype}" if hasattr(inputs, "dtype") else repr(inputs)
        raise TypeError(f"a recurrent layer takes inputs of a floating dtype: got {got}")
    if inputs.ndim < 2:
        order = "[time, *batch, features]" if layer.time_major else "[*batch, time, features]"
        raise ValueError(f"a recurrent layer takes inputs {order}: got shape {inputs.shape}")
    return inputs


def check_lengths(seq_lengths: Any, batch: tuple[int, ...], time: int) -> jax.Array:
    """Returns the lengths, or says why they are none; those that are traced are not looked at."""
    lengths = jnp.asarray(seq_lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"seq_lengths must be whole numbers: got dtype {lengths.dtype}")
    if lengths.shape != batch:
        raise ValueError(
            f"seq_lengths needs one length for each sequence, of shape {batch}: "
            f"got shape {lengths.shape}"
        )
    if not isinstance(seq_lengths, jax.core.Tracer) and lengths.size:
        known = np.asarray(seq_lengths)
        if known.min() < 0 or known.max() > time:
            raise ValueError(
                f"seq_lengths must be from 0 to the {time} steps of the sequence: got from "
                f"{known.min()} to {known.max()}"
            )
    return lengths


def check_carry(carry: Any, batch: tuple[int, ...], hidden: int, parts: int) -> Carry:
    """Returns the parts of a carry, or says why it does not fit."""
    found = tuple(carry) if isinstance(carry, tuple | list) else (carry,)
    shapes = tuple(np.shape(part) for part in found)
    if len(found) != parts or any(shape != (*batch, hidden) for shape in shapes):
        raise ValueError(
            f"initial_carry must have {parts} of shape {(*batch, hidden)}: got shapes {shapes}"
        )
    return tuple(jnp.asarray(part) for part in found)


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


def _flipped(xs: jax.Array, lengths: jax.Array | None, time_axis: int) -> jax.Array:
    """A sequence backwards, with the padding left at the end."""
    if lengths is None:
        return jnp.flip(xs, time_axis)
    step = jnp.arange(xs.shape[time_axis], dtype=lengths.dtype)
    step, lengths = jnp.expand_dims(step, 1 - time_axis), jnp.expand_dims(lengths, time_axis)
    index = jnp.where(step < lengths, lengths - 1 - step, step)
    return jnp.take_along_axis(xs, index[..., None], axis=time_axis)
