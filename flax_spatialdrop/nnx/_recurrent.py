"""Recurrent layers with dropout: LSTM, GRU and a simple network, over whole sequences."""

import abc
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx

from .._checks import check_whole
from .._recurrent.scan import scan_sequence
from .._recurrent.spec import Kind, Variant
from .._recurrent.step import Cell, Weights
from .._recurrent_cells import gru, lstm, simple
from .._typing import Rate
from ._recurrent_layer import RecurrentLayer, check_rngs, made


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
