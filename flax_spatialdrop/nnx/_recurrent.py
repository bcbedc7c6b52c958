"""Recurrent layers with dropout: LSTM, GRU and a simple network, over whole sequences."""

import abc
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .._checks import (
    check_key,
    check_name,
    check_rate,
    check_switch,
    check_whole,
    is_static,
    shown,
)
from .._compat import vary, varying_axes
from .._recurrent.any_cell import Variables, is_cell, kind_of_cell, scan_cell
from .._recurrent.layer import Loop, draw_masks, run_layer
from .._recurrent.scan import scan_sequence
from .._recurrent.spec import (
    Kind,
    Layer,
    Merge,
    RecurrentMasks,
    Variant,
    check_carry,
    check_directions,
    check_inputs,
    check_layer,
    check_merge,
    check_pair,
    pick_switch,
)
from .._recurrent.step import Cell, Weights, gru, lstm, simple
from .._typing import Array, Rate
from ._base import Stochastic, find_key, forked, is_deterministic, where

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


class FusedLayer(RecurrentLayer, abc.ABC):
    """What LSTM, GRU and SimpleRNN share: the parameters of Flax's cell, and our own loop.

    Args:
      in_features: size of the inputs.
      hidden_features: size of the hidden state.
      rngs: for the parameters, and for masks as of `RecurrentLayer`.
      dropout, recurrent_dropout, variant, per_gate, time_major, return_carry, reverse, keep_order,
        unroll, deterministic, rng_collection, dropout_rngs: as of `RecurrentLayer`.
      **cell_options: of Flax's cell: gate_fn, activation_fn, kernel_init, dtype and so on.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
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
        rngs: nnx.Rngs,
        dropout_rngs: nnx.Rngs | nnx.RngStream | Literal[False] | None = None,
        **cell_options: Any,
    ):
        sizes = {"in_features": in_features, "hidden_features": hidden_features}
        sizes = {name: check_whole(size, name, least=0) for name, size in sizes.items()}
        make_cell = partial(self._flax_cell, **sizes, rngs=check_rngs(rngs), **cell_options)
        super().__init__(
            made(self, make_cell),
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            variant=variant,
            per_gate=per_gate,
            time_major=time_major,
            return_carry=return_carry,
            reverse=reverse,
            keep_order=keep_order,
            unroll=unroll,
            deterministic=deterministic,
            rng_collection=rng_collection,
            rngs=rngs,
            dropout_rngs=dropout_rngs,
        )

    @staticmethod
    @abc.abstractmethod
    def _flax_cell(in_features: int, hidden_features: int, **options: Any) -> Any:
        """Flax's own cell, which holds the parameters and computes nothing."""

    @abc.abstractmethod
    def _cell(self) -> Cell:
        """What a step does."""

    @abc.abstractmethod
    def _weights(self) -> Weights:
        """The parameters of Flax's cell as the loop takes them."""

    def _kind(self, of_step):
        cell = self._cell()
        return Kind(cell.gates, cell.remembers, ((self.cell.hidden_features,),) * cell.parts)

    def _loop(self, inputs, carry):
        promoted, *kernels = self.cell.promote_dtype(
            (inputs, *self._weights()), dtype=self.cell.dtype
        )
        loop = partial(scan_sequence, self._cell(), Weights(*kernels), unroll=self.unroll)
        return jnp.asarray(promoted), loop


