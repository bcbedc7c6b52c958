"""Drop path, or stochastic depth: whole samples of a residual branch, or the branch itself."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .._checks import is_static
from .._compat import CAN_REMAT_INSIDE
from .._host import key_and_rate
from .._ops.path import (
    check_branch,
    check_branch_fits,
    check_forms_stay,
    draw_branch,
    forms,
    path_recipe,
)
from .._typing import Array, Key, PathMode, Rate
from ._base import Regularizer, Stochastic, call_of


class DropPath(Regularizer):
    """Drops the output of a residual branch, sample by sample or for the whole batch.

        y = x * m / (1 - rate),   m[batch] ~ Bernoulli(1 - rate), or one m for all of x

    The module of `flax_spatialdrop.drop_path`. `ResidualDropPath` is for branches that are not to
    run where the whole batch is dropped.

    Attributes:
      rate: probability to drop, in [0, 1]; a number or a scalar array;
        None if each call gives one.
      mode: "row" for a draw per index of the batch axis, "batch" for one draw for all of x.
      batch_axis: the axis of samples, or several; negative axes count from the end.
      scale: False leaves kept values as they are, in place of x / (1 - rate).
      deterministic: True returns the inputs as they are; to be given here or at the call.
      rng_collection: the name of the stream that the key is asked of (default "dropout").

    Example:
      Residual blocks of which deeper ones are dropped more often:

      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> from flax_spatialdrop import linear_rates
      >>> from flax_spatialdrop.linen import DropPath
      >>> class Model(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x, train):
      ...         for rate in linear_rates(0.3, 4):
      ...             x = x + DropPath(rate, deterministic=not train)(nn.Dense(4)(x))
      ...         return x
      >>> x = jnp.ones((2, 4))
      >>> variables = Model().init(jax.random.key(0), x, train=False)
      >>> y = Model().apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)})

    Reference: Huang et al., Deep Networks with Stochastic Depth, 2016, https://arxiv.org/abs/1603.09382
    """

    rate: Rate | None
    mode: PathMode = "row"
    batch_axis: int | Sequence[int] = 0
    scale: bool = True
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    @nn.nowrap
    def _recipe(self, inputs):
        return path_recipe(inputs, self.mode, self.batch_axis, self.scale)


class ResidualDropPath(Stochastic):
    """A residual block with drop path, which with mode="batch" does not run a dropped branch.

        y = x + drop_path(branch(x))

    The module of `flax_spatialdrop.residual_drop_path`. A branch that is skipped leaves its
    variables, such as the statistics of a batch norm, as they were. With mode="batch" it cannot
    make new variables outside of `init`: `sow` and `capture_intermediates` are refused.

    Attributes:
      branch: a module from x to what is added to x.
      rate: probability to drop the branch, in [0, 1]; a number or a scalar array;
        None if each call gives one.
      mode: "row" for a draw per index of the batch axis, "batch" for one draw for all of x.
      batch_axis: the axis of samples, or several; negative axes count from the end.
      scale: False leaves the branch as it is where it is kept, in place of branch(x) / (1 - rate).
      deterministic: True returns x + branch(x); to be given here or at the call.
      rng_collection: the name of the stream that the key is asked of (default "dropout").

    Example:
      Blocks of which deeper ones are dropped more often:

      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> from flax_spatialdrop import linear_rates
      >>> from flax_spatialdrop.linen import ResidualDropPath
      >>> class Model(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x, train):
      ...         for rate in linear_rates(0.3, 4):
      ...             branch = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(4)])
      ...             x = ResidualDropPath(branch, rate, mode="batch")(x, deterministic=not train)
      ...         return x
      >>> x = jnp.ones((2, 4))
      >>> variables = Model().init(jax.random.key(0), x, train=False)
      >>> y = Model().apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)})

    Reference: Huang et al., Deep Networks with Stochastic Depth, 2016, https://arxiv.org/abs/1603.09382
    """

    branch: nn.Module
    rate: Rate | None
    mode: PathMode = "row"
    batch_axis: int | Sequence[int] = 0
    scale: bool = True
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    @nn.compact
    def __call__(
        self,
        inputs: Array,
        *args: Any,
        deterministic: bool | None = None,
        rng: Key = None,
        rate: Rate | None = None,
        **kwargs: Any,
    ) -> jax.Array:
        """Runs the block.

        Args:
          inputs: floating or complex.
          *args: what the branch is called with after inputs.
          deterministic: as the attribute; just one of the two must be given. The branch is not
            told.
          rng: the key to draw with, in place of the stream's.
          rate: in place of the attribute (which may be None then), such as a schedule's value; may
            be traced.
          **kwargs: as args.

        Returns:
          An array of the shape and dtype of inputs.

        Raises:
          ValueError: for a branch whose output has not the shape and dtype of inputs (at the number
            1 for rate only `init` looks), or that makes variables with mode="batch"; a mode,
            batch_axis or rate that does not fit; `deterministic` given twice or never.
          TypeError: for integer or bool inputs, a traced `deterministic`, another type.
          flax.errors.InvalidRngError: when a mask is to be drawn and the stream is missing.
        """
        check_branch(self.branch)
        recipe = path_recipe(inputs, self.mode, self.batch_axis, self.scale)
        call = call_of(self, deterministic, rng)
        key, rate = key_and_rate(call, inputs, recipe, self.rate if rate is None else rate)
        x = jnp.asarray(inputs)
        if is_static(rate, 1.0) and not self.is_initializing():
            return x
        drawn, dropped = draw_branch(key, rate, recipe, self.mode)

        def run(module: "ResidualDropPath", x: jax.Array) -> jax.Array:
            return x + dropped(check_branch_fits(module.branch(x, *args, **kwargs), x))

        if drawn is None or self.is_initializing():  # which makes the branch's variables
            return run(self, x)

        def run_in_form(module: "ResidualDropPath", x: jax.Array) -> jax.Array:
            before = forms(module.variables)
            y = run(module, x)
            check_forms_stay(before, forms(module.variables))
            return y

        # As `run_or_skip`, by Flax's own forms of the two.
        def either(module: "ResidualDropPath", mask: jax.Array, x: jax.Array) -> jax.Array:
            kept = run_in_form
            if CAN_REMAT_INSIDE:
                kept = nn.remat(kept, prevent_cse=False)
            return nn.cond(mask.reshape(()), kept, lambda module, x: x, module, x)

        return nn.remat(either, prevent_cse=False)(self, drawn, x)
