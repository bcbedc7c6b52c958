"""What the recurrent layers of Linen and NNX do, once the host's arguments are settled."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from .._checks import is_static
from .._random.sharding import explicit_sharding
from .._rates import keep_probability
from .._summary import Where
from .._typing import Array, Key
from .masks import arrange, as_list, as_value, flat, note_masks, sample_masks
from .spec import Layer, RecurrentMasks, check_lengths
from .step import Carry, Fixed, Stepwise

Loop: TypeAlias = Callable[..., tuple[Carry, jax.Array]]
"""Called as loop(xs, carry, fixed, stepwise, time_axis=), with one axis of the batch and the parts
of the carry; returns the parts of the last carry, and the outputs."""


def draw_masks(
    layer: Layer, find_key: Callable[[], Key], shape: tuple[int, ...], *, deterministic: bool
) -> RecurrentMasks:
    """The masks that a call with inputs of `shape` would drop with."""
    return as_value(layer, sample_masks(layer, find_key, shape, deterministic=deterministic)[0])


def run_layer(
    layer: Layer,
    loop: Loop,
    inputs: jax.Array,
    carry: Any,
    *,
    masks: RecurrentMasks | None,
    find_key: Callable[[], Key],
    where: Callable[[], Where],
    deterministic: bool,
    seq_lengths: Array | None,
    reverse: bool,
    keep_order: bool,
) -> tuple[Any, jax.Array]:
    """Runs over inputs [*batch, time, features], or with time first; returns carry and outputs."""
    batch = layer.batch(inputs.shape)
    time = inputs.shape[layer.time_axis(inputs.shape)]
    fixed, stepwise = _dropping(layer, inputs, masks, find_key, where, deterministic)
    if not jnp.issubdtype(inputs.dtype, jnp.inexact) and not is_static(layer.dropout, 0.0):
        raise TypeError(
            "dropout scales inputs, which must be of a floating dtype for it: got dtype "
            f"{inputs.dtype}; set dropout=0"
        )
    first = int(layer.time_major)
    xs = flat(inputs, first, len(batch))
    lengths = None if seq_lengths is None else check_lengths(seq_lengths, batch, time).reshape(-1)
    if lengths is not None:
        padding = jnp.arange(time, dtype=lengths.dtype)[:, None] >= lengths[None]
        stepwise = stepwise._replace(padding=padding[..., None])
    if reverse:
        xs = _flipped(xs, lengths, 1 - first)
    parts, structure = jax.tree.flatten(carry)
    flat_parts = tuple(
        _divided_as(xs, first, 0, flat(jnp.asarray(part), 0, len(batch))) for part in parts
    )
    stepwise = jax.tree.map(partial(_divided_as, xs, first, 1), stepwise)
    last, outputs = loop(xs, flat_parts, fixed, stepwise, time_axis=1 - first)
    if reverse and keep_order:
        outputs = _flipped(outputs, lengths, 1 - first)
    shape = (*outputs.shape[:first], *batch, *outputs.shape[first + 1 :])
    carry = jax.tree.unflatten(structure, [part.reshape(*batch, *part.shape[1:]) for part in last])
    return carry, outputs.reshape(shape)


def _dropping(
    layer: Layer,
    inputs: jax.Array,
    given: RecurrentMasks | None,
    find_key: Callable[[], Key],
    where: Callable[[], Where],
    deterministic: bool,
) -> tuple[Fixed, Stepwise]:
    """What is dropped of each step; in evaluation, the mean of zoneout."""
    if given is None or deterministic:
        masks, keys = sample_masks(layer, find_key, inputs.shape, deterministic=deterministic)
    else:
        masks = as_list(layer, given, inputs.shape)
        keys = [None] * len(masks)
    note_masks(
        layer,
        inputs,
        masks,
        keys,
        given=given is not None,
        deterministic=deterministic,
        where=where,
    )
    rate = layer.recurrent_dropout
    if deterministic and layer.variant == "zoneout" and not is_static(rate, 0.0):
        keep = jnp.asarray(keep_probability(rate), jnp.float32)
        return Fixed(zoneout=keep), Stepwise()
    return arrange(layer, masks, layer.batch(inputs.shape))


def _divided_as(xs: jax.Array, batch_axis: int, axis: int, part: jax.Array) -> jax.Array:
    """A carry or a mask, with its axis of the batch over devices as that of xs has it."""
    sharding = explicit_sharding(xs)
    if sharding is None:
        return part
    spec: list[Any] = [None] * part.ndim
    spec[axis] = sharding.spec[batch_axis]
    return jax.sharding.reshard(part, jax.sharding.PartitionSpec(*spec))


def _flipped(xs: jax.Array, lengths: jax.Array | None, time_axis: int) -> jax.Array:
    """A sequence backwards, with the padding left at the end."""
    if lengths is None:
        return jnp.flip(xs, time_axis)
    step = jnp.arange(xs.shape[time_axis], dtype=lengths.dtype)
    step, lengths = jnp.expand_dims(step, 1 - time_axis), jnp.expand_dims(lengths, time_axis)
    index = jnp.where(step < lengths, lengths - 1 - step, step)
    return jnp.take_along_axis(
        xs, index.reshape(index.shape + (1,) * (xs.ndim - 2)), axis=time_axis
    )
