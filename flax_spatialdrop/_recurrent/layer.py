"""The calls of recurrent layers, shared by Linen and NNX."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp

from .._checks import is_static
from .._random.sharding import explicit_sharding, shard_axis, spec_of
from .._rates import keep_probability
from .._summary import Call
from .._typing import Array
from .masks import arrange, check_masks, mask_keys, note_masks, sample_masks
from .spec import Layer, RecurrentMasks, Shared, check_merge, pick_switch, split_call
from .step import Carry, Equations, Fixed, Stepwise, Weights

Loop: TypeAlias = Callable[..., tuple[Carry, jax.Array]]
"""loop(xs, carry, fixed, stepwise, time_axis=) returns the last carry and the outputs.

All arrays have one batch axis, and a carry is a tuple of its parts."""


class Fused:
    """The parameters of Flax's cell in our own loop.

    A layer names Flax's cell, its dense layers for the inputs and for the state (gate by gate), the
    function that makes the equations, and the activation functions that it takes.
    """

    _flax_class: ClassVar[Any]
    _dense_layers: ClassVar[tuple[str, str]]
    _network: ClassVar[Callable[..., Equations]]
    _activations: ClassVar[tuple[str, ...]] = "gate_fn", "activation_fn"

    def _equations(self, source: Any) -> Equations:
        """The equations, with the activation functions of `source`."""
        return self._network(*(getattr(source, name) for name in self._activations))

    def _weights(self, arrays: Callable[[str], tuple[Any, Any]]) -> Weights:
        """Joins the weights of the gates; arrays(name) gives a dense layer's kernel and bias."""

        def joined(arrays: tuple[Any, ...]) -> Any:
            known = [array for array in arrays if array is not None]
            if len(arrays) == 1 or not known:
                return arrays[0]
            filled = [jnp.zeros_like(known[0]) if a is None else a for a in arrays]
            return jnp.concatenate(filled, axis=-1)

        (kernels, biases), (state_kernels, state_biases) = (
            map(joined, zip(*map(arrays, names.split()), strict=True))
            for names in self._dense_layers
        )
        return Weights(kernels, state_kernels, biases, state_biases)


def draw_masks(layer: Layer, find_call: Callable[[], Call]) -> RecurrentMasks:
    """Draws the masks of a call.

    The texts below are used in the docstrings of the layers' method `sample_masks`.

    Args:
      inputs: an array; only its shape and dtype matter.
      deterministic: as at the call.
      rng: as at the call.
      rngs: as at the call.

    Returns:
      RecurrentMasks, to pass as `masks=`, for example to all parts of a long sequence. An entry is
      None if nothing is dropped there. The masks of "zoneout" have a time axis: pass each part of
      the sequence its part of the masks.

    Raises:
      ValueError, TypeError, flax.errors.InvalidRngError: as at the call.
    """
    if not layer.is_dropping or (call := find_call()).deterministic:
        return RecurrentMasks()
    return sample_masks(layer, mask_keys(layer, call))


def run_layer(
    layer: Layer,
    loop: Loop,
    inputs: jax.Array,
    carry: Any,
    masks: RecurrentMasks | None,
    find_call: Callable[[], Call],
) -> Any:
    """Runs a layer over a sequence.

    Args:
      masks: masks to use instead of drawing new ones, as `sample_masks` returns them. Ignored if
        the call is deterministic.

    Returns:
      The outputs, [*batch, time, hidden], or with time first if the inputs have time first. With
      `return_carry`, the last carry and the outputs.

    Raises:
      ValueError: if masks, lengths or a carry do not fit; if a rate is outside [0, 1]; if the cell
        does not have the gates that an option needs; if `deterministic` is needed and not given, or
        given twice; in NNX, if a mask must be drawn and there is no key.
      TypeError: if inputs are not floating, `deterministic` is traced, or an argument has the wrong
        type.
      flax.errors.InvalidRngError: in Linen, if a mask must be drawn and the stream is missing.
    """
    sequence = layer.sequence
    fixed, stepwise = Fixed(), Stepwise()
    if layer.is_dropping:  # otherwise `deterministic` may be missing
        fixed, stepwise = _dropping(layer, inputs, masks, find_call())
    if not jnp.issubdtype(inputs.dtype, jnp.inexact) and not is_static(layer.dropout, 0.0):
        raise TypeError(
            f"inputs must have a floating dtype if dropout scales them: got dtype {inputs.dtype}; "
            "set dropout=0"
        )
    batch_axis = int(sequence.time_major)
    time_axis = 1 - batch_axis
    # The loop over time needs all steps on each device.
    time = sequence.time_axis
    xs, lengths = sequence.merge_batch(shard_axis(inputs, time, None), batch_axis), None
    if sequence.lengths is not None:
        lengths = sequence.lengths.reshape(-1)
        padding = jnp.arange(sequence.time, dtype=lengths.dtype)[:, None] >= lengths[None]
        stepwise = stepwise._replace(padding=padding[..., None])
    if sequence.reverse:
        xs = _flipped(xs, lengths, time_axis)
    parts, structure = jax.tree.flatten(carry)
    first = tuple(
        _sharded_as(xs, batch_axis, 0, sequence.merge_batch(jnp.asarray(part), 0)) for part in parts
    )
    stepwise = jax.tree.map(partial(_sharded_as, xs, batch_axis, 1), stepwise)
    last, outputs = loop(xs, first, fixed, stepwise, time_axis=time_axis)
    if sequence.reverse and sequence.keep_order:
        outputs = _flipped(outputs, lengths, time_axis)
    batch = sequence.batch
    shape = (*outputs.shape[:batch_axis], *batch, *outputs.shape[batch_axis + 1 :])
    outputs = shard_axis(outputs.reshape(shape), time, spec_of(inputs)[time])
    if not layer.return_carry:
        return outputs
    last = tuple(part.reshape(*batch, *part.shape[1:]) for part in last)
    return jax.tree.unflatten(structure, last), outputs


