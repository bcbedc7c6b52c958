"""Recurrent layers with dropout, over whole sequences: LSTM, GRU, SimpleRNN and any other cell."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, InitVar, field
from functools import partial
from typing import Any, Literal
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .._checks import check_name, check_rate, check_switch, check_whole, is_static, shown
from .._compat import split_streams
from .._docs import completed_by, document
from .._recurrent import spec
from .._recurrent.any_cell import CARRY, check_cell, scan_cell, spec_of_cell, step_of_cell
from .._recurrent.layer import Fused, draw_masks, run_both, run_layer, sample_both
from .._recurrent.scan import scan_sequence
from .._recurrent.spec import CellSpec, Options, RecurrentMasks, Shared, read_call, split_key
from .._recurrent.step import Weights, gru, lstm, simple
from .._typing import Array, AxisNames, Rate, Shape
from ._base import Stochastic, call_of, forked

_MAKERS: WeakKeyDictionary[Any, Callable[[], Any]] = WeakKeyDictionary()
"""Makes the cell of a layer anew. It holds the user's nnx.Rngs, so it is not part of the layer."""


class RecurrentLayer(Options, Stochastic):
    """The base of all recurrent layers, which differ in their cell.

    Args:
      deterministic: True drops nothing (zoneout takes the mean); set by `train()` and `eval()`, and
        overruled at the call.
      dropout_rngs: the stream for masks is forked from it, in place of `rngs`. With False the layer
        has no stream, and takes `rngs=` (nnx.Rngs, a stream or a key) at the call.
    """

    RNGS = "dropout_rngs"  # the argument that the stream is forked from, for messages

    _: KW_ONLY
    cell: Any
    dropout_rngs: InitVar[nnx.Rngs | nnx.RngStream | Literal[False] | None] = None  # type: ignore[assignment]
    carry_rngs: Any = field(default=None, init=False)

    def __post_init__(self, rngs: Any, dropout_rngs: Any = None) -> None:
        rates = (check_rate(getattr(self, n), n) for n in ("dropout", "recurrent_dropout"))
        if dropout_rngs is None and not all(is_static(rate, 0.0) for rate in rates):
            dropout_rngs = source_of(rngs, check_name(self.rng_collection, "rng_collection"))
        super().__post_init__(None if dropout_rngs is False else dropout_rngs)

    @completed_by(run_layer, read_call)
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
          initial_carry: a carry that another call returned; None starts from the first
            carry of the cell, zeros by default.
          deterministic: in place of the attribute.
          rngs: nnx.Rngs, a stream or a key for the masks, in place of the layer's stream.
        """
        options = time_major, seq_lengths, reverse, keep_order, return_carry
        inputs, layer = read_call(self, inputs, dropout, recurrent_dropout, *options)
        step = layer.sequence.step
        if initial_carry is None:
            source = nnx.Rngs(0) if self.carry_rngs is None else self.carry_rngs
            carry = self.cell.initialize_carry(step, source)
        else:
            first = jax.eval_shape(lambda: self.cell.initialize_carry(step, nnx.Rngs(0)))
            carry = spec.check_carry(initial_carry, first)
        inputs, loop = self._loop(self.cell, inputs, carry)
        find_call = partial(call_of, self, deterministic, rngs)
        return run_layer(layer, loop, inputs, carry, masks, find_call)

    @completed_by(draw_masks, read_call)
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
        """Draws the masks that a call with the same arguments drops with."""
        _, layer = read_call(self, inputs, dropout, recurrent_dropout, time_major)
        return draw_masks(layer, partial(call_of, self, deterministic, rngs))


def check_rngs(rngs: Any) -> nnx.Rngs | nnx.RngStream:
    """Returns what a layer takes as `rngs`."""
    if not isinstance(rngs, nnx.Rngs | nnx.RngStream):
        raise TypeError(f"rngs must be nnx.Rngs or an nnx.RngStream: got {shown(rngs)}")
    return rngs


def source_of(rngs: Any, name: str) -> nnx.RngStream | None:
    """A stream of nnx.Rngs, or its default one; None if it has neither."""
    return getattr(rngs, name, None) if isinstance(rngs, nnx.Rngs) else rngs


def twin_of(layer: Any) -> Any:
    """A layer like this one, with parameters and a stream of its own."""
    if layer not in _MAKERS:
        raise ValueError(
            "Bidirectional makes the second direction only for an LSTM, GRU or SimpleRNN that its "
            "own constructor made, not for an RNN or a clone: got "
            f"{type(layer).__name__}; pass backward_rnn"
        )
    twin, make_cell = nnx.clone(layer), _MAKERS[layer]
    _MAKERS[twin], twin.cell = make_cell, make_cell()
    twin.rngs = forked(twin, layer.rngs)
    return twin


class FusedLayer(Fused, RecurrentLayer):
    """The base of LSTM, GRU and SimpleRNN: the parameters of Flax's cell, and our own loop.

    Args:
      in_features: size of the inputs.
      hidden_features: size of the hidden state.
      rngs: nnx.Rngs for the parameters. If a rate is not the number 0, a stream for the masks is
        forked from it too, as in Flax's own layers with dropout.
      **cell_options: of Flax's cell: gate_fn, activation_fn, kernel_init, dtype and so on.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_spatialdrop.nnx import LSTM
      >>> layer = LSTM(8, 16, dropout=0.2, recurrent_dropout=0.2, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((4, 10, 8))).shape
      (4, 10, 16)
    """

    _dense_layers = "dense_i", "dense_h"

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        dropout: Rate = 0.0,
        recurrent_dropout: Rate = 0.0,
        variant: spec.Variant = "variational",
        per_gate: bool = False,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        unroll: int = 1,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        axis_name: AxisNames | None = None,
        rngs: nnx.Rngs,
        dropout_rngs: nnx.Rngs | nnx.RngStream | Literal[False] | None = None,
        **cell_options: Any,
    ):
        # The arguments that all recurrent layers take, as they were given.
        options = {k: v for k, v in locals().items() if k in RecurrentLayer._arguments}
        sizes = {"in_features": in_features, "hidden_features": hidden_features}
        sizes = {name: check_whole(size, name, least=0) for name, size in sizes.items()}
        make_cell = partial(self._flax_class, **sizes, rngs=check_rngs(rngs), **cell_options)
        super().__init__(cell=make_cell(), **options)  # type: ignore[call-arg]
        _MAKERS[self] = make_cell

    def _cell_spec(self, step: Shape) -> CellSpec:
        return self._equations(self.cell).cell_of(self.cell.hidden_features)

    def _loop(self, cell: Any, inputs: Array, carry: Any) -> tuple[jax.Array, Callable[..., Any]]:
        def arrays(name: str) -> tuple[Any, Any]:
            layer = getattr(cell, name)
            return layer.kernel[...], None if layer.bias is None else layer.bias[...]

        weights = self._weights(arrays)
        inputs, *kernels = cell.promote_dtype((inputs, *weights), dtype=cell.dtype)
        loop = partial(scan_sequence, self._equations(cell), Weights(*kernels), unroll=self.unroll)
        return jnp.asarray(inputs), loop


class LSTM(FusedLayer, of=lstm):
    """In place of `nnx.RNN(nnx.LSTMCell(...))`, with its parameters and options."""

    _flax_class, _network = nnx.LSTMCell, staticmethod(lstm)
    _dense_layers = "ii if_ ig io", "hi hf hg ho"  # Flax's names; `if` is a keyword


class GRU(FusedLayer, of=gru):
    """In place of `nnx.RNN(nnx.GRUCell(...))`, with its parameters and options; b_hn is 0."""

    _flax_class, _network = nnx.GRUCell, staticmethod(gru)


class SimpleRNN(FusedLayer, of=simple):
    """In place of `nnx.RNN(nnx.SimpleCell(...))`, with its parameters and options."""

    _flax_class, _network = nnx.SimpleCell, staticmethod(simple)
    _activations = ("activation_fn",)


class OpenCell:
    """A cell as a function of the arrays of its variables."""

    def __init__(self, cell: Any):
        self.graph, state = nnx.split(cell, graph=True)
        self.variables = list(nnx.to_flat_state(state))
        self.paths = [path for path, _ in self.variables]
        self.arrays, self.tree = jax.tree.flatten([variable for _, variable in self.variables])

    def __call__(self, arrays: list[Any], carry: Any, x: jax.Array) -> tuple[Any, Any, list[Any]]:
        """Runs a step; returns the carry, the output, and the arrays after it."""
        cell = nnx.merge(self.graph, self.state(arrays))
        carry, y = cell(carry, x)
        after = OpenCell(cell)
        if (after.paths, after.tree) != (self.paths, self.tree):
            raise ValueError(
                "RNN takes a cell that has the same variables after a step as before, since they "
                f"are carried: got {len(after.paths)} in place of {len(self.paths)}"
            )
        return carry, y, after.arrays

    def axes(self, state_axes: nnx.StateAxes) -> list[Any]:
        """The axis of each array, as `scan_cell` takes it."""
        pairs = ((state_axes.map_prefix(path, v), v) for path, v in self.variables)
        found = [axis for axis, variable in pairs for _ in jax.tree.leaves(variable)]
        return [CARRY if axis is nnx.Carry else axis for axis in found]

    def state(self, arrays: list[Any]) -> Any:
        """The state of the cell with these arrays."""
        variables = jax.tree.unflatten(self.tree, arrays)
        return nnx.from_flat_state(zip(self.paths, variables, strict=True))


class RNN(RecurrentLayer, of=step_of_cell):
    """In place of `nnx.RNN(cell)`, with its parameters. The last step's variables stay in the cell.

    Args:
      state_axes: which variables of the cell are carried from step to step (nnx.Carry, default),
        are the same in every step (None) or have a time axis (its number), as in `nnx.RNN`.
      broadcast_rngs: a filter of the cell's streams that draw the same in all steps of a call.
      rngs: nnx.Rngs or a stream. Its "carry" stream draws the first carry, and its `rng_collection`
        stream draws masks if a rate is not the number 0. With a bool, which `nnx.RNN` accepts, the
        layer has no stream, and takes `rngs=` (nnx.Rngs, a stream or a key) at the call.
      dropout, recurrent_dropout, variant, per_gate, time_major, return_carry: as in `GRU`.
      reverse, keep_order, unroll, deterministic, rng_collection, axis_name, dropout_rngs: as in
        `GRU`.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_spatialdrop.nnx import RNN
      >>> layer = RNN(nnx.GRUCell(8, 16, rngs=nnx.Rngs(0)), dropout=0.2, dropout_rngs=nnx.Rngs(1))
      >>> layer(jnp.ones((4, 10, 8))).shape
      (4, 10, 16)
    """

    _dtypes = np.generic

    def __init__(
        self,
        cell: nnx.RNNCellBase,
        *,
        state_axes: Mapping[Any, Any] | None = None,
        broadcast_rngs: nnx.filterlib.Filter = None,
        rngs: nnx.Rngs | nnx.RngStream | bool = True,
        **options: Any,
    ):
        check_cell(cell, nnx.Module, "nnx.RNNCellBase")
        if not isinstance(state_axes, Mapping | None):
            raise TypeError(f"state_axes must be a dict, as of nnx.RNN: got {shown(state_axes)}")
        source = None if isinstance(rngs, bool) else check_rngs(rngs)
        super().__init__(cell=cell, rngs=source, **options)  # type: ignore[call-arg]
        axes: Any = {...: nnx.Carry} if state_axes is None else state_axes
        self.state_axes: nnx.StateAxes = nnx.StateAxes(axes)
        self.broadcast_rngs: nnx.filterlib.Filter = broadcast_rngs
        self.carry_rngs: Any = forked(self, source_of(source, "carry"))

    def _cell_spec(self, step: Shape) -> CellSpec:
        first = jax.eval_shape(lambda: self.cell.initialize_carry(step, nnx.Rngs(0)))
        return spec_of_cell(first, step, self._feature_axes)

    def _loop(self, cell: Any, inputs: Array, carry: Any) -> tuple[jax.Array, Callable[..., Any]]:
        structure = jax.tree.structure(carry)

        def loop(xs: jax.Array, parts: Any, *masks: Any, time_axis: int) -> Any:
            with split_streams(cell, splits=1, only=self.broadcast_rngs, squeeze=True):
                broadcast = nnx.All(nnx.RngState, self.broadcast_rngs)
                step = OpenCell(cell)
                axes = step.axes(nnx.StateAxes({broadcast: None, **self.state_axes}))
                run = partial(scan_cell, step, step.arrays, axes, structure, unroll=self.unroll)
                last, outputs, after = run(xs, parts, *masks, time_axis=time_axis)
                if after is not None:
                    nnx.update(cell, step.state(after))
            return last, outputs

        return jnp.asarray(inputs), loop


class Bidirectional(nnx.Module):
    """In place of `nnx.Bidirectional`, with its parameters, for layers of this package.

    Args:
      backward_rnn: another one; None for a layer like `forward_rnn` (which must not be an `RNN`),
        with parameters of its own, drawn from the same `rngs`.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_spatialdrop.nnx import GRU, Bidirectional
      >>> layer = Bidirectional(GRU(8, 16, recurrent_dropout=0.2, rngs=nnx.Rngs(0)))
      >>> layer(jnp.ones((4, 10, 8))).shape
      (4, 10, 32)
    """

    def __init__(
        self,
        forward_rnn: RecurrentLayer,
        backward_rnn: RecurrentLayer | None = None,
        *,
        merge_fn: spec.Merge = "concat",
        time_major: bool = False,
        return_carry: bool = False,
    ):
        if backward_rnn is None and isinstance(forward_rnn, RecurrentLayer):
            backward_rnn = twin_of(forward_rnn)
        spec.check_directions(forward_rnn, backward_rnn, RecurrentLayer)
        spec.check_merge(merge_fn)
        self.forward_rnn: RecurrentLayer = forward_rnn
        self.backward_rnn: RecurrentLayer | None = backward_rnn
        self.merge_fn: spec.Merge = merge_fn
        self.time_major: bool = check_switch(time_major, "time_major")
        self.return_carry: bool = check_switch(return_carry, "return_carry")

    @completed_by(run_layer, read_call)
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
          initial_carry, masks: a pair, one for each direction.
          deterministic, dropout, recurrent_dropout: as in the layers.
          rngs: nnx.Rngs, a stream, or a key (which is split) for the masks, in place of the layers'
            streams.
        """
        pairs = {"rngs": _for_each(rngs), "initial_carry": initial_carry, "masks": masks}
        shared = Shared(time_major, deterministic, dropout, recurrent_dropout)
        return run_both(self, RecurrentLayer, inputs, pairs, shared, return_carry, seq_lengths)

    @completed_by(draw_masks, read_call)
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
        """Draws the masks of each direction, as a pair."""
        shared = Shared(time_major, deterministic, dropout, recurrent_dropout)
        return sample_both(self, RecurrentLayer, inputs, {"rngs": _for_each(rngs)}, shared)


def _for_each(rngs: Any) -> Any:
    """The rngs of each direction: a key is split; both draw from the same stream."""
    is_key = isinstance(rngs, jax.Array | np.ndarray)
    return split_key(rngs, "rngs") if is_key else (rngs, rngs)


document(Bidirectional, inspect.signature(Bidirectional.__init__).parameters, "Args", run_both)
