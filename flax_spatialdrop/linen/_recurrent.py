"""Recurrent layers with dropout: LSTM, GRU and a simple network, over whole sequences."""

import abc
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .._checks import check_callable, check_whole
from .._compat import linen_promote_dtype as promote_dtype
from .._recurrent.scan import scan_sequence
from .._recurrent.spec import Kind, check_unroll
from .._recurrent.step import Cell, Weights
from .._recurrent_cells import gru, lstm, simple
from ._recurrent_layer import RecurrentLayer

Initializer = nn.initializers.Initializer

_CELL_S_OWN = (
    "activation_fn",
    "kernel_init",
    "recurrent_kernel_init",
    "bias_init",
    "carry_init",
    "param_dtype",
)
"""What makes the parameters and the first carry; Flax's cell itself computes nothing here."""


class Sized(nn.Module):
    """Puts the size in front of all other fields."""

    features: int


class FusedLayer(RecurrentLayer, Sized, abc.ABC):
    """What LSTM, GRU and SimpleRNN share: the parameters of Flax's cell, and our own loop.

    Attributes:
      features: size of the hidden state.
      activation_fn: of the new content, and of an LSTM's output.
      kernel_init, recurrent_kernel_init, bias_init, carry_init: initializers of Flax's cell.
      dtype: of the computation; None infers it from inputs and parameters.
      param_dtype: of the parameters.
    """

    activation_fn: Callable[..., Any] = nn.tanh
    kernel_init: Initializer = nn.linear.default_kernel_init
    recurrent_kernel_init: Initializer = nn.initializers.orthogonal()
    bias_init: Initializer = nn.initializers.zeros_init()
    dtype: Any = None
    param_dtype: Any = jnp.float32
    carry_init: Initializer = nn.initializers.zeros_init()

    def __post_init__(self):
        for name, value in vars(self).items():
            if name.endswith(("_fn", "_init")):
                check_callable(value, name, "a function")
        super().__post_init__()

    @abc.abstractmethod
    def _cell(self) -> Cell:
        """What a step does."""

    @abc.abstractmethod
    def _weights(self, params: Any) -> Weights:
        """The parameters of Flax's cell as the loop takes them."""

    @nn.nowrap
    def _kind(self, of_step):
        cell, features = self._cell(), check_whole(self.features, "features", least=0)
        return Kind(cell.gates, cell.remembers, ((features,),) * cell.parts)

    @nn.nowrap
    def _loop(self, cell, inputs, carry):
        if not self.is_initializing():
            # Computes nothing, but says in Flax's words which parameter is missing or misfits.
            *batch, _ = jax.tree.leaves(carry)[-1].shape
            step = jax.ShapeDtypeStruct((*batch, inputs.shape[-1]), inputs.dtype)
            with jax.numpy_dtype_promotion("standard"):  # which Flax's cells rely on
                jax.eval_shape(cell, carry, step)
        weights = self._weights(nn.unbox(cell.variables["params"]))
        promoted, *kernels = promote_dtype(inputs, *weights, dtype=self.dtype)
        loop = partial(
            scan_sequence, self._cell(), Weights(*kernels), unroll=check_unroll(self.unroll)
        )
        return jnp.asarray(promoted), loop

    @nn.nowrap
    def _options(self) -> dict[str, Any]:
        """The attributes that Flax's cells have too."""
        return {name: getattr(self, name) for name in _CELL_S_OWN}


class LSTM(FusedLayer):
    """Long short-term memory over a sequence, with dropout of inputs and state.

        [i, f, g, o] = W_x drop(x_t) + W_h drop(h_{t-1}) + b
        c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g),   h_t = sigmoid(o) tanh(c_t)

    Its parameters are those of `nn.RNN(nn.LSTMCell(features))`, and without dropout so are its
    outputs. Masks are drawn once for a sequence, for each sequence its own; what is carried from
    step to step is never scaled. With `variant="no_memory_loss"`, in place of the state tanh(g) is
    dropped; with "zoneout", values of c and h stay as they were, both at the rate
    `recurrent_dropout`. For padding the outputs are 0, where Flax's own run on.

    Attributes:
      features: size of the hidden state.
      dropout: probability to drop a feature of the inputs, in [0, 1]; a number or a scalar array.
      recurrent_dropout: the same of the state, in the way that `variant` says.
      variant: "variational" (default), "no_memory_loss" or "zoneout".
      per_gate: whether each of the four gates has masks of its own, of the inputs and of a
        "variational" state, as in Keras with a recurrent_dropout (default False).
      time_major, return_carry, reverse, keep_order, unroll: as of `nn.RNN`.
      deterministic: True drops nothing (for zoneout the mean is taken); to be given here or at
        the call, if a rate is not 0.
      rng_collection: the name of the stream that the key is asked of (default "dropout").
      activation_fn, gate_fn, kernel_init, recurrent_kernel_init, bias_init, carry_init, dtype,
        param_dtype: as of `nn.LSTMCell`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import LSTM
      >>> layer = LSTM(16, dropout=0.2, recurrent_dropout=0.2)
      >>> x = jnp.ones((4, 10, 8))
      >>> variables = layer.init(jax.random.key(0), x, deterministic=True)
      >>> rngs = {"dropout": jax.random.key(1)}
      >>> layer.apply(variables, x, deterministic=False, rngs=rngs).shape
      (4, 10, 16)

    Reference: Gal & Ghahramani, A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks, 2016, https://arxiv.org/abs/1512.05287
    """

    gate_fn: Callable[..., Any] = nn.sigmoid

    @nn.nowrap
    def _flax_cell(self):
        return nn.LSTMCell(self.features, gate_fn=self.gate_fn, name="cell", **self._options())

    @nn.nowrap
    def _cell(self):
        return lstm(self.gate_fn, self.activation_fn)

    @nn.nowrap
    def _weights(self, params):
        return Weights(
            _joined(params, "kernel", "ii", "if", "ig", "io"),
            _joined(params, "kernel", "hi", "hf", "hg", "ho"),
            None,
            _joined(params, "bias", "hi", "hf", "hg", "ho"),
        )


