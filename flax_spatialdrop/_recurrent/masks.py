"""The masks of a recurrent layer: their shapes, how they are drawn, and what the loop takes."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._apply import apply_mask
from .._checks import check_key, check_mask, is_static, shown
from .._random.mask import sample_mask
from .._rates import keep_probability, scale_of
from .._summary import Use, Where, current_recorder
from .._typing import Array, Key, Rate
from .spec import Layer, RecurrentMasks
from .step import Drop, Fixed, Stepwise


class Draw(NamedTuple):
    """A mask of a pass: what it is of, its rate and shape, and the shape of what it drops."""

    name: str
    rate: Rate
    shape: tuple[int, ...]
    dropped: tuple[int, ...]


def draws_of(layer: Layer, shape: tuple[int, ...]) -> list[Draw]:
    """Every mask of a pass over inputs of `shape`, whatever the rates; that of the inputs first."""
    batch, features, hidden = layer.batch(shape), layer.features(shape), layer.kind.state[-1]
    gates = (layer.kind.gates,) if layer.per_gate else ()
    found = [Draw("inputs", layer.dropout, (*gates, *batch, *features), shape)]
    rate = layer.recurrent_dropout
    if layer.variant == "zoneout":
        time = shape[layer.time_axis(shape)]
        steps = (time, *batch) if layer.time_major else (*batch, time)
        states = [(*steps, *part) for part in layer.kind.state]
        names = ["state"] if len(states) == 1 else [f"state {i}" for i in range(len(states))]
        return found + [Draw(n, rate, s, s) for n, s in zip(names, states, strict=True)]
    many = gates if layer.variant == "variational" else ()
    return [*found, Draw("state", rate, (*many, *batch, *hidden), (*batch, *hidden))]


def sample_masks(
    layer: Layer, find_key: Callable[[], Key], shape: tuple[int, ...], *, deterministic: bool
) -> tuple[list[Any], list[Key]]:
    """For each of `draws_of` its mask, None if nothing drops, and its key, None if it needs none.

    Each has a key of its own, whatever the others do.
    """
    draws = draws_of(layer, shape)
    if deterministic:
        return [None] * len(draws), [None] * len(draws)
    active = [not is_static(draw.rate, 0.0) for draw in draws]
    keys: list[Any] = [None] * len(draws)
    if any(on and not is_static(draw.rate, 1.0) for on, draw in zip(active, draws, strict=True)):
        of_inputs, of_state = jax.random.split(check_key(find_key()))
        states = len(draws) - 1
        keys = [of_inputs, *([of_state] if states == 1 else jax.random.split(of_state, states))]
    masks = [
        sample_mask(key, draw.rate, draw.shape) if on else None
        for on, draw, key in zip(active, draws, keys, strict=True)
    ]
    return masks, [
        key if on and not is_static(draw.rate, 1.0) else None
        for on, draw, key in zip(active, draws, keys, strict=True)
    ]


def as_value(layer: Layer, masks: list[Any]) -> RecurrentMasks:
    """Masks in the order of `draws_of` as users have them."""
    inputs, *state = masks
    if layer.variant != "zoneout":
        return RecurrentMasks(inputs, state[0])
    return RecurrentMasks(inputs, None if state[0] is None else tuple(state))


def as_list(layer: Layer, masks: Any, shape: tuple[int, ...]) -> list[Any]:
    """The inverse, of masks given; raises unless they have the shapes that would be drawn."""
    if not isinstance(masks, RecurrentMasks):
        raise TypeError(
            f"masks must be RecurrentMasks, as sample_masks returns: got {shown(masks)}"
        )
    draws = draws_of(layer, shape)
    needed = as_value(layer, [draw.shape for draw in draws])
    rates = layer.dropout, layer.recurrent_dropout
    found: list[Any] = []
    for name, given, expected, rate in zip(masks._fields, masks, needed, rates, strict=True):
        if is_static(rate, 0.0):  # nothing is dropped, whatever is given
            given = jax.tree.map(lambda _: None, expected, is_leaf=_is_shape)
        elif given is None:
            raise ValueError(f"masks.{name} is needed where its rate is not the number 0: got None")
        elif jax.tree.map(partial(_shape_of, name=f"masks.{name}"), given) != expected:
            shapes = jax.tree.map(lambda mask: mask.shape, given)
            if name == "state" and layer.variant == "zoneout":
                raise ValueError(
                    f"masks.state must be a tuple of masks of the shapes {expected}, cut along "
                    f"time as the inputs are: got {shapes}"
                )
            raise ValueError(f"masks.{name} must have the shape {expected}: got {shapes}")
        found.append(given)
    inputs, state = found
    return [inputs, *(state if layer.variant == "zoneout" else [state])]


def _shape_of(mask: Any, name: str) -> tuple[int, ...]:
    return check_mask(mask, name).shape


def _is_shape(tree: Any) -> bool:
    return isinstance(tree, tuple) and all(isinstance(size, int) for size in tree)


def note_masks(
    layer: Layer,
    inputs: Array,
    masks: list[Any],
    keys: list[Key],
    *,
    given: bool,
    deterministic: bool,
    where: Callable[[], Where],
) -> None:
    """Tells the summary that is being made, if any, what drops in a call."""
    recorder = current_recorder()
    if recorder is None:
        return
    path, module, stream = where()
    path = recorder.place if path is None else path
    batch_dims = len(layer.batch(inputs.shape))
    for draw, mask, key in zip(draws_of(layer, inputs.shape), masks, keys, strict=True):
        if is_static(draw.rate, 0.0):  # not asked for
            continue
        noise_shape, of = draw.shape, inputs
        if draw.name == "inputs":  # one for all steps
            axis = len(noise_shape) - layer.kind.feature_axes
            axis -= batch_dims if layer.time_major else 0
            noise_shape = (*noise_shape[:axis], 1, *noise_shape[axis:])
        else:
            of = jnp.broadcast_to(inputs.sum(), draw.dropped)

        def run(x: Array, mask: Array | None = mask, rate: Rate = draw.rate) -> jax.Array:
            return jnp.asarray(x) if mask is None else _dropped_once(x, mask, rate)

        use = Use(noise_shape, draw.rate, key, mask if given else None, not deterministic)
        recorder.add(Where((*path, draw.name), module, stream), run, of, use)


def _dropped_once(x, mask, rate):
    """What keeps for the backward pass as much as dropping x: the mask, whatever its axes."""
    return apply_mask(jnp.broadcast_to(x.sum(), mask.shape), mask, rate)


def arrange(layer: Layer, masks: list[Any], batch: tuple[int, ...]) -> tuple[Fixed, Stepwise]:
    """The masks, in the order and with the scales that the loop takes."""
    of_inputs, *of_state = masks
    inputs = _drop(of_inputs, layer.dropout, len(batch), layer.per_gate)
    if layer.variant == "zoneout" and of_state[0] is not None:
        axis = 0 if layer.time_major else len(batch)
        stays = tuple(
            ~flat(jnp.moveaxis(jnp.asarray(mask), axis, 0), 1, len(batch)) for mask in of_state
        )
        return Fixed(inputs), Stepwise(stays)
    per_gate = layer.per_gate and layer.variant == "variational"
    state = _drop(of_state[0], layer.recurrent_dropout, len(batch), per_gate)
    if layer.variant == "variational":
        return Fixed(inputs, state), Stepwise()
    return Fixed(inputs, None, state), Stepwise()


def _drop(mask: Array | None, rate: Rate, batch_dims: int, per_gate: bool) -> Drop | None:
    if mask is None:
        return None
    scale = jnp.asarray(scale_of(keep_probability(rate)))
    return Drop(flat(jnp.asarray(mask), 1 if per_gate else 0, batch_dims), scale)


def flat(x: jax.Array, start: int, batch_dims: int) -> jax.Array:
    """Makes one axis of the batch axes."""
    if batch_dims == 1:
        return x
    size = math.prod(x.shape[start : start + batch_dims])
    return x.reshape(*x.shape[:start], size, *x.shape[start + batch_dims :])
