"""Recurrent layers with dropout, over whole sequences: LSTM, GRU, SimpleRNN and any other cell."""

import abc
from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict, lift
from flax.core.scope import CollectionFilter as Filter
from flax.core.scope import DenyList, PRNGSequenceFilter, in_filter, union_filters
from flax.linen.transforms import lift_direct_transform
from flax.typing import InOutScanAxis
from jax.nn.initializers import Initializer

from .._checks import check_key, check_whole, shown
from .._compat import linen_promote_dtype as promote_dtype
from .._docs import completed_by
from .._random.sharding import vary_alike
from .._recurrent import spec
from .._recurrent.any_cell import check_cell, spec_of_cell, step_of_cell
from .._recurrent.layer import Fused, draw_masks, run_both, run_layer, sample_both
from .._recurrent.scan import scan_sequence
from .._recurrent.spec import CellSpec, Options, RecurrentMasks, Shared, read_call, split_key
from .._recurrent.step import Weights, gru, lstm, simple
from .._typing import Array, AxisNames, Key, Rate, Shape
from ._base import Stochastic, call_of


class RecurrentLayer(Options, Stochastic):
    """The base of all recurrent layers, which differ in their cell.

    Attributes:
      deterministic: True drops nothing (zoneout takes the mean); to be given here or at the call,
        if a rate is not 0.
    """

    deterministic: bool | None = None
    rng_collection: str = "dropout"
    axis_name: AxisNames | None = None

    @abc.abstractmethod
    def _flax_cell(self) -> nn.RNNCellBase:
        """Flax's cell, which makes the parameters and the first carry."""

    @nn.compact
    @completed_by(run_layer, read_call)
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
          initial_carry: a carry that another call returned; None starts from carry_init.
          init_key: a key for carry_init.
          deterministic: as the attribute; exactly one of them must be given, if a rate is not 0.
          rng: the key to draw with, in place of one of the stream.
        """
        options = time_major, seq_lengths, reverse, keep_order, return_carry
        inputs, layer = read_call(self, inputs, dropout, recurrent_dropout, *options)
        cell, step = self._flax_cell(), layer.sequence.step
        key = jax.random.key(0) if init_key is None else check_key(init_key, "init_key")
        first = cell.initialize_carry(key, step)
        carry = first if initial_carry is None else spec.check_carry(initial_carry, first)
        if self.is_initializing():
            cell(carry, jnp.zeros(step, inputs.dtype))
        inputs, loop = self._loop(cell, inputs, carry)
        find_call = partial(call_of, self, deterministic, rng)
        return run_layer(layer, loop, inputs, carry, masks, find_call)

    @completed_by(draw_masks, read_call)
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
        """Draws the masks that a call with the same arguments drops with."""
        _, layer = read_call(self, inputs, dropout, recurrent_dropout, time_major)
        return draw_masks(layer, partial(call_of, self, deterministic, rng))


class Sized(nn.Module):
    """Puts the size before all other fields, without `kw_only`, which changes signatures."""

    features: int


class FusedLayer(Fused, RecurrentLayer, Sized):
    """The base of LSTM, GRU and SimpleRNN: the parameters of Flax's cell, and our own loop.

    Attributes:
      features: size of the hidden state.
      activation_fn, kernel_init, recurrent_kernel_init, bias_init: as in Flax's cell.
      dtype, param_dtype, carry_init: as in Flax's cell.
      gate_fn: as in Flax's cell.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import LSTM
      >>> layer, x = LSTM(16, dropout=0.2, recurrent_dropout=0.2), jnp.ones((4, 10, 8))
      >>> variables = layer.init(jax.random.key(0), x, deterministic=True)
      >>> rngs = {"dropout": jax.random.key(1)}
      >>> layer.apply(variables, x, deterministic=False, rngs=rngs).shape
      (4, 10, 16)
    """

    activation_fn: Callable[..., Any] = nn.tanh
    kernel_init: Initializer = nn.linear.default_kernel_init
    recurrent_kernel_init: Initializer = nn.initializers.orthogonal()
    bias_init: Initializer = nn.initializers.zeros_init()
    dtype: Any = None
    param_dtype: Any = jnp.float32
    carry_init: Initializer = nn.initializers.zeros_init()

    _feature_axes: ClassVar[Any] = 1

    @nn.nowrap
    def _flax_cell(self) -> Any:
        shared = {*self._arguments} & {*self._flax_class.__dataclass_fields__}
        names = shared - {"parent", "name", "dtype"}  # the loop casts to dtype
        return self._flax_class(name="cell", **{name: getattr(self, name) for name in names})

    @nn.nowrap
    def _cell_spec(self, step: Shape) -> CellSpec:
        return self._equations(self).cell_of(check_whole(self.features, "features", least=0))

    @nn.nowrap
    def _loop(self, cell: Any, inputs: Array, carry: Any) -> tuple[jax.Array, Callable[..., Any]]:
        if not self.is_initializing():
            # Computes nothing, but Flax raises its own error if a parameter is missing or misfit.
            *batch, _ = jax.tree.leaves(carry)[-1].shape
            step = jax.ShapeDtypeStruct((*batch, inputs.shape[-1]), inputs.dtype)
            with jax.numpy_dtype_promotion("standard"):  # which Flax's cells rely on
                jax.eval_shape(cell, carry, step)
        params = nn.unbox(cell.variables["params"])
        weights = self._weights(lambda name: (params[name]["kernel"], params[name].get("bias")))
        inputs, *kernels = promote_dtype(inputs, *weights, dtype=self.dtype)
        loop = partial(scan_sequence, self._equations(self), Weights(*kernels), unroll=self.unroll)
        return jnp.asarray(inputs), loop


class LSTM(FusedLayer, of=lstm):
    """In place of `nn.RNN(nn.LSTMCell(features))`, with its parameters and options."""

    gate_fn: Callable[..., Any] = nn.sigmoid

    _flax_class, _network = nn.LSTMCell, staticmethod(lstm)
    _dense_layers = "ii if ig io", "hi hf hg ho"


class GRU(FusedLayer, of=gru):
    """In place of `nn.RNN(nn.GRUCell(features))`, with its parameters and options."""

    gate_fn: Callable[..., Any] = nn.sigmoid

    _flax_class, _network = nn.GRUCell, staticmethod(gru)
    _dense_layers = "ir iz in", "hr hz hn"


class SimpleRNN(FusedLayer, of=simple):
    """In place of `nn.RNN(nn.SimpleCell(features))`, with its parameters and options."""

    _flax_class, _network = nn.SimpleCell, staticmethod(simple)
    _activations = ("activation_fn",)
    _dense_layers = "i", "h"


class Around(nn.Module):
    """Puts the cell before all other fields, as `Sized` does the size."""

    cell: nn.RNNCellBase


class RNN(RecurrentLayer, Around, of=step_of_cell):
    """In place of `nn.RNN(cell)`, with its parameters.

    Attributes:
      variable_axes, variable_broadcast, variable_carry, split_rngs: what happens to the variables
        and streams of the cell from step to step, as in `nn.RNN`. By default each step draws anew,
        except for parameters, and all mutable collections but "params" and "intermediates" are
        carried (variable_carry=None).

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import RNN
      >>> layer, x = RNN(nn.MGUCell(16), recurrent_dropout=0.2), jnp.ones((4, 10, 8))
      >>> rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
      >>> layer.init_with_output(rngs, x, deterministic=False)[0].shape
      (4, 10, 16)
    """

    variable_axes: Mapping[Filter, InOutScanAxis] = FrozenDict()
    variable_broadcast: Filter = "params"
    variable_carry: Filter | None = None
    split_rngs: Mapping[PRNGSequenceFilter, bool] = FrozenDict(
        {"params": False, DenyList("params"): True}
    )

    _dtypes = np.generic

    def __post_init__(self) -> None:
        check_cell(self.cell, nn.Module, "flax.linen.RNNCellBase")
        super().__post_init__()

    @nn.nowrap
    def _flax_cell(self) -> Any:
        return self.cell

    @nn.nowrap
    def _cell_spec(self, step: Shape) -> CellSpec:
        first = jax.eval_shape(lambda: self.cell.initialize_carry(jax.random.key(0), step))
        return spec_of_cell(first, step, self._feature_axes)

    @nn.nowrap
    def _loop(self, cell: Any, inputs: Array, carry: Any) -> tuple[jax.Array, Callable[..., Any]]:
        structure = jax.tree.structure(carry)

        def loop(
            xs: jax.Array, parts: Any, fixed: Any, stepwise: Any, *, time_axis: int
        ) -> tuple[Any, jax.Array]:
            xs, parts, fixed, stepwise, _ = vary_alike((xs, parts, fixed, stepwise, cell.variables))

            def body(cell: nn.Module, parts: Any, part: Any, fixed: Any) -> Any:
                # Once more, because Flax first traces a step without the types of a shard_map.
                parts, (x, each), fixed, _ = vary_alike((parts, part, fixed, cell.variables))

                def drop(step: Callable[..., Any]) -> Any:
                    after, y, rest = step_of_cell(step, structure, parts, x, fixed, each)
                    return (after, y), rest

                return as_function(drop, cell)

            scan = nn.scan(body, in_axes=(0, nn.broadcast), **self._lifting(cell))
            last, outputs = scan(cell, parts, (jnp.moveaxis(xs, time_axis, 0), stepwise), fixed)
            return last, jnp.moveaxis(outputs, 0, time_axis)

        return jnp.asarray(inputs), loop

    @nn.nowrap
    def _lifting(self, cell: nn.Module) -> dict[str, Any]:
        """What happens to the cell's variables and streams from step to step."""
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
            "unroll": spec.check_unroll(self.unroll),
        }


