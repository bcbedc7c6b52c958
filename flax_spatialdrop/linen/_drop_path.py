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
from .._typing import Array, AxisNames, Key, PathMode, Rate, ResidualMode
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
    axis_name: AxisNames | None = None


class ResidualDropPath(Stochastic, of=path.residual_drop_path):
    """The module of `flax_spatialdrop.residual_drop_path`.

    A branch that is skipped leaves its variables as they were, such as the statistics of a batch
    norm. With mode="batch" it cannot make variables except in `init`: `sow` and
    `capture_intermediates` raise an error. In `init` nothing is dropped.

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
    mode: ResidualMode = "row"
    batch_axis: int | Sequence[int] = 0
    scale: bool = True
    groups: int = 1
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    axis_name: AxisNames | None = None

    @nn.compact
    @completed_by(key_and_rate, Regularizer.__call__)
    def __call__(
        self,
        inputs: Array,
        *args: Any,
        deterministic: bool | None = None,
        rng: Key = None,
        rate: Rate | None = None,
        row_args: Sequence[Any] = (),
        **kwargs: Any,
    ) -> jax.Array:
        """Runs the block."""
        path.check_branch(self.branch)
        options = self.mode, self.batch_axis, self.scale, self.groups, row_args
        block = path.block_for(inputs, *options)
        call = call_of(self, deterministic, rng)
        key, rate = key_and_rate(call, inputs, block, self.rate if rate is None else rate)
        x = jnp.asarray(inputs)
        if self.is_initializing():  # the branch makes its variables
            rate = 0.0
        if is_static(rate, 1.0):
            return x
        drawn = block.draw(key, x, rate)

        def run(module: "ResidualDropPath", x: jax.Array) -> jax.Array:
            def branch(x: jax.Array, *rows: Any) -> Any:
                return module.branch(x, *rows, *args, **kwargs)

            return drawn.run(branch, x, row_args)

        if drawn.mask is None:
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

        y: jax.Array = nn.remat(either, prevent_cse=False)(self, *vary_alike((drawn.mask, x)))
        return y
