"""The masks of a recurrent layer: draws them, checks those of a user, and arranges them for the
loop.

Users see `RecurrentMasks`. Shapes and keys of masks are stored in a `RecurrentMasks` too. The loop
takes `Fixed` and `Stepwise`.
"""

from functools import partial
from itertools import zip_longest
from typing import Any

import jax
import jax.numpy as jnp

from .._apply import apply_mask
from .._checks import check_key, check_mask, is_static, needs_no_key, shown
from .._random.mask import drawn_rate, sample_sharded
from .._rates import keep_probability, scale_of
from .._summary import Call, Use, current_recorder, kept_for_backward
from .._typing import Array, Rate, Shape
from .spec import Layer, RecurrentMasks
from .step import Drop, Fixed, Stepwise


def mask_shapes(layer: Layer) -> RecurrentMasks:
    """Returns a jax.ShapeDtypeStruct for each mask, also if its rate is 0."""
    sequence, carry = layer.sequence, layer.cell.carry

    def mask(shape: Shape, first_batch_axis: int, *, of_inputs: bool = False) -> Any:
        sharding = sequence.sharding_of_mask(first_batch_axis, has_features=of_inputs)
        return jax.ShapeDtypeStruct(shape, jnp.bool_, sharding=sharding)

    gates = (layer.cell.gates,) if layer.per_gate else ()
    inputs = mask((*gates, *sequence.step), len(gates), of_inputs=True)
    if layer.variant == "zoneout":
        first = int(sequence.time_major)
        return RecurrentMasks(
            inputs, tuple(mask(sequence.all_steps(part), first) for part in carry)
        )
    gates = gates if layer.variant == "variational" else ()
    return RecurrentMasks(inputs, mask((*gates, *sequence.batch, *carry[-1]), len(gates)))


def mask_keys(layer: Layer, call: Call) -> RecurrentMasks:
    """Returns a key for each mask; None if its rate is 0 or 1.

    The key of a mask does not depend on the rate of the other.
    """
    if all(map(needs_no_key, layer.rates)):
        return RecurrentMasks()
    inputs, state = jax.random.split(check_key(call.find_key()))
    if layer.variant == "zoneout":
        parts = len(layer.cell.carry)
        state = (state,) if parts == 1 else tuple(jax.random.split(state, parts))
    keys = zip((inputs, state), layer.rates, strict=True)
    return RecurrentMasks(*(None if needs_no_key(rate) else key for key, rate in keys))


def sample_masks(layer: Layer, keys: RecurrentMasks) -> RecurrentMasks:
    """Draws the masks; a mask is None if its rate is 0."""

    def sample(rate: Rate, shapes: Any, keys: Any) -> Any:
        if is_static(rate, 0.0):
            return None
        pairs = zip_longest(_as_tuple(shapes), _as_tuple(keys))
        masks = tuple(sample_sharded(key, rate, mask.shape, mask.sharding) for mask, key in pairs)
        return masks if isinstance(shapes, tuple) else masks[0]

    return RecurrentMasks(*map(sample, layer.rates, mask_shapes(layer), keys))


def check_masks(layer: Layer, masks: Any) -> RecurrentMasks:
    """Checks masks that a user gave, and returns them; a mask is None if its rate is 0."""
    if not isinstance(masks, RecurrentMasks):
        raise TypeError(
            f"masks must be RecurrentMasks, as sample_masks returns: got {shown(masks)}"
        )

    def check(name: str, rate: Rate, given: Any, needed: Any) -> Any:
        if is_static(rate, 0.0):
            return None
        name = f"masks.{name}"
        if given is None:
            raise ValueError(f"{name} is needed unless its rate is the number 0: got None")
        jax.tree.map(partial(check_mask, name=name), given)
        shapes, expected = (jax.tree.map(lambda mask: mask.shape, tree) for tree in (given, needed))
        if shapes == expected:
            return given
        if isinstance(needed, tuple):
            raise ValueError(
                f"{name} must be a tuple of masks of the shapes {expected}, with as many steps "
                f"as the inputs: got {shapes}"
            )
        raise ValueError(f"{name} must have the shape {expected}: got {shapes}")

    return RecurrentMasks(*map(check, masks._fields, layer.rates, masks, mask_shapes(layer)))