def as_function(run: Callable[..., Any], cell: nn.Module) -> Any:
    """Calls `run(step)`, where `step(carry, x) -> carry, y, variables` is the cell.

    `run` may trace the step, and returns a result and the variables that it returned.
    """

    def lifted(call: Callable[..., Any], scope: Any) -> Any:
        def inner(scope_fn: Any, repack_fn: Any, variables: Any, rngs: Any) -> Any:
            def step(carry: Any, x: Any) -> Any:
                scope = scope_fn(variables, rngs)
                carry, y = call(scope, carry, x)
                return carry, y, repack_fn(scope)

            return run(step)

        return lift.pack(inner, (True,), (True,), (True,), name="rnn")(scope)

    return lift_direct_transform(lifted, (lambda cell, carry, x: cell(carry, x),), cell)


class Bidirectional(Stochastic, of=run_both):
    """In place of `nn.Bidirectional`, with its parameters, for layers of this package.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import GRU, Bidirectional
      >>> layer, x = Bidirectional(GRU(16)), jnp.ones((4, 10, 8))
      >>> layer.init_with_output(jax.random.key(0), x)[0].shape
      (4, 10, 32)
    """

    forward_rnn: RecurrentLayer
    backward_rnn: RecurrentLayer | None = None
    merge_fn: spec.Merge = "concat"
    time_major: bool = False
    return_carry: bool = False

    def __post_init__(self) -> None:
        if self.backward_rnn is None and isinstance(self.forward_rnn, RecurrentLayer):
            # Deep, since the cell of `RNN` is a module too.
            self.backward_rnn = self.forward_rnn.clone(_deep_clone=True, name=None)
        super().__post_init__()

    @completed_by(run_layer, read_call)
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
          initial_carry, masks: a pair, one for each direction.
          init_key: a key for the first carries; it is split.
          deterministic, dropout, recurrent_dropout: as in the layers.
          rng: the key to draw with, in place of one of the stream; it is split.
        """
        keys = {"rng": split_key(rng, "rng"), "init_key": split_key(init_key, "init_key")}
        pairs = {**keys, "initial_carry": initial_carry, "masks": masks}
        shared = Shared(time_major, deterministic, dropout, recurrent_dropout)
        return run_both(self, RecurrentLayer, inputs, pairs, shared, return_carry, seq_lengths)

    @completed_by(draw_masks, read_call)
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
        """Draws the masks of each direction, as a pair."""
        shared = Shared(time_major, deterministic, dropout, recurrent_dropout)
        return sample_both(self, RecurrentLayer, inputs, {"rng": split_key(rng, "rng")}, shared)