class LSTM(FusedLayer):
    """Long short-term memory over a sequence, with dropout of inputs and state.

        [i, f, g, o] = W_x drop(x_t) + W_h drop(h_{t-1}) + b
        c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g),   h_t = sigmoid(o) tanh(c_t)

    Its parameters are those of `nnx.RNN(nnx.LSTMCell(...))`, and without dropout so are its
    outputs. Masks are drawn once for a sequence, for each sequence its own; what is carried from
    step to step is never scaled. With `variant="no_memory_loss"`, in place of the state tanh(g) is
    dropped; with "zoneout", values of c and h stay as they were, both at the rate
    `recurrent_dropout`. For padding the outputs are 0, where Flax's own run on.

    Args:
      in_features: size of the inputs.
      hidden_features: size of the hidden state.
      dropout: probability to drop a feature of the inputs, in [0, 1]; a number or a scalar array.
      recurrent_dropout: the same of the state, in the way that `variant` says.
      variant: "variational" (default), "no_memory_loss" or "zoneout".
      per_gate: whether each of the four gates has masks of its own, of the inputs and of a
        "variational" state, as in Keras with a recurrent_dropout (default False).
      time_major, return_carry, reverse, keep_order, unroll: as of `nnx.RNN`.
      deterministic: True drops nothing (for zoneout the mean is taken); set by `train()` and
        `eval()`, overruled at the call.
      rng_collection: the name of the stream that keys are taken from.
      rngs: for the parameters; and if a rate is not the number 0, a stream for the masks is forked
        from it, as in Flax's own layers with dropout.
      dropout_rngs: where that stream is forked from, in place of `rngs`; False for a layer that
        holds no RNG state and takes `rngs=` (nnx.Rngs, a stream or a key) at the call.
      **cell_options: as of `nnx.LSTMCell`: gate_fn, activation_fn, kernel_init, dtype and so on.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_spatialdrop.nnx import LSTM
      >>> layer = LSTM(8, 16, dropout=0.2, recurrent_dropout=0.2, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((4, 10, 8)), rngs=jax.random.key(1)).shape
      (4, 10, 16)

    Reference: Gal & Ghahramani, A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks, 2016, https://arxiv.org/abs/1512.05287
    """

    @staticmethod
    def _flax_cell(in_features, hidden_features, **options):
        return nnx.LSTMCell(in_features, hidden_features, **options)

    def _cell(self):
        return lstm(self.cell.gate_fn, self.cell.activation_fn)

    def _weights(self):
        inputs = (self.cell.ii, self.cell.if_, self.cell.ig, self.cell.io)
        state = (self.cell.hi, self.cell.hf, self.cell.hg, self.cell.ho)
        return Weights(
            jnp.concatenate([part.kernel[...] for part in inputs], axis=-1),
            jnp.concatenate([part.kernel[...] for part in state], axis=-1),
            None,
            jnp.concatenate([part.bias[...] for part in state], axis=-1),
        )


class GRU(FusedLayer):
    """Gated recurrent units over a sequence, with dropout of inputs and state.

        r = sigmoid(W_xr drop(x_t) + W_hr drop(h_{t-1}) + b_r),   z the same with weights of its own
        n = tanh(W_xn drop(x_t) + b_n + r W_hn drop(h_{t-1}))
        h_t = (1 - z) n + z h_{t-1}

    Its parameters are those of `nnx.RNN(nnx.GRUCell(...))`, and without dropout so are its
    outputs. Masks are drawn once for a sequence, for each sequence its own; what is carried from
    step to step is never scaled. With `variant="no_memory_loss"`, in place of the state n is
    dropped; with "zoneout", values of h stay as they were, at the rate
    `recurrent_dropout`. For padding the outputs are 0, where Flax's own run on.

    Args:
      in_features: size of the inputs.
      hidden_features: size of the hidden state.
      dropout: probability to drop a feature of the inputs, in [0, 1]; a number or a scalar array.
      recurrent_dropout: the same of the state, in the way that `variant` says.
      variant: "variational" (default), "no_memory_loss" or "zoneout".
      per_gate: whether each of the three gates has masks of its own, of the inputs and of a
        "variational" state, as in Keras with a recurrent_dropout (default False).
      time_major, return_carry, reverse, keep_order, unroll: as of `nnx.RNN`.
      deterministic: True drops nothing (for zoneout the mean is taken); set by `train()` and
        `eval()`, overruled at the call.
      rng_collection: the name of the stream that keys are taken from.
      rngs: for the parameters; and if a rate is not the number 0, a stream for the masks is forked
        from it, as in Flax's own layers with dropout.
      dropout_rngs: where that stream is forked from, in place of `rngs`; False for a layer that
        holds no RNG state and takes `rngs=` (nnx.Rngs, a stream or a key) at the call.
      **cell_options: as of `nnx.GRUCell`: gate_fn, activation_fn, kernel_init, dtype and so on.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_spatialdrop.nnx import GRU
      >>> layer = GRU(8, 16, dropout=0.2, recurrent_dropout=0.2, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((4, 10, 8)), rngs=jax.random.key(1)).shape
      (4, 10, 16)

    Reference: Gal & Ghahramani, A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks, 2016, https://arxiv.org/abs/1512.05287
    """

    @staticmethod
    def _flax_cell(in_features, hidden_features, **options):
        return nnx.GRUCell(in_features, hidden_features, **options)

    def _cell(self):
        return gru(self.cell.gate_fn, self.cell.activation_fn)

    def _weights(self):
        inputs, state = self.cell.dense_i, self.cell.dense_h
        return Weights(inputs.kernel[...], state.kernel[...], inputs.bias[...], None)