def note_masks(
    layer: Layer,
    inputs: Array,
    call: Call,
    masks: RecurrentMasks,
    keys: RecurrentMasks,
    *,
    given: bool,
) -> None:
    """Adds a site for each mask whose rate is not 0 to the summary, if one is being made.

    For LSTM(16, dropout=0.2, recurrent_dropout=0.5, variant="zoneout") and inputs [4, 10, 8] it
    adds three sites. The last two are for the two parts of the carry:

        path        mask           of x           rate
        inputs      [4, 1, 8]      [4, 10, 8]     0.2
        state 0     [4, 10, 16]    [4, 10, 16]    0.5
        state 1     [4, 10, 16]    [4, 10, 16]    0.5
    """
    recorder = current_recorder()
    if recorder is None:
        return
    where, sequence = call.where(), layer.sequence
    path = recorder.current_path if where.path is None else where.path
    trees = layer.rates, mask_shapes(layer), masks, keys
    for field, rate, *entries in zip(RecurrentMasks._fields, *trees, strict=True):
        if is_static(rate, 0.0):
            continue
        parts = [*zip_longest(*map(_as_tuple, entries))]
        for i, (needed, mask, key) in enumerate(parts):
            noise_shape = shape = needed.shape
            if field == "inputs":  # the mask is the same for all steps
                shape, axis = inputs.shape, sequence.time_axis + int(layer.per_gate)
                noise_shape = (*noise_shape[:axis], 1, *noise_shape[axis:])
            elif layer.variant != "zoneout":
                shape = (*sequence.batch, *layer.cell.carry[-1])
            name = field if len(parts) == 1 else f"{field} {i}"
            use = Use(
                noise_shape,
                rate,
                key,
                mask if given else None,
                active=not call.deterministic,
                shape=shape,
                kept=_kept(mask, rate),
            )
            recorder.add(where._replace(path=(*path, name)), jnp.asarray, inputs, use)


def _as_tuple(entry: Any) -> tuple[Any, ...]:
    return entry if isinstance(entry, tuple) else (entry,)


def _kept(mask: Array | None, rate: Rate) -> int:
    """The bytes that the backward pass keeps for a mask."""
    if mask is None:
        return 0
    return kept_for_backward(lambda x: apply_mask(x, mask, rate), jnp.zeros(mask.shape))


def arrange(layer: Layer, masks: RecurrentMasks, keys: RecurrentMasks) -> tuple[Fixed, Stepwise]:
    """Returns the masks in the form that the loop takes, with one batch axis.

    `keys` drew the masks; they are None if a user gave them.
    """
    sequence = layer.sequence
    inputs = _drop(layer, masks.inputs, keys.inputs, layer.dropout, layer.per_gate)
    if layer.variant == "zoneout" and masks.state is not None:
        steps_first = (jnp.moveaxis(jnp.asarray(m), sequence.time_axis, 0) for m in masks.state)
        return Fixed(inputs), Stepwise(tuple(~sequence.merge_batch(m, 1) for m in steps_first))
    per_gate = layer.per_gate and layer.variant == "variational"
    state = _drop(layer, masks.state, keys.state, layer.recurrent_dropout, per_gate)
    if layer.variant == "no_memory_loss":
        return Fixed(inputs, candidate=state), Stepwise()
    return Fixed(inputs, state), Stepwise()


def _drop(layer: Layer, mask: Array | None, key: Any, rate: Rate, per_gate: bool) -> Drop | None:
    if mask is None:
        return None
    scale = jnp.asarray(scale_of(keep_probability(drawn_rate(key, rate))))
    return Drop(layer.sequence.merge_batch(jnp.asarray(mask), int(per_gate)), scale)
