"""Any recurrent cell over whole sequences, with dropout of inputs and state."""

from collections.abc import Callable, Mapping
from functools import reduce
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

from .._checks import shown
from .._random.sharding import vary_alike
from .._recurrent.any_cell import is_cell, kind_of_cell, step_of_cell
from .._recurrent.spec import check_unroll
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