class SimpleRNN(FusedLayer):
    """A simple recurrent network over a sequence, with dropout of inputs and state.

        h_t = tanh(W_x drop(x_t) + b + W_h drop(h_{t-1}))

    Its parameters are those of `nnx.RNN(nnx.SimpleCell(...))`, and without dropout so are its
    outputs. Masks are drawn once for a sequence, for each sequence its own. With
    `variant="zoneout"`, values of h stay as they were, at the rate `recurrent_dropout`. For padding
    the outputs are 0, where Flax's own run on.

    Args:
      in_features: size of the inputs.
      hidden_features: size of the hidden state.
      dropout: probability to drop a feature of the inputs, in [0, 1]; a number or a scalar array.
      recurrent_dropout: the same of the state, in the way that `variant` says.
      variant: "variational" (default) or "zoneout".
      per_gate: False; there are no gates.
      time_major, return_carry, reverse, keep_order, unroll: as of `nnx.RNN`.
      deterministic: True drops nothing (for zoneout the mean is taken); set by `train()` and
        `eval()`, overruled at the call.
      rng_collection: the name of the stream that keys are taken from.
      rngs: for the parameters; and if a rate is not the number 0, a stream for the masks is forked
        from it, as in Flax's own layers with dropout.
      dropout_rngs: where that stream is forked from, in place of `rngs`; False for a layer that
        holds no RNG state and takes `rngs=` (nnx.Rngs, a stream or a key) at the call.
      **cell_options: as of `nnx.SimpleCell`: activation_fn, kernel_init, dtype and so on.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_spatialdrop.nnx import SimpleRNN
      >>> layer = SimpleRNN(8, 16, dropout=0.2, recurrent_dropout=0.2, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((4, 10, 8)), rngs=jax.random.key(1)).shape
      (4, 10, 16)

    Reference: Gal & Ghahramani, A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks, 2016, https://arxiv.org/abs/1512.05287
    """

    @staticmethod
    def _flax_cell(in_features, hidden_features, **options):
        return nnx.SimpleCell(in_features, hidden_features, **options)

    def _cell(self):
        return simple(self.cell.activation_fn)

    def _weights(self):
        inputs, state = self.cell.dense_i, self.cell.dense_h
        return Weights(inputs.kernel[...], state.kernel[...], inputs.bias[...], None)