class GRU(FusedLayer):
    """Gated recurrent units over a sequence, with dropout of inputs and state.

        r = sigmoid(W_xr drop(x_t) + W_hr drop(h_{t-1}) + b_r),   z the same with weights of its own
        n = tanh(W_xn drop(x_t) + b_n + r (W_hn drop(h_{t-1}) + b_hn))
        h_t = (1 - z) n + z h_{t-1}

    Its parameters are those of `nn.RNN(nn.GRUCell(features))`, and without dropout so are its
    outputs. Masks are drawn once for a sequence, for each sequence its own; what is carried from
    step to step is never scaled. With `variant="no_memory_loss"`, in place of the state n is
    dropped; with "zoneout", values of h stay as they were, at the rate
    `recurrent_dropout`. For padding the outputs are 0, where Flax's own run on.

    Attributes:
      features: size of the hidden state.
      dropout: probability to drop a feature of the inputs, in [0, 1]; a number or a scalar array.
      recurrent_dropout: the same of the state, in the way that `variant` says.
      variant: "variational" (default), "no_memory_loss" or "zoneout".
      per_gate: whether each of the three gates has masks of its own, of the inputs and of a
        "variational" state, as in Keras with a recurrent_dropout (default False).
      time_major, return_carry, reverse, keep_order, unroll: as of `nn.RNN`.
      deterministic: True drops nothing (for zoneout the mean is taken); to be given here or at
        the call, if a rate is not 0.
      rng_collection: the name of the stream that the key is asked of (default "dropout").
      activation_fn, gate_fn, kernel_init, recurrent_kernel_init, bias_init, carry_init, dtype,
        param_dtype: as of `nn.GRUCell`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import GRU
      >>> layer, x = GRU(16), jnp.ones((4, 10, 8))
      >>> layer.init_with_output(jax.random.key(0), x)[0].shape
      (4, 10, 16)

    Reference: Gal & Ghahramani, A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks, 2016, https://arxiv.org/abs/1512.05287
    """

    gate_fn: Callable[..., Any] = nn.sigmoid

    @nn.nowrap
    def _flax_cell(self):
        return nn.GRUCell(self.features, gate_fn=self.gate_fn, name="cell", **self._options())

    @nn.nowrap
    def _cell(self):
        return gru(self.gate_fn, self.activation_fn)

    @nn.nowrap
    def _weights(self, params):
        bias = params["hn"]["bias"]
        return Weights(
            _joined(params, "kernel", "ir", "iz", "in"),
            _joined(params, "kernel", "hr", "hz", "hn"),
            _joined(params, "bias", "ir", "iz", "in"),
            jnp.concatenate([jnp.zeros_like(bias), jnp.zeros_like(bias), bias]),
        )


class SimpleRNN(FusedLayer):
    """A simple recurrent network over a sequence, with dropout of inputs and state.

        h_t = tanh(W_x drop(x_t) + b + W_h drop(h_{t-1}))

    Its parameters are those of `nn.RNN(nn.SimpleCell(features))`, and without dropout so are its
    outputs. Masks are drawn once for a sequence, for each sequence its own. With
    `variant="zoneout"`, values of h stay as they were, at the rate `recurrent_dropout`. For padding
    the outputs are 0, where Flax's own run on.

    Attributes:
      features: size of the hidden state.
      dropout: probability to drop a feature of the inputs, in [0, 1]; a number or a scalar array.
      recurrent_dropout: the same of the state, in the way that `variant` says.
      variant: "variational" (default) or "zoneout".
      per_gate: False; there are no gates.
      time_major, return_carry, reverse, keep_order, unroll: as of `nn.RNN`.
      deterministic: True drops nothing (for zoneout the mean is taken); to be given here or at
        the call, if a rate is not 0.
      rng_collection: the name of the stream that the key is asked of (default "dropout").
      activation_fn, kernel_init, recurrent_kernel_init, bias_init, carry_init, dtype, param_dtype:
        as of `nn.SimpleCell`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import SimpleRNN
      >>> layer, x = SimpleRNN(16), jnp.ones((4, 10, 8))
      >>> layer.init_with_output(jax.random.key(0), x)[0].shape
      (4, 10, 16)

    Reference: Gal & Ghahramani, A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks, 2016, https://arxiv.org/abs/1512.05287
    """

    @nn.nowrap
    def _flax_cell(self):
        return nn.SimpleCell(self.features, name="cell", **self._options())

    @nn.nowrap
    def _cell(self):
        return simple(self.activation_fn)

    @nn.nowrap
    def _weights(self, params):
        return Weights(params["i"]["kernel"], params["h"]["kernel"], params["i"]["bias"], None)


def _joined(params: Any, kind: str, *names: str) -> jax.Array:
    return jnp.concatenate([params[name][kind] for name in names], axis=-1)
