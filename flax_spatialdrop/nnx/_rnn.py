"""Any recurrent cell over whole sequences, with dropout of inputs and state."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .._checks import shown
from .._recurrent.any_cell import is_cell, kind_of_cell, scan_cell
from ._call import forked
from ._cell_state import CellState
from ._recurrent_layer import RecurrentLayer, check_rngs, source_of


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