class CellState:
    """The leaves of a cell's variables: which are the same in every step, carried or scanned.

    `axes` says so as of `nnx.scan`: None, nnx.Carry, or the axis of time.
    """

    def __init__(self, cell: Any, axes: nnx.StateAxes):
        self.cell = cell
        self.graph, self.paths, self.tree, self.leaves = _flat(cell)
        variables = jax.tree.unflatten(self.tree, self.leaves)
        pairs = zip(self.paths, variables, strict=True)
        self.axes = [axes.map_prefix(p, v) for p, v in pairs for _ in jax.tree.leaves(v)]

    def carry_what_is_written(self, carry: Any, xs: jax.Array, time_axis: int) -> None:
        """Of what may be carried, holds fixed what no step writes, such as the parameters.

        JAX would keep a copy of all that is carried for the gradient of every step.
        """
        is_written: list[bool] = []

        def run(carry: Any, xs: jax.Array) -> None:
            step_input = xs.sum(time_axis).astype(xs.dtype)  # stands for any step
            before = [
                leaf.take(0, axis) if isinstance(axis, int) else leaf
                for leaf, axis in zip(self.leaves, self.axes, strict=True)
            ]
            after = self._call(before, carry, step_input)[2]
            for i, (new, old) in enumerate(zip(after, before, strict=True)):
                is_written.append(new is not old)
                missing = tuple(sorted(varying_axes(new) - varying_axes(old)))
                if self.axes[i] is nnx.Carry and missing:  # in a shard_map
                    self.leaves[i] = vary(self.leaves[i], missing)

        jax.eval_shape(run, carry, xs)
        self.axes = [
            None if axis is nnx.Carry and not written else axis
            for axis, written in zip(self.axes, is_written, strict=True)
        ]

    def variables(self) -> Variables:
        """What the cell holds now."""
        moved = [
            jnp.moveaxis(leaf, axis, 0) if isinstance(axis, int) else leaf
            for leaf, axis in zip(self.leaves, self.axes, strict=True)
        ]
        return self._sorted(moved)

    def step(self, variables: Variables, carry: Any, x: jax.Array) -> tuple[Any, Any, Variables]:
        """Calls the cell; of what is fixed nothing is returned."""
        carry, y, after = self._call(self._joined(variables), carry, x)
        return carry, y, self._sorted(after)._replace(fixed=[])

    def write(self, variables: Variables) -> None:
        """Leaves what is carried and scanned in the cell."""
        if any(axis is not None for axis in self.axes):
            fixed = self._sorted(self.leaves).fixed
            leaves = [
                jnp.moveaxis(leaf, 0, axis) if isinstance(axis, int) else leaf
                for leaf, axis in zip(
                    self._joined(variables._replace(fixed=fixed)), self.axes, strict=True
                )
            ]
            nnx.update(self.cell, self._state(leaves))

    def _state(self, leaves: list[Any]) -> Any:
        variables = jax.tree.unflatten(self.tree, leaves)
        return nnx.from_flat_state(zip(self.paths, variables, strict=True))

    def _call(self, leaves: list[Any], carry: Any, x: jax.Array) -> tuple[Any, Any, list[Any]]:
        cell = nnx.merge(self.graph, self._state(leaves))
        carry, y = cell(carry, x)
        _, paths, tree, after = _flat(cell)
        if (paths, tree) != (self.paths, self.tree):
            raise ValueError(
                "RNN takes a cell that has the same variables after a step as before, since they "
                f"are carried: got {len(paths)} in place of {len(self.paths)}"
            )
        return carry, y, after

    def _sorted(self, leaves: list[Any]) -> Variables:
        found = Variables([], [], [])
        for leaf, axis in zip(leaves, self.axes, strict=True):
            kind = found.scanned if isinstance(axis, int) else found.carried
            (found.fixed if axis is None else kind).append(leaf)
        return found

    def _joined(self, variables: Variables) -> list[Any]:
        fixed, carried, scanned = map(iter, variables)
        return [
            next(fixed if axis is None else scanned if isinstance(axis, int) else carried)
            for axis in self.axes
        ]


def _flat(cell: Any) -> tuple[Any, list[Any], Any, list[Any]]:
    graph, state = nnx.split(cell)
    flat = list(nnx.to_flat_state(state))
    leaves, tree = jax.tree.flatten([variable for _, variable in flat])
    return graph, [path for path, _ in flat], tree, leaves


