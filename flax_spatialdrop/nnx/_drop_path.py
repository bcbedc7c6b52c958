"""Drop path, or stochastic depth: whole samples of a residual branch, or the branch itself."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .._checks import is_static
from .._host import key_and_rate
from .._ops.path import (
    check_branch,
    check_branch_fits,
    check_forms_stay,
    draw_branch,
    forms,
    path_recipe,
    run_or_skip,
)
from .._typing import Array, PathMode, Rate
from ._base import Regularizer, Stochastic, call_of, hashable


class DropPath(Regularizer):
    """Drops the output of a residual branch, sample by sample or for the whole batch.

        y = x * m / (1 - rate),   m[batch] ~ Bernoulli(1 - rate), or one m for all of x

    The module of `flax_spatialdrop.drop_path`. `ResidualDropPath` is for branches that are not to
    run where the whole batch is dropped.

    Args:
      rate: probability to drop, in [0, 1]; a number or a scalar array;
        None if each call gives one.
      mode: "row" for a draw per index of the batch axis, "batch" for one draw for all of x.
      batch_axis: the axis of samples, or several; negative axes count from the end.
      scale: False leaves kept values as they are, in place of x / (1 - rate).
      deterministic: True returns the inputs as they are; set by `train()` and `eval()`, and
        overruled at the call.
      rng_collection: the name of the stream of `rngs` that the key is asked of (default "dropout").
      rngs: a stream is forked from it; without, the module holds no state and takes `rngs=` (a key
        will do) at the call.

    Example:
      Residual blocks of which deeper ones are dropped more often:

      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_spatialdrop import linear_rates
      >>> from flax_spatialdrop.nnx import DropPath
      >>> class Block(nnx.Module):
      ...     def __init__(self, rate, rngs):
      ...         self.dense = nnx.Linear(4, 4, rngs=rngs)
      ...         self.drop_path = DropPath(rate, rngs=rngs)
      ...     def __call__(self, x):
      ...         return x + self.drop_path(self.dense(x))
      >>> rngs = nnx.Rngs(params=0, dropout=1)
      >>> model = nnx.Sequential(*[Block(rate, rngs) for rate in linear_rates(0.3, 4)])
      >>> y = model(jnp.ones((2, 4)))

    Reference: Huang et al., Deep Networks with Stochastic Depth, 2016, https://arxiv.org/abs/1603.09382
    """

    def __init__(
        self,
        rate: Rate | None,
        *,
        mode: PathMode = "row",
        batch_axis: int | Sequence[int] = 0,
        scale: bool = True,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        self.mode = mode
        self.batch_axis = hashable(batch_axis)
        self.scale = scale
        super().__init__(rate, deterministic, rng_collection, rngs)

    def _recipe(self, inputs):
        return path_recipe(inputs, self.mode, self.batch_axis, self.scale)


class ResidualDropPath(Stochastic):
    """A residual block with drop path, which with mode="batch" does not run a dropped branch.

        y = x + drop_path(branch(x))

    The module of `flax_spatialdrop.residual_drop_path`. A branch that is skipped leaves its
    variables, such as the statistics of a batch norm and its streams of keys, as they were. With
    mode="batch" it cannot make new variables, as `sow` does, and what it writes to an nnx.Param is
    lost.

    Args:
      branch: a module, or a function, from x to what is added to x. With mode="batch" a function
        must not write to modules or streams that it closes over: make it a module, or hand them
        over as arguments.
      rate: probability to drop the branch, in [0, 1]; a number or a scalar array;
        None if each call gives one.
      mode: "row" for a draw per index of the batch axis, "batch" for one draw for all of x.
      batch_axis: the axis of samples, or several; negative axes count from the end.
      scale: False leaves the branch as it is where it is kept, in place of branch(x) / (1 - rate).
      deterministic: True returns x + branch(x); set by `train()` and `eval()`, and overruled at
        the call.
      rng_collection: the name of the stream of `rngs` that the key is asked of (default "dropout").
      rngs: a stream is forked from it; without, the block itself holds no state and takes `rngs=`
        (a key will do) at the call.

    Example:
      Blocks of which deeper ones are dropped more often:

      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_spatialdrop import linear_rates
      >>> from flax_spatialdrop.nnx import ResidualDropPath
      >>> rngs = nnx.Rngs(params=0, dropout=1)
      >>> def block(rate):
      ...     first, last = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)
      ...     branch = nnx.Sequential(first, nnx.relu, last)
      ...     return ResidualDropPath(branch, rate, mode="batch", rngs=rngs)
      >>> model = nnx.Sequential(*map(block, linear_rates(0.3, 4)))
      >>> y = model(jnp.ones((2, 4)))

    Reference: Huang et al., Deep Networks with Stochastic Depth, 2016, https://arxiv.org/abs/1603.09382
    """

    rate: Any = None

    def __init__(
        self,
        branch: Callable[..., jax.Array],
        rate: Rate | None,
        *,
        mode: PathMode = "row",
        batch_axis: int | Sequence[int] = 0,
        scale: bool = True,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        check_branch(branch)
        self.branch = branch
        self.rate = rate
        self.mode = mode
        self.batch_axis = hashable(batch_axis)
        self.scale = scale
        super().__init__(deterministic, rng_collection, rngs)

    def __call__(
        self,
        inputs: Array,
        *args: Any,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
        rate: Rate | None = None,
        **kwargs: Any,
    ) -> jax.Array:
        """Runs the block.

        Args:
          inputs: floating or complex.
          *args: what the branch is called with after inputs: arrays, modules, nnx.Rngs, anything.
          deterministic: in place of the attribute. The branch is not told.
          rngs: nnx.Rngs, a stream of it or a key to draw with, in place of the block's stream. The
            branch is not told.
          rate: in place of the attribute (which may be None then), such as a schedule's value; may
            be traced.
          **kwargs: as args.

        Returns:
          An array of the shape and dtype of inputs.

        Raises:
          ValueError: for a branch whose output has not the shape and dtype of inputs, or that
            makes variables with mode="batch"; a mode, batch_axis or rate that does not fit; no
            `deterministic` anywhere; a mask to be drawn and no key.
          TypeError: for integer or bool inputs, a traced `deterministic`, another type.
        """
        recipe = path_recipe(inputs, self.mode, self.batch_axis, self.scale)
        call = call_of(self, deterministic, rngs)
        key, rate = key_and_rate(call, inputs, recipe, self.rate if rate is None else rate)
        x = jnp.asarray(inputs)
        drawn, dropped = draw_branch(key, rate, recipe, self.mode)

        def run(called: dict[str, Any], x: jax.Array) -> jax.Array:
            output = called["branch"](x, *called["args"], **called["kwargs"])
            return x + dropped(check_branch_fits(output, x))

        never = is_static(rate, 1.0)
        called = {"branch": self.branch, "args": args, "kwargs": kwargs}
        if drawn is None and not never:
            return run(called, x)
        # Parameters stay out of what `cond` returns, since it would copy them.
        kinds = nnx.Param, (nnx.Variable, nnx.PathContains("branch")), ...
        graph, params, others, arrays = nnx.split(called, *kinds)  # type: ignore[misc]

        def run_pure(others: nnx.State, x: jax.Array) -> tuple[jax.Array, nnx.State]:
            called = nnx.merge(graph, params, others, arrays)
            y = run(called, x)
            return y, nnx.split(called, *kinds)[2]  # type: ignore[misc]

        if drawn is None:
            jax.eval_shape(run_pure, others, x)
            return x

        def run_in_form(others: nnx.State, x: jax.Array) -> tuple[jax.Array, nnx.State]:
            y, after = run_pure(others, x)
            check_forms_stay(forms(others), forms(after))
            return y, after

        y, others = run_or_skip(drawn, run_in_form, lambda others, x: (x, others), others, x)
        nnx.update(called, others)
        return y