def _dropping(
    layer: Layer, inputs: jax.Array, given: RecurrentMasks | None, call: Call
) -> tuple[Fixed, Stepwise]:
    """Returns the masks for the loop or, in evaluation, the factor of zoneout's mean."""
    masks = keys = RecurrentMasks()
    if not call.deterministic and given is None:
        keys = mask_keys(layer, call)
        masks = sample_masks(layer, keys)
    elif not call.deterministic:
        masks = check_masks(layer, given)
    note_masks(layer, inputs, call, masks, keys, given=given is not None)
    rate = layer.recurrent_dropout
    if call.deterministic and layer.variant == "zoneout" and not is_static(rate, 0.0):
        return Fixed(zoneout=jnp.asarray(keep_probability(rate), jnp.float32)), Stepwise()
    return arrange(layer, masks, keys)


def _sharded_as(xs: jax.Array, batch_axis: int, axis: int, part: jax.Array) -> jax.Array:
    """Shards a part of a carry or a mask along its batch `axis`, as xs along `batch_axis`."""
    sharding = explicit_sharding(xs)
    if sharding is None:
        return part
    spec: list[Any] = [None] * part.ndim
    spec[axis] = sharding.spec[batch_axis]
    sharded: jax.Array = jax.sharding.reshard(part, jax.sharding.PartitionSpec(*spec))
    return sharded


def _flipped(xs: jax.Array, lengths: jax.Array | None, time_axis: int) -> jax.Array:
    """Reverses a sequence; its padding stays at the end."""
    if lengths is None:
        return jnp.flip(xs, time_axis)
    step = jnp.arange(xs.shape[time_axis], dtype=lengths.dtype)
    step, lengths = jnp.expand_dims(step, 1 - time_axis), jnp.expand_dims(lengths, time_axis)
    index = jnp.where(step < lengths, lengths - 1 - step, step)
    return jnp.take_along_axis(
        xs, index.reshape(index.shape + (1,) * (xs.ndim - 2)), axis=time_axis
    )


def run_both(
    module: Any,
    base: type,
    inputs: Array,
    pairs: dict[str, Any],
    shared: Shared,
    return_carry: bool | None,
    seq_lengths: Array | None,
) -> Any:
    """Two recurrent layers over a sequence, one of which reads the sequence from its end.

        y_t = merge_fn(forward(x)_t, backward(x reversed, in x's order)_t)

    Each direction draws its own masks. The attributes time_major, return_carry, reverse and
    keep_order of the two layers are ignored.

    Args:
      forward_rnn: an `LSTM`, `GRU`, `SimpleRNN` or `RNN`.
      backward_rnn: a second such layer; None for a layer like `forward_rnn` with its own
        parameters.
      merge_fn: a function of both outputs, or a merge_mode of Keras: "concat" (default, along the
        features), "sum", "mul", "ave", or None, which returns a pair.
      time_major: whether inputs and outputs have time first.
      return_carry: whether to return both last carries too.

    Reference: Schuster & Paliwal, Bidirectional Recurrent Neural Networks, 1997,
    https://doi.org/10.1109/78.650093
    """
    each = split_call(module, base, pairs, shared)
    return_carry = pick_switch(module, "return_carry", return_carry)
    merge, options = check_merge(module.merge_fn), {"return_carry": True, "keep_order": True}
    (first, forward), (second, backward) = (
        layer(inputs, seq_lengths=seq_lengths, reverse=reverse, **options, **own)
        for (layer, own), reverse in zip(each, (False, True), strict=True)
    )
    outputs = merge(forward, backward)
    return ((first, second), outputs) if return_carry else outputs


def sample_both(
    module: Any, base: type, inputs: Array, pairs: dict[str, Any], shared: Shared
) -> tuple[RecurrentMasks, RecurrentMasks]:
    """A pair of RecurrentMasks, one for each direction."""
    each = split_call(module, base, pairs, shared)
    first, second = (layer.sample_masks(inputs, **own) for layer, own in each)
    return first, second
