"""The base of the recurrent layers: their attributes, and their call."""

import abc
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from .._recurrent_arguments import (
    Layer,
    RecurrentMasks,
    Variant,
    check_carry,
    check_inputs,
    check_layer,
)
from .._recurrent_layer import draw_masks, is_dropping, run_layer
from .._recurrent_step import Cell, Weights
from .._typing import Array, Key, Rate
from ._call import find_key, is_deterministic

Initializer = nn.initializers.Initializer

_CELL_S_OWN = (
    "activation_fn",
    "kernel_init",
    "recurrent_kernel_init",
    "bias_init",
    "carry_init",
    "param_dtype",
)
"""What makes the parameters and the first carry; the cell itself computes nothing."""


class RecurrentLayer(nn.Module, abc.ABC):
    """What LSTM, GRU and SimpleRNN share: everything but the cell.

    Attributes:
      features: size of the hidden state.
      dropout: probability to drop a feature of the inputs, in [0, 1]; a number or a scalar array.
      recurrent_dropout: the same of the state, in the way that `variant` says.
      variant: "variational" drops features of the hidden state before the gates see it;
        "no_memory_loss" drops the new content only; "zoneout" keeps values as they were.
      per_gate: whether each gate has input and state masks of its own.
      time_major: whether inputs and outputs have time first.
      return_carry: whether the final carry is returned too.
      reverse: whether the sequence is read from its end.
      keep_order: whether the outputs of a reversed sequence are in the order of the inputs.
      unroll: how many steps of the loop are written out.
      deterministic: True drops nothing; to be given here or at the call, if a rate is not 0.
      rng_collection: the name of the stream that the key is asked of.
      activation_fn: of the new content, and of an LSTM's output.
      kernel_init, recurrent_kernel_init, bias_init, carry_init: initializers of Flax's cell.
      dtype: of the computation; None infers it from inputs and parameters.
      param_dtype: of the parameters.
    """

    features: int
    dropout: Rate = 0.0
    recurrent_dropout: Rate = 0.0
    variant: Variant = "variational"
    per_gate: bool = False
    time_major: bool = False
    return_carry: bool = False
    reverse: bool = False
    keep_order: bool = False
    unroll: int = 1
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    activation_fn: Callable[..., Any] = nn.tanh
    kernel_init: Initializer = nn.linear.default_kernel_init
    recurrent_kernel_init: Initializer = nn.initializers.orthogonal()
    bias_init: Initializer = nn.initializers.zeros_init()
    dtype: Any = None
    param_dtype: Any = jnp.float32
    carry_init: Initializer = nn.initializers.zeros_init()

    @abc.abstractmethod
    def _host_cell(self) -> nn.RNNCellBase:
        """Flax's own cell, named "cell", which makes the parameters and the first carry."""

    @abc.abstractmethod
    def _cell(self) -> Cell:
        """What a step does."""

    @abc.abstractmethod
    def _weights(self, params: Any) -> Weights:
        """The parameters of Flax's cell as the loop takes them."""

    @nn.compact
    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Any = None,
        init_key: Key = None,
        seq_lengths: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        deterministic: bool | None = None,
        rng: Key = None,
        dropout: Rate | None = None,
        recurrent_dropout: Rate | None = None,
        masks: RecurrentMasks | None = None,
    ) -> Any:
        """Runs over a sequence.

        Args:
          inputs: [*batch, time, features], or with time first; floating.
          initial_carry: what another run returned; None starts from carry_init.
          init_key: for carry_init.
          seq_lengths: [*batch] whole numbers: what comes after is padding, which changes nothing
            and for which the outputs are 0.
          return_carry, time_major, reverse, keep_order: in place of the attributes.
          deterministic: as the attribute; just one of the two must be given, if a rate is not 0.
          rng: the key to draw with, in place of the stream's.
          dropout, recurrent_dropout: in place of the attributes; may be traced.
          masks: in place of a draw, as `sample_masks` returns them; ignored when deterministic.

        Returns:
          The outputs [*batch, time, hidden] (with time where inputs have it), or carry and outputs.

        Raises:
          ValueError: for masks, lengths or a carry that do not fit, an unknown variant, what the
            cell has not got, a rate outside [0, 1]; `deterministic` given twice or never.
          TypeError: for inputs that are not floating, a traced `deterministic`, another type.
          flax.errors.InvalidRngError: when masks are to be drawn and the stream is missing.
        """
        layer = self._layer(time_major, dropout, recurrent_dropout)
        inputs = check_inputs(layer, inputs)
        off = not is_dropping(layer) or is_deterministic(self, deterministic)
        time_axis = 0 if layer.time_major else inputs.ndim - 2
        without_time = (*inputs.shape[:time_axis], *inputs.shape[time_axis + 1 :])
        cell = self._host_cell()
        if initial_carry is None:
            key = jax.random.key(0) if init_key is None else init_key
            initial_carry = cell.initialize_carry(key, without_time)
        carry = check_carry(initial_carry, without_time[:-1], self.features, layer.cell.parts)
        if self.is_initializing():
            cell(initial_carry, jnp.zeros(without_time, self.param_dtype))
        params = nn.unbox(cell.variables["params"])
        weights, inputs = self._promoted(self._weights(params), inputs)
        if masks is None:
            masks = self._drawn(layer, off, rng, inputs.shape)
        last, outputs = run_layer(
            layer,
            weights,
            inputs,
            carry,
            masks,
            deterministic=off,
            seq_lengths=seq_lengths,
            reverse=self.reverse if reverse is None else reverse,
            keep_order=self.keep_order if keep_order is None else keep_order,
            unroll=self.unroll,
        )
        if self.return_carry if return_carry is None else return_carry:
            return (last if layer.cell.parts > 1 else last[0]), outputs
        return outputs

    def sample_masks(
        self,
        inputs: Array,
        *,
        time_major: bool | None = None,
        deterministic: bool | None = None,
        rng: Key = None,
        dropout: Rate | None = None,
        recurrent_dropout: Rate | None = None,
    ) -> RecurrentMasks:
        """Draws the masks that a call with the same arguments would have dropped with.

        To be used as `masks=`, such as for the parts of a sequence that comes bit by bit. (Those of
        "zoneout" have an axis of time, and are to be cut as the sequence is.)

        Args:
          inputs: an array, of which only shape and dtype matter.
          time_major, deterministic, rng, dropout, recurrent_dropout: as at the call.

        Returns:
          RecurrentMasks, whose entries are None where nothing would drop.

        Raises:
          ValueError, TypeError, flax.errors.InvalidRngError: as the call.
        """
        layer = self._layer(time_major, dropout, recurrent_dropout)
        shape = check_inputs(layer, inputs).shape
        off = not is_dropping(layer) or is_deterministic(self, deterministic)
        return self._drawn(layer, off, rng, shape)

    @nn.nowrap
    def _drawn(self, layer: Layer, off: bool, rng: Key, shape: tuple[int, ...]) -> RecurrentMasks:
        return RecurrentMasks() if off else draw_masks(layer, partial(find_key, self, rng), shape)

    @nn.nowrap
    def _layer(
        self, time_major: bool | None, dropout: Rate | None, recurrent_dropout: Rate | None
    ) -> Layer:
        return check_layer(
            Layer(
                cell=self._cell(),
                hidden=self.features,
                dropout=self.dropout if dropout is None else dropout,
                recurrent_dropout=(
                    self.recurrent_dropout if recurrent_dropout is None else recurrent_dropout
                ),
                variant=self.variant,
                per_gate=self.per_gate,
                time_major=self.time_major if time_major is None else time_major,
            ),
            type(self).__name__,
        )

    @nn.nowrap
    def _options(self) -> dict[str, Any]:
        """The attributes that Flax's cells have too."""
        return {name: getattr(self, name) for name in _CELL_S_OWN}

    @nn.nowrap
    def _promoted(self, weights: Weights, inputs: Array) -> tuple[Weights, jax.Array]:
        promoted, *kernels = promote_dtype(inputs, *weights, dtype=self.dtype)
        return Weights(*kernels), jnp.asarray(promoted)
