"""The base of the recurrent layers: how they drop, and their call."""

import abc
from collections.abc import Callable
from functools import partial
from typing import Any, Literal
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
from flax import nnx

from .._checks import check_name, check_rate, is_static, shown
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
from .._typing import Array, Rate
from ._base import Stochastic
from ._call import find_key, forked, is_deterministic, where

_MAKERS: WeakKeyDictionary[Any, Callable[[], Any]] = WeakKeyDictionary()
"""How the cell of a layer was made. It holds the user's nnx.Rngs, so it is no part of the layer."""


class RecurrentLayer(Stochastic, abc.ABC):
    """What all recurrent layers share: everything but the cell.

    Args:
      cell: Flax's cell, which holds the parameters.
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
      deterministic: True drops nothing (for zoneout the mean is taken); set by `train()`, `eval()`.
      rng_collection: the name of the stream that keys are taken from.
      rngs: if a rate is not the number 0, a stream for the masks is forked from its
        `rng_collection` stream, if it has one.
      dropout_rngs: where that stream is forked from, in place of `rngs`; False for a layer without
        a stream, which takes `rngs=` at the call.
    """

    RNGS = "dropout_rngs"
    """The argument of the constructor that masks are drawn from, for messages."""

    def __init__(
        self,
        cell: Any,
        *,
        dropout: Rate = 0.0,
        recurrent_dropout: Rate = 0.0,
        variant: Variant = "variational",
        per_gate: bool = False,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        unroll: int = 1,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        dropout_rngs: nnx.Rngs | nnx.RngStream | Literal[False] | None = None,
    ):
        rates = {"dropout": dropout, "recurrent_dropout": recurrent_dropout}
        is_dropping = any(not is_static(check_rate(r, name), 0.0) for name, r in rates.items())
        if dropout_rngs is None and is_dropping:
            dropout_rngs = source_of(rngs, check_name(rng_collection, "rng_collection"))
        self.cell = cell
        self.dropout = dropout
        self.recurrent_dropout = recurrent_dropout
        self.variant = variant
        self.per_gate = per_gate
        self.time_major = time_major
        self.return_carry = return_carry
        self.reverse = reverse
        self.keep_order = keep_order
        self.unroll = unroll
        super().__init__(
            deterministic, rng_collection, None if dropout_rngs is False else dropout_rngs
        )

    @abc.abstractmethod
    def _kind(self, of_step: tuple[int, ...]) -> Kind:
        """What can be dropped, with a step of the inputs of this shape."""

    @abc.abstractmethod
    def _loop(self, inputs: Array, carry: Any) -> tuple[jax.Array, Loop]:
        """The inputs in the precision of the computation, and the loop over them."""

    def _feature_axes(self) -> int:
        return 1

    def _dtypes(self) -> Any:
        """The kind of dtype that inputs may have."""
        return jnp.floating

    def _first_carry(self, of_step: tuple[int, ...]) -> Any:
        return self.cell.initialize_carry(of_step, nnx.Rngs(0))

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Any = None,
        seq_lengths: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
        deterministic: bool | None = None,
        dropout: Rate | None = None,
        recurrent_dropout: Rate | None = None,
        masks: RecurrentMasks | None = None,
    ) -> Any:
        """Runs over a sequence.

        Args:
          inputs: [*batch, time, features], or with time first; floating.
          initial_carry: what another run returned; None starts from 0.
          seq_lengths: [*batch] whole numbers: what comes after is padding, which changes nothing
            and for which the outputs are 0. Traced ones are clipped to [0, time].
          return_carry, time_major, reverse, keep_order, deterministic: in place of the arguments
            of the constructor.
          rngs: nnx.Rngs, a stream of it or a key for the masks, in place of the layer's stream.
          dropout, recurrent_dropout: in place of the attributes; may be traced.
          masks: in place of a draw, as `sample_masks` returns them; ignored when deterministic.

        Returns:
          The outputs [*batch, time, hidden] (with time where inputs have it), or carry and outputs.

        Raises:
          ValueError: for masks, lengths or a carry that do not fit, an unknown variant, what the
            cell has not got, a rate outside [0, 1]; masks to be drawn and no key.
          TypeError: for inputs that are not floating, a traced `deterministic`, another type.
        """
        time_major = pick_switch(self, "time_major", time_major)
        inputs, of_step = check_inputs(inputs, self._feature_axes(), time_major, self._dtypes())
        layer = self._layer(of_step, time_major, dropout, recurrent_dropout)
        if initial_carry is None:
            carry = self._first_carry(of_step)
        else:
            first = jax.eval_shape(lambda: self.cell.initialize_carry(of_step, nnx.Rngs(0)))
            carry = check_carry(initial_carry, first)
        return_carry = pick_switch(self, "return_carry", return_carry)
        inputs, loop = self._loop(inputs, carry)
        carry, outputs = run_layer(
            layer,
            loop,
            inputs,
            carry,
            masks=masks,
            find_key=partial(find_key, self, rngs),
            where=partial(where, self, rngs),
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
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
        deterministic: bool | None = None,
        dropout: Rate | None = None,
        recurrent_dropout: Rate | None = None,
    ) -> RecurrentMasks:
        """Draws the masks that a call with the same arguments would have dropped with.

        To be used as `masks=`, such as for the parts of a sequence that comes bit by bit. (Those of
        "zoneout" have an axis of time, and are to be cut as the sequence is.)

        Args:
          inputs: an array, of which only shape and dtype matter.
          time_major, rngs, deterministic, dropout, recurrent_dropout: as at the call.

        Returns:
          RecurrentMasks, whose entries are None where nothing would drop.

        Raises:
          ValueError, TypeError: as the call.
        """
        time_major = pick_switch(self, "time_major", time_major)
        inputs, of_step = check_inputs(inputs, self._feature_axes(), time_major, self._dtypes())
        layer = self._layer(of_step, time_major, dropout, recurrent_dropout)
        off = self._is_off(layer, deterministic)
        return draw_masks(layer, partial(find_key, self, rngs), inputs.shape, deterministic=off)

    def _is_off(self, layer: Layer, deterministic: bool | None) -> bool:
        return not layer.is_dropping or is_deterministic(self, deterministic)

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


def check_rngs(rngs: Any) -> nnx.Rngs | nnx.RngStream:
    """Returns what a layer takes as `rngs`."""
    if not isinstance(rngs, nnx.Rngs | nnx.RngStream):
        raise TypeError(f"rngs must be nnx.Rngs, such as nnx.Rngs(0): got {shown(rngs)}")
    return rngs


def source_of(rngs: Any, name: str) -> nnx.RngStream | None:
    """A stream of nnx.Rngs, or its default one; None if it has neither."""
    return getattr(rngs, name, None) if isinstance(rngs, nnx.Rngs) else rngs


def made(layer: RecurrentLayer, make_cell: Callable[[], Any]) -> Any:
    """The cell of a layer, which `another` can make anew."""
    _MAKERS[layer] = make_cell
    return make_cell()


def another(layer: RecurrentLayer) -> RecurrentLayer:
    """A layer like this one, with parameters and a stream of its own."""
    if layer not in _MAKERS:
        raise ValueError(
            "Bidirectional makes the second direction of LSTM, GRU and SimpleRNN as they were "
            f"constructed: got {type(layer).__name__}, whose parameters it cannot draw anew; pass "
            "a layer for each direction"
        )
    twin = nnx.clone(layer)
    twin.cell = made(twin, _MAKERS[layer])
    twin.rngs = forked(twin, layer.rngs)
    return twin
