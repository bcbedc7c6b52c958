"""Recurrent layers with dropout: LSTM, GRU and a simple network, over whole sequences."""

import abc
from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict, lift
from flax.core.scope import (
    CollectionFilter,
    DenyList,
    PRNGSequenceFilter,
    in_filter,
    union_filters,
)
from flax.linen.transforms import lift_direct_transform
from flax.typing import InOutScanAxis

from .._checks import check_callable, check_key, check_whole, shown
from .._compat import linen_promote_dtype as promote_dtype
from .._random.sharding import vary_alike
from .._recurrent.any_cell import is_cell, kind_of_cell, step_of_cell
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
    check_unroll,
    pick_switch,
)
from .._recurrent.step import Cell, Weights, gru, lstm, simple
from .._typing import Array, Key, Rate
from ._base import Stochastic, find_key, is_deterministic, where


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
        for name in self._arguments:
            if name.endswith(("_fn", "_init")):
                check_callable(getattr(self, name), name, "a function")
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

    A cell may draw random numbers and write to its variables, such as those of Dropout and
    BatchNorm inside it. Each step draws anew, and goes on from what the step before has written.

    Attributes:
      cell: an `nn.RNNCellBase`, or a module that has its methods. Its inputs may be integers, if
        `dropout` is 0.
      dropout: probability to drop a feature of the inputs, in [0, 1]; a number or a scalar array.
      recurrent_dropout: the same of the state, in the way that `variant` says.
      variant: "variational" (default) or "zoneout", which keeps values of the carry as they were.
      per_gate: False; what gates a cell has is not known.
      time_major, return_carry, reverse, keep_order, unroll: as of `nn.RNN`.
      deterministic: True drops nothing (for zoneout the mean is taken); to be given here or at
        the call, if a rate is not 0.
      rng_collection: the name of the stream that the key is asked of (default "dropout").
      variable_axes, variable_broadcast, variable_carry, split_rngs: what becomes of the cell's
        variables and streams from step to step, as of `nn.RNN`. By default a cell draws anew in
        every step but for its parameters, and all mutable collections but "params" and
        "intermediates" are carried (variable_carry=None).

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

    variable_axes: Mapping[CollectionFilter, InOutScanAxis] = FrozenDict()
    variable_broadcast: CollectionFilter = "params"
    variable_carry: CollectionFilter | None = None
    split_rngs: Mapping[PRNGSequenceFilter, bool] = FrozenDict(
        {"params": False, DenyList("params"): True}
    )

    def __post_init__(self):
        if not isinstance(self.cell, nn.Module) or not is_cell(self.cell):
            raise TypeError(
                "RNN takes a cell, such as an instance of flax.linen.RNNCellBase: a module with "
                f"initialize_carry and num_feature_axes: got {shown(self.cell)}"
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
    def _dtypes(self):
        return np.generic

    @nn.nowrap
    def _loop(self, cell, inputs, carry):
        structure = jax.tree.structure(carry)

        def loop(xs, parts, fixed, stepwise, *, time_axis):
            xs, parts, fixed, stepwise, _ = vary_alike((xs, parts, fixed, stepwise, cell.variables))

            def body(cell, parts, part, fixed):
                # Again, since Flax first traces a step without the types of a shard_map.
                parts, (x, each), fixed, _ = vary_alike((parts, part, fixed, cell.variables))

                def drop(step, parts, x):
                    after, y, rest = step_of_cell(step, structure, parts, x, fixed, each)
                    return (after, y), rest

                return as_function(drop, cell, parts, x)

            scan = nn.scan(body, in_axes=(0, nn.broadcast), **self._lifting(cell))
            last, outputs = scan(cell, parts, (jnp.moveaxis(xs, time_axis, 0), stepwise), fixed)
            return last, jnp.moveaxis(outputs, 0, time_axis)

        return jnp.asarray(inputs), loop

    @nn.nowrap
    def _lifting(self, cell):
        """What becomes of the cell's variables and streams from step to step."""
        for name in ("variable_axes", "split_rngs"):
            if not isinstance(getattr(self, name), Mapping):
                got = shown(getattr(self, name))
                raise TypeError(f"{name} must be a dict, as of flax.linen.RNN: got {got}")
        broadcast, carry = self.variable_broadcast, self.variable_carry
        if carry is None:
            axes = reduce(union_filters, self.variable_axes, broadcast)
            others = [name for name in cell.variables if not in_filter(axes, name)]
            is_written = {name: cell.is_mutable_collection(name) for name in others}
            carry = [name for name in others if is_written[name] and name != "intermediates"]
            broadcast = union_filters(broadcast, [n for n in others if not is_written[n]])
        return {
            "variable_axes": self.variable_axes,
            "variable_broadcast": broadcast,
            "variable_carry": carry,
            "split_rngs": self.split_rngs,
            "unroll": check_unroll(self.unroll),
        }


def as_function(run: Callable[..., Any], cell: nn.Module, *args: Any) -> Any:
    """Calls `run(step, *args)`, where `step(carry, x) -> carry, y, variables` is the cell.

    `run` may trace the step, and returns a result and the variables that it returned.
    """

    def lifted(call, scope, *args):
        def inner(scope_fn, repack_fn, variables, rngs, *args):
            def step(carry, x):
                scope = scope_fn(variables, rngs)
                carry, y = call(scope, carry, x)
                return carry, y, repack_fn(scope)

            return run(step, *args)

        return lift.pack(inner, (True,), (True,), (True,), name="rnn")(scope, *args)

    return lift_direct_transform(lifted, (lambda cell, carry, x: cell(carry, x),), cell, *args)


class Bidirectional(Stochastic):
    """Two recurrent layers over a sequence, one of them from its end.

        y_t = merge_fn(forward(x)_t, backward(x reversed, in x's order)_t)

    In place of `nn.Bidirectional`, with its parameters, for layers of this package. Each direction
    draws masks of its own. The layers' own time_major, return_carry, reverse and keep_order are
    overruled.

    Attributes:
      forward_rnn: `LSTM`, `GRU`, `SimpleRNN` or `RNN`.
      backward_rnn: another; None makes one like `forward_rnn`, with parameters of its own.
      merge_fn: a function of the outputs of both, or as Keras's merge_mode: "concat" (default, side
        by side along the features), "sum", "mul", "ave", or None for a pair.
      time_major: whether inputs and outputs have time first.
      return_carry: whether both final carries are returned too.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import GRU, Bidirectional
      >>> layer = Bidirectional(GRU(16, recurrent_dropout=0.2))
      >>> x = jnp.ones((4, 10, 8))
      >>> variables = layer.init(jax.random.key(0), x, deterministic=True)
      >>> rngs = {"dropout": jax.random.key(1)}
      >>> layer.apply(variables, x, deterministic=False, rngs=rngs).shape
      (4, 10, 32)

    Reference: Schuster & Paliwal, Bidirectional Recurrent Neural Networks, 1997,
    https://doi.org/10.1109/78.650093
    """

    forward_rnn: RecurrentLayer
    backward_rnn: RecurrentLayer | None = None
    merge_fn: Merge = "concat"
    time_major: bool = False
    return_carry: bool = False

    def __post_init__(self):
        if self.backward_rnn is None and isinstance(self.forward_rnn, RecurrentLayer):
            # Deep, since the cell of `RNN` is a module too.
            self.backward_rnn = self.forward_rnn.clone(_deep_clone=True, name=None)
        super().__post_init__()

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: tuple[Any, Any] | None = None,
        init_key: Key = None,
        seq_lengths: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        deterministic: bool | None = None,
        rng: Key = None,
        dropout: Rate | None = None,
        recurrent_dropout: Rate | None = None,
        masks: tuple[RecurrentMasks, RecurrentMasks] | None = None,
    ) -> Any:
        """Runs over a sequence in both directions.

        Args:
          inputs: [*batch, time, features], or with time first; floating.
          initial_carry: a carry for each direction.
          init_key: for the first carries; split.
          seq_lengths: [*batch] whole numbers: what comes after is padding.
          return_carry, time_major: in place of the attributes.
          deterministic, dropout, recurrent_dropout: as of the layers.
          rng: the key to draw with, in place of the stream's; split.
          masks: for each direction, as `sample_masks` returns them.

        Returns:
          The outputs, or a pair of carries and the outputs.

        Raises:
          ValueError: if both directions are one layer; else as the layers.
          TypeError: for other layers; else as the layers.
        """
        options: dict[str, Any] = {
            "seq_lengths": seq_lengths,
            "time_major": pick_switch(self, "time_major", time_major),
            "deterministic": deterministic,
            "dropout": dropout,
            "recurrent_dropout": recurrent_dropout,
            "return_carry": True,
        }
        rngs, init_keys = _for_each(rng, "rng"), _for_each(init_key, "init_key")
        carries, given = check_pair(initial_carry, "initial_carry"), check_pair(masks, "masks")
        merge = check_merge(self.merge_fn)
        return_carry = pick_switch(self, "return_carry", return_carry)
        found = [
            layer(
                inputs,
                initial_carry=carries[i],
                init_key=init_keys[i],
                rng=rngs[i],
                masks=given[i],
                reverse=bool(i),
                keep_order=True,
                **options,
            )
            for i, layer in enumerate(self._layers())
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
        rng: Key = None,
        dropout: Rate | None = None,
        recurrent_dropout: Rate | None = None,
    ) -> tuple[RecurrentMasks, RecurrentMasks]:
        """Draws the masks that a call with the same arguments would have dropped with.

        Args:
          inputs: an array, of which only shape and dtype matter.
          time_major, deterministic, rng, dropout, recurrent_dropout: as at the call.

        Returns:
          RecurrentMasks for each direction, to be used as `masks=`.

        Raises:
          ValueError, TypeError, flax.errors.InvalidRngError: as the call.
        """
        layers = self._layers()
        first, second = (
            layer.sample_masks(
                inputs,
                time_major=pick_switch(self, "time_major", time_major),
                deterministic=deterministic,
                rng=key,
                dropout=dropout,
                recurrent_dropout=recurrent_dropout,
            )
            for layer, key in zip(layers, _for_each(rng, "rng"), strict=True)
        )
        return first, second

    def _layers(self) -> tuple[RecurrentLayer, RecurrentLayer]:
        check_directions(self.forward_rnn, self.backward_rnn, RecurrentLayer)
        return self.forward_rnn, self.backward_rnn  # type: ignore[return-value]


def _for_each(key: Key, name: str) -> Any:
    return (None, None) if key is None else jax.random.split(check_key(key, name))