class RNN(RecurrentLayer):
    """Any cell of Flax, or of your own, over a sequence, with dropout of inputs and state.

        s_t, y_t = cell(s_{t-1}, drop(x_t)),   where products read drop(h_{t-1}) in place of h_{t-1}

    In place of `nnx.RNN(cell)`, with its parameters. h is the last part of the cell's carry s. What
    the cell computes of h by products, in dense layers and convolutions, comes of the dropped h;
    what it uses element by element, such as z * h of a GRU, comes of h itself, so that the state
    that is carried on is never scaled. (A function with a derivative of its own that has products
    counts as one; a loop or branch with products of h is refused.) Masks are drawn once for a
    sequence, for each sequence its own. With "zoneout" y is the part of the carry that stays as it
    was, if it is that part itself. `LSTM`, `GRU` and `SimpleRNN` do the
    same for theirs, faster and with more variants.

    As in `nnx.RNN`, a cell may draw random numbers and write to its variables, such as those of
    Dropout and BatchNorm inside it: each step goes on from the one before, and the last step's
    variables stay in the cell.

    Args:
      cell: an `nnx.RNNCellBase`, or a module that has its methods. Its inputs may be integers, if
        `dropout` is 0.
      dropout: probability to drop a feature of the inputs, in [0, 1]; a number or a scalar array.
      recurrent_dropout: the same of the state, in the way that `variant` says.
      variant: "variational" (default) or "zoneout", which keeps values of the carry as they were.
      per_gate: False; what gates a cell has is not known.
      time_major, return_carry, reverse, keep_order, unroll: as of `nnx.RNN`.
      deterministic: True drops nothing (for zoneout the mean is taken); set by `train()` and
        `eval()`, overruled at the call.
      rng_collection: the name of the stream that keys are taken from.
      state_axes: which variables of the cell are carried from step to step (nnx.Carry, which is
        the default for all), are the same in every step (None) or have an axis of time (its
        number), as of `nnx.RNN`.
      broadcast_rngs: a filter of the streams of the cell that draw the same in every step of a
        call (default: none of them).
      rngs: nnx.Rngs or a stream. Its "carry" stream draws the first carry, and its `rng_collection`
        stream draws masks if a rate is not the number 0. With a bool the layer holds neither, and
        takes `rngs=` (nnx.Rngs, a stream or a key) at the call.
      dropout_rngs: where the stream for masks is forked from, in place of `rngs`; False for a layer
        without a stream, which takes `rngs=` at the call.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_spatialdrop.nnx import RNN
      >>> cell = nnx.GRUCell(8, 16, rngs=nnx.Rngs(0))
      >>> layer = RNN(cell, dropout=0.2, recurrent_dropout=0.2)
      >>> layer(jnp.ones((4, 10, 8)), rngs=jax.random.key(1)).shape
      (4, 10, 16)

    Reference: Gal & Ghahramani, A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks, 2016, https://arxiv.org/abs/1512.05287
    """

    def __init__(
        self,
        cell: nnx.RNNCellBase,
        *,
        state_axes: Mapping[Any, Any] | None = None,
        broadcast_rngs: nnx.filterlib.Filter = None,
        rngs: nnx.Rngs | nnx.RngStream | bool = True,
        **options: Any,
    ):
        if not isinstance(cell, nnx.Module) or not is_cell(cell):
            raise TypeError(
                "RNN takes a cell, such as an instance of nnx.RNNCellBase: a module with "
                f"initialize_carry and num_feature_axes: got {shown(cell)}"
            )
        if not isinstance(state_axes, Mapping | None):
            raise TypeError(f"state_axes must be a dict, as of nnx.RNN: got {shown(state_axes)}")
        source = None if isinstance(rngs, bool) else check_rngs(rngs)
        super().__init__(cell, rngs=source, **options)
        axes: Any = {...: nnx.Carry} if state_axes is None else state_axes
        self.state_axes = nnx.StateAxes(axes)
        self.broadcast_rngs = broadcast_rngs
        self.carry_rngs = forked(self, source_of(source, "carry"))

    def _feature_axes(self):
        return self.cell.num_feature_axes

    def _dtypes(self):
        return np.generic

    def _first_carry(self, of_step):
        rngs = nnx.Rngs(0) if self.carry_rngs is None else self.carry_rngs
        return self.cell.initialize_carry(of_step, rngs)

    def _kind(self, of_step):
        first = jax.eval_shape(lambda: self.cell.initialize_carry(of_step, nnx.Rngs(0)))
        return kind_of_cell(first, of_step, self._feature_axes())

    def _loop(self, inputs, carry):
        structure = jax.tree.structure(carry)

        def loop(xs, parts, *masks, time_axis):
            with nnx.split_rngs(self.cell, splits=1, only=self.broadcast_rngs, squeeze=True):
                broadcast = nnx.All(nnx.RngState, self.broadcast_rngs)
                state = CellState(self.cell, nnx.StateAxes({broadcast: None, **self.state_axes}))
                state.carry_what_is_written(carry, xs, time_axis)
                last, outputs, after = scan_cell(
                    state.step,
                    structure,
                    state.variables(),
                    xs,
                    parts,
                    *masks,
                    time_axis=time_axis,
                    unroll=self.unroll,
                )
                state.write(after)
            return last, outputs

        return jnp.asarray(inputs), loop


