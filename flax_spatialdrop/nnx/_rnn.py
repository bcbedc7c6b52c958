"""Any recurrent cell over whole sequences, with dropout of inputs and state."""

from functools import partial
from typing import Any

import jax
from flax import nnx

from .._recurrent_any_cell import kind_of_cell, scan_cell
from ._recurrent_layer import RecurrentLayer


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

    The cell is called as a function of its parameters: what it writes to its variables in a step
    is lost.

    Args:
      cell: an `nnx.RNNCellBase`.
      dropout: probability to drop a feature of the inputs, in [0, 1]; a number or a scalar array.
      recurrent_dropout: the same of the state, in the way that `variant` says.
      variant: "variational" (default) or "zoneout", which keeps values of the carry as they were.
      per_gate: False; what gates a cell has is not known.
      time_major, return_carry, reverse, keep_order, unroll: as of `nnx.RNN`.
      deterministic: True drops nothing (for zoneout the mean is taken); set by `train()` and
        `eval()`, overruled at the call.
      rng_collection: the name of the stream of `dropout_rngs` that the key is asked of.
      dropout_rngs: a stream for the masks is forked from it; without, the layer holds no RNG state
        and takes `rngs=` (a key will do) at the call.

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

    def __init__(self, cell: nnx.RNNCellBase, **options: Any):
        if not isinstance(cell, nnx.RNNCellBase):
            got = getattr(type(cell), "__name__", cell)
            raise TypeError(f"RNN takes an instance of nnx.RNNCellBase: got {got}")
        super().__init__(cell, **options)

    def _feature_axes(self):
        return self.cell.num_feature_axes

    def _kind(self, of_step):
        first = jax.eval_shape(lambda: self.cell.initialize_carry(of_step, nnx.Rngs(0)))
        return kind_of_cell(first, of_step, self._feature_axes())

    def _loop(self, inputs, carry):
        graph, state = nnx.split(self.cell)

        def step(carry: Any, x: jax.Array) -> Any:
            return nnx.merge(graph, state, copy=True)(carry, x)

        return inputs, partial(scan_cell, step, jax.tree.structure(carry), unroll=self.unroll)
