"""The base of the recurrent layers: how they drop, and their call."""

import abc
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .._checks import check_key
from .._recurrent.layer import Loop, draw_masks, run_layer
from .._recurrent.spec import (
    Kind,
    Layer,
    RecurrentMasks,
    Variant,
    check_carry,
    check_inputs,
    check_layer,
    pick_switch,
)
from .._typing import Array, Key, Rate
from ._call import Stochastic, find_key, is_deterministic, where


class RecurrentLayer(Stochastic, abc.ABC):
    """What all recurrent layers share: everything but the cell.

    Attributes:
      dropout: probability to drop a feature of the inputs, in [0, 1]; a number or a scalar array.
      recurrent_dropout: the same of the state, in the way that `variant` says.
      variant: "variational" drops features of the hidden state before the gates see it;
        "no_memory_loss" drops the new content only; "zoneout" keeps values as they were.
      per_gate: whether each gate has masks of its own: of the inputs, and of a "variational" state.
      time_major: whether inputs and outputs have time first.
      return_carry: whether the final carry is returned too.
      reverse: whether the sequence is read from its end.
      keep_order: whether the outputs of a reversed sequence are in the order of the inputs.
      unroll: how many steps of the loop are written out.
      deterministic: True drops nothing (for zoneout the mean is taken); to be given here or at the
        call, if a rate is not 0.
      rng_collection: the name of the stream that the key is asked of.
    """

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

    @abc.abstractmethod
    def _flax_cell(self) -> nn.RNNCellBase:
        """Flax's cell, which makes the parameters and the first carry."""

    @abc.abstractmethod
    def _kind(self, of_step: tuple[int, ...]) -> Kind:
        """What can be dropped, with a step of the inputs of this shape."""

    @nn.nowrap
    def _feature_axes(self) -> int:
        return 1

    @nn.nowrap
    def _dtypes(self) -> Any:
        """The kind of dtype that inputs may have."""
        return jnp.floating

    @abc.abstractmethod
    def _loop(self, cell: nn.RNNCellBase, inputs: Array, carry: Any) -> tuple[jax.Array, Loop]:
        """The inputs in the precision of the computation, and the loop over them."""

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
            and for which the outputs are 0. Traced ones are clipped to [0, time].
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
        time_major = pick_switch(self, "time_major", time_major)
        inputs, of_step = check_inputs(inputs, self._feature_axes(), time_major, self._dtypes())
        layer = self._layer(of_step, time_major, dropout, recurrent_dropout)
        return_carry = pick_switch(self, "return_carry", return_carry)
        cell = self._flax_cell()
        key = jax.random.key(0) if init_key is None else check_key(init_key, "init_key")
        first = cell.initialize_carry(key, of_step)
        carry = first if initial_carry is None else check_carry(initial_carry, first)
        if self.is_initializing():
            cell(carry, jnp.zeros(of_step, inputs.dtype))
        inputs, loop = self._loop(cell, inputs, carry)
        carry, outputs = run_layer(
            layer,
            loop,
            inputs,
            carry,
            masks=masks,
            find_key=partial(find_key, self, rng),
            where=partial(where, self, rng),
            deterministic=self._is_off(layer, deterministic),
            seq_lengths=seq_lengths,
            reverse=pick_switch(self, "reverse", reverse),
            keep_order=pick_switch(self, "keep_order", keep_order),
        )
        return (carry, outputs) if return_carry else outputs

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
        time_major = pick_switch(self, "time_major", time_major)
        inputs, of_step = check_inputs(inputs, self._feature_axes(), time_major, self._dtypes())
        layer = self._layer(of_step, time_major, dropout, recurrent_dropout)
        off = self._is_off(layer, deterministic)
        return draw_masks(layer, partial(find_key, self, rng), inputs.shape, deterministic=off)

    @nn.nowrap
    def _is_off(self, layer: Layer, deterministic: bool | None) -> bool:
        return not layer.is_dropping or is_deterministic(self, deterministic)

    @nn.nowrap
    def _layer(
        self,
        of_step: tuple[int, ...],
        time_major: bool,
        dropout: Rate | None,
        recurrent_dropout: Rate | None,
    ) -> Layer:
        return check_layer(
            Layer(
                kind=self._kind(of_step),
                dropout=self.dropout if dropout is None else dropout,
                recurrent_dropout=(
                    self.recurrent_dropout if recurrent_dropout is None else recurrent_dropout
                ),
                variant=self.variant,
                per_gate=self.per_gate,
                time_major=time_major,
            ),
            type(self).__name__,
        )
