"""Any recurrent cell over whole sequences, with dropout of inputs and state."""

from functools import partial

import flax.linen as nn
import jax

from .._checks import shown
from .._recurrent_any_cell import kind_of_cell, scan_cell
from ._recurrent_layer import RecurrentLayer


class Around(nn.Module):
    """Puts the cell in front of all other fields."""

    cell: nn.RNNCellBase


class RNN(RecurrentLayer, Around):
    """Any cell of Flax, or of your own, over a sequence, with dropout of inputs and state.

        s_t, y_t = cell(s_{t-1}, drop(x_t)),   where products read drop(h_{t-1}) in place of h_{t-1}

    In place of `nn.RNN(cell)`, with its parameters. h is the last part of the cell's carry s. What
    the cell computes of h by products, in dense layers and convolutions, comes of the dropped h;
    what it uses element by element, such as z * h of a GRU, comes of h itself, so that the state
    that is carried on is never scaled. (A function with a derivative of its own that has products
    counts as one; a loop or branch with products of h is refused.) Masks are drawn once for a
    sequence, for each sequence its own. With "zoneout" y is the part of the carry that stays as it
    was, if it is that part itself. `LSTM`, `GRU` and `SimpleRNN` do the
    same for theirs, faster and with more variants.

    The cell is called as a function of its parameters: it cannot draw random numbers or write
    variables in a step.

    Attributes:
      cell: an `nn.RNNCellBase`.
      dropout: probability to drop a feature of the inputs, in [0, 1]; a number or a scalar array.
      recurrent_dropout: the same of the state, in the way that `variant` says.
      variant: "variational" (default) or "zoneout", which keeps values of the carry as they were.
      per_gate: False; what gates a cell has is not known.
      time_major, return_carry, reverse, keep_order, unroll: as of `nn.RNN`.
      deterministic: True drops nothing (for zoneout the mean is taken); to be given here or at
        the call, if a rate is not 0.
      rng_collection: the name of the stream that the key is asked of (default "dropout").

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import RNN
      >>> layer = RNN(nn.MGUCell(16), dropout=0.2, recurrent_dropout=0.2)
      >>> x = jnp.ones((4, 10, 8))
      >>> variables = layer.init(jax.random.key(0), x, deterministic=True)
      >>> rngs = {"dropout": jax.random.key(1)}
      >>> layer.apply(variables, x, deterministic=False, rngs=rngs).shape
      (4, 10, 16)

    Reference: Gal & Ghahramani, A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks, 2016, https://arxiv.org/abs/1512.05287
    """

    def __post_init__(self):
        if not isinstance(self.cell, nn.RNNCellBase):
            raise TypeError(
                f"RNN takes an instance of flax.linen.RNNCellBase: got {shown(self.cell)}"
            )
        super().__post_init__()

    @nn.nowrap
    def _flax_cell(self):
        return self.cell

    @nn.nowrap
    def _feature_axes(self):
        return self.cell.num_feature_axes

    @nn.nowrap
    def _kind(self, of_step):
        first = jax.eval_shape(lambda: self.cell.initialize_carry(jax.random.key(0), of_step))
        return kind_of_cell(first, of_step, self._feature_axes())

    @nn.nowrap
    def _loop(self, cell, inputs, carry):
        cell, variables = cell.unbind()
        step = partial(cell.apply, variables)
        structure = jax.tree.structure(carry)
        return inputs, partial(scan_cell, step, structure, unroll=self.unroll)