class Bidirectional(nnx.Module):
    """Two recurrent layers over a sequence, one of them from its end.

        y_t = merge_fn(forward(x)_t, backward(x reversed, in x's order)_t)

    In place of `nnx.Bidirectional`, with its parameters, for layers of this package. Each direction
    draws masks of its own. The layers' own time_major, return_carry, reverse and keep_order are
    overruled.

    Args:
      forward_rnn: `LSTM`, `GRU`, `SimpleRNN` or `RNN`.
      backward_rnn: another; None makes one like `forward_rnn` (not of `RNN`), with parameters of
        its own, drawn from the same `rngs`.
      merge_fn: a function of the outputs of both, or as Keras's merge_mode: "concat" (default, side
        by side along the features), "sum", "mul", "ave", or None for a pair.
      time_major: whether inputs and outputs have time first.
      return_carry: whether both final carries are returned too.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_spatialdrop.nnx import GRU, Bidirectional
      >>> layer = Bidirectional(GRU(8, 16, recurrent_dropout=0.2, rngs=nnx.Rngs(0)))
      >>> layer(jnp.ones((4, 10, 8))).shape
      (4, 10, 32)

    Reference: Schuster & Paliwal, Bidirectional Recurrent Neural Networks, 1997,
    https://doi.org/10.1109/78.650093
    """

    def __init__(
        self,
        forward_rnn: RecurrentLayer,
        backward_rnn: RecurrentLayer | None = None,
        *,
        merge_fn: Merge = "concat",
        time_major: bool = False,
        return_carry: bool = False,
    ):
        if backward_rnn is None and isinstance(forward_rnn, RecurrentLayer):
            backward_rnn = another(forward_rnn)
        check_directions(forward_rnn, backward_rnn, RecurrentLayer)
        self.forward_rnn = forward_rnn
        self.backward_rnn = backward_rnn
        check_merge(merge_fn)
        self.merge_fn = merge_fn
        self.time_major = check_switch(time_major, "time_major")
        self.return_carry = check_switch(return_carry, "return_carry")

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: tuple[Any, Any] | None = None,
        seq_lengths: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
        dropout: Rate | None = None,
        recurrent_dropout: Rate | None = None,
        masks: tuple[RecurrentMasks, RecurrentMasks] | None = None,
    ) -> Any:
        """Runs over a sequence in both directions.

        Args:
          inputs: [*batch, time, features], or with time first; floating.
          initial_carry: a carry for each direction.
          seq_lengths: [*batch] whole numbers: what comes after is padding.
          return_carry, time_major: in place of the attributes.
          deterministic, dropout, recurrent_dropout: as of the layers.
          rngs: nnx.Rngs, a stream of it, or a key, which is split, in place of the layers' streams.
          masks: for each direction, as `sample_masks` returns them.

        Returns:
          The outputs, or a pair of carries and the outputs.

        Raises:
          ValueError, TypeError: as the layers.
        """
        options: dict[str, Any] = {
            "seq_lengths": seq_lengths,
            "time_major": pick_switch(self, "time_major", time_major),
            "deterministic": deterministic,
            "dropout": dropout,
            "recurrent_dropout": recurrent_dropout,
            "return_carry": True,
        }
        keys = _for_each(rngs)
        carries, given = check_pair(initial_carry, "initial_carry"), check_pair(masks, "masks")
        merge = check_merge(self.merge_fn)
        return_carry = pick_switch(self, "return_carry", return_carry)
        found = [
            layer(
                inputs,
                initial_carry=carries[i],
                rngs=keys[i],
                masks=given[i],
                reverse=bool(i),
                keep_order=True,
                **options,
            )
            for i, layer in enumerate((self.forward_rnn, self.backward_rnn))
        ]
        (first, forward), (second, backward) = found
        outputs = merge(forward, backward)
        return ((first, second), outputs) if return_carry else outputs

    def sample_masks(
        self,
        inputs: Array,
        *,
        time_major: bool | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
        dropout: Rate | None = None,
        recurrent_dropout: Rate | None = None,
    ) -> tuple[RecurrentMasks, RecurrentMasks]:
        """Draws the masks that a call with the same arguments would have dropped with.

        Args:
          inputs: an array, of which only shape and dtype matter.
          time_major, rngs, deterministic, dropout, recurrent_dropout: as at the call.

        Returns:
          RecurrentMasks for each direction, to be used as `masks=`.

        Raises:
          ValueError, TypeError: as the call.
        """
        layers = self.forward_rnn, self.backward_rnn
        first, second = (
            layer.sample_masks(
                inputs,
                time_major=pick_switch(self, "time_major", time_major),
                deterministic=deterministic,
                rngs=key,
                dropout=dropout,
                recurrent_dropout=recurrent_dropout,
            )
            for layer, key in zip(layers, _for_each(rngs), strict=True)
        )
        return first, second


def _for_each(rngs: Any) -> Any:
    """What each direction draws from: a stream gives each a key of its own, a key must be split."""
    is_key = isinstance(rngs, jax.Array | np.ndarray)
    return jax.random.split(check_key(rngs, "rngs")) if is_key else (rngs, rngs)
