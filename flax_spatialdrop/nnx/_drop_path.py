"""Drop path, or stochastic depth: whole samples of a residual branch, or the branch itself."""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from .._checks import is_static
from .._docs import completed_by
from .._host import key_and_rate
from .._ops import path
from .._typing import Array, PathMode, Rate, ResidualMode
from ._base import Declared, Regularizer, call_of

_State: TypeAlias = "nnx.State[Any, Any]"


class DropPath(Regularizer, of=path.drop_path, recipe=path.path_recipe):
    """The module of `flax_spatialdrop.drop_path`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.nnx import DropPath
      >>> layer, x = DropPath(0.2), jnp.ones((2, 4))
      >>> y = x + layer(jnp.tanh(x), rngs=jax.random.key(0))
    """

    _: KW_ONLY
    mode: PathMode = "row"
    batch_axis: int | Sequence[int] = 0
    scale: bool = True


class ResidualDropPath(Declared, of=path.residual_drop_path):
    """The module of `flax_spatialdrop.residual_drop_path`.

    A branch that is skipped leaves its variables as they were, such as the statistics of a batch
    norm and its streams of keys. With mode="batch" it cannot make variables, as `sow` does, and
    values that it writes to an nnx.Param are lost.

    Args:
      branch: a module or function that computes from x what is added to x. With mode="batch" a
        function must not write to modules or streams that it closes over: make it a module, or pass
        them as arguments.
      rate: probability to drop the branch, in [0, 1]; a number or a scalar array; None if each call
        gives one.
      deterministic: True returns x + branch(x); set by `train()` and `eval()`, and overruled at the
        call.

    Example:
      Deeper blocks are dropped more often:

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
    """

    branch: Callable[..., jax.Array]
    rate: Rate | None
    _: KW_ONLY
    mode: ResidualMode = "row"
    batch_axis: int | Sequence[int] = 0
    scale: bool = True
    groups: int = 1

    @completed_by(key_and_rate, Regularizer.__call__)
    def __call__(
        self,
        inputs: Array,
        *args: Any,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
        rate: Rate | None = None,
        row_args: Sequence[Any] = (),
        **kwargs: Any,
    ) -> jax.Array:
        """Runs the block."""
        options = self.mode, self.batch_axis, self.scale, self.groups, row_args
        block = path.block_for(inputs, *options)
        call = call_of(self, deterministic, rngs)
        key, rate = key_and_rate(call, inputs, block, self.rate if rate is None else rate)
        x = jnp.asarray(inputs)
        is_never_run = is_static(rate, 1.0)
        drawn = block.draw(key, x, 0.0 if is_never_run else rate)

        def run(called: dict[str, Any], x: jax.Array) -> jax.Array:
            def branch(x: jax.Array, *rows: Any) -> Any:
                return called["branch"](x, *rows, *called["args"], **called["kwargs"])

            return drawn.run(branch, x, called["row_args"])

        called = {"branch": self.branch, "row_args": row_args, "args": args, "kwargs": kwargs}
        if drawn.mask is None and not is_never_run:
            return run(called, x)
        state, run_pure = _as_pure(run, called)
        if drawn.mask is None:  # the branch is only checked
            jax.eval_shape(run_pure, state, x)
            return x

        def run_in_form(state: _State, x: jax.Array) -> tuple[jax.Array, _State]:
            y, after = run_pure(state, x)
            path.check_forms_stay(path.forms(state), path.forms(after))
            return y, after

        done: tuple[jax.Array, _State]
        done = path.run_or_skip(drawn.mask, run_in_form, lambda state, x: (x, state), state, x)
        nnx.update(called, done[1])
        return done[0]


def _as_pure(
    run: Callable[[Any, jax.Array], jax.Array], called: Any
) -> tuple[_State, Callable[[_State, jax.Array], tuple[jax.Array, _State]]]:
    """Returns the state that run(called, x) may change, and run as a pure function of it.

    For example, if the branch is a Linear and a BatchNorm:

        y, state = run_pure(state, x)

    state holds the mean and variance of the BatchNorm. The kernel and bias are constants of
    run_pure: they have gradients, but `cond` does not return them, since it would copy them.
    """
    kinds = nnx.Param, (nnx.Variable, nnx.PathContains("branch")), ...
    graph, params, state, arrays = nnx.split(called, *kinds, graph=True)  # type: ignore[misc]

    def run_pure(state: _State, x: jax.Array) -> tuple[jax.Array, _State]:
        copy = nnx.merge(graph, params, state, arrays)
        y = run(copy, x)
        return y, nnx.split(copy, *kinds, graph=True)[2]  # type: ignore[misc]

    return state, run_pure
