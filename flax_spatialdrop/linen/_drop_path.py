"""Drop path, or stochastic depth: whole samples of a residual branch, or the branch itself."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .._checks import is_static
from .._compat import CAN_REMAT_INSIDE
from .._docs import completed_by
from .._host import key_and_rate
from .._ops import path
from .._random.sharding import vary_alike
from .._typing import Array, Key, PathMode, Rate
from ._base import Regularizer, Stochastic, call_of


class DropPath(Regularizer, of=path.drop_path, recipe=path.path_recipe):
    """The module of `flax_spatialdrop.drop_path`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import DropPath
      >>> x, rngs = jnp.ones((2, 4)), {"dropout": jax.random.key(0)}
      >>> y = x + DropPath(0.2).apply({}, jnp.tanh(x), deterministic=False, rngs=rngs)
    """

    rate: Rate | None
    mode: PathMode = "row"
    batch_axis: int | Sequence[int] = 0
    scale: bool = True
    deterministic: bool | None = None
    rng_collection: str = "dropout"


class ResidualDropPath(Stochastic, of=path.residual_drop_path):
    """The module of `flax_spatialdrop.residual_drop_path`.

    A branch that is skipped leaves its variables as they were, such as the statistics of a batch
    norm. With mode="batch" it cannot make variables except in `init`: `sow` and
    `capture_intermediates` raise an error.

    Attributes:
      branch: a module that computes from x what is added to x.
      rate: probability to drop the branch, in [0, 1]; a number or a scalar array; None if each call
        gives one.
      deterministic: True returns x + branch(x); to be given here or at the call.

    Example:
      Deeper blocks are dropped more often:

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
    """

    branch: nn.Module
    rate: Rate | None
    mode: PathMode = "row"
    batch_axis: int | Sequence[int] = 0
    scale: bool = True
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    @nn.compact
    @completed_by(key_and_rate, Regularizer.__call__)
    def __call__(
        self,
        inputs: Array,
        *args: Any,
        deterministic: bool | None = None,
        rng: Key = None,
        rate: Rate | None = None,
        **kwargs: Any,
    ) -> jax.Array:
        """Runs the block."""
        path.check_branch(self.branch)
        recipe = path.path_recipe(inputs, self.mode, self.batch_axis, self.scale)
        call = call_of(self, deterministic, rng)
        key, rate = key_and_rate(call, inputs, recipe, self.rate if rate is None else rate)
        x = jnp.asarray(inputs)
        if is_static(rate, 1.0) and not self.is_initializing():
            return x
        mask, dropped = path.draw_branch(key, rate, recipe, self.mode)

        def run(module: "ResidualDropPath", x: jax.Array) -> jax.Array:
            return x + dropped(path.check_branch_fits(module.branch(x, *args, **kwargs), x))

        if mask is None or self.is_initializing():  # `init` makes the variables of the branch
            return run(self, x)

        def run_in_form(module: "ResidualDropPath", x: jax.Array) -> jax.Array:
            before = path.forms(module.variables)
            y = run(module, x)
            path.check_forms_stay(before, path.forms(module.variables))
            return y

        # `run_or_skip`, with Flax's own `cond` and `remat`.
        def either(module: "ResidualDropPath", mask: jax.Array, x: jax.Array) -> jax.Array:
            kept = nn.remat(run_in_form, prevent_cse=False) if CAN_REMAT_INSIDE else run_in_form
            y: jax.Array = nn.cond(mask.reshape(()), kept, lambda module, x: x, module, x)
            return y

        y: jax.Array = nn.remat(either, prevent_cse=False)(self, *vary_alike((mask, x)))
        return y
