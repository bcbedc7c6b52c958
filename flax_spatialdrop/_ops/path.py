"""Drop path, or stochastic depth: drops samples of a residual branch, or the whole branch."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._apply import Recipe, by_mask, drop, kept_or_zero
from .._checks import check_input, check_switch, is_static, needs_no_key, shown
from .._compat import CAN_REMAT_INSIDE
from .._noise_shape import path_noise_shape
from .._random.sharding import vary_alike
from .._summary import current_recorder
from .._typing import Array, Key, PathMode, Rate


def drop_path(
    key: Key,
    x: Array,
    rate: Rate,
    *,
    mode: PathMode = "row",
    batch_axis: int | Sequence[int] = 0,
    scale: bool = True,
) -> jax.Array:
    """Drops the output of a residual branch, for each sample or for the whole batch.

        y = x * m / (1 - rate),   m[batch] ~ Bernoulli(1 - rate), or one m for all of x

    With mode="row" this is `sample_dropout`, but the batch axis may be any axis. With mode="batch",
    use `residual_drop_path` to save the computation of dropped branches.

    Args:
      key, rate: as in `dropout`.
      x: any shape, floating or complex.
      mode: "row" for one draw per sample, or "batch" for one draw for all of x, which then needs no
        batch axis.
      batch_axis: the axis of samples, or a tuple of axes. Negative axes count from the end. Only
        used with mode="row".
      scale: whether to divide kept values by 1 - rate.

    Returns:
      An array with the shape, dtype and sharding of x.

    Raises:
      ValueError: if mode is unknown, or x does not have the axis batch_axis; else as in `dropout`.
      TypeError: as in `dropout`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import drop_path
      >>> y = drop_path(jax.random.key(0), jnp.ones((4, 3)), 0.5)
      >>> bool((y == y[:, :1]).all())  # all elements of a sample share a draw
      True

    Reference: Huang et al., Deep Networks with Stochastic Depth, 2016,
    https://arxiv.org/abs/1603.09382
    """
    return drop(key, x, rate, path_recipe(x, mode, batch_axis, scale))


def residual_drop_path(
    key: Key,
    x: Array,
    branch: Callable[[jax.Array], jax.Array],
    rate: Rate,
    *,
    mode: PathMode = "row",
    batch_axis: int | Sequence[int] = 0,
    scale: bool = True,
) -> jax.Array:
    """A residual block with drop path; with mode="batch", a dropped branch is not computed.

        y = x + drop_path(key, branch(x), rate)

    With mode="batch" the branch is one side of `jax.lax.cond`. If it is dropped, neither the
    forward nor the backward pass computes it, and y is x. If it is kept, the backward pass computes
    it again, as with `jax.checkpoint`, so that only x is stored. Under `jax.vmap` over keys, `cond`
    computes both sides and selects one.

    Args:
      key: as in `dropout`.
      x: any shape, floating or complex.
      branch: a pure function of x. Arrays that it closes over have gradients too. If the rate is
        the number 1, only the shape of its output is computed.
      rate: as in `dropout`; the probability to drop the branch.
      mode: "row" for one draw per sample, or "batch" for one draw for all of x.
      batch_axis: the axis of samples, or a tuple of axes; only used with mode="row".
      scale: whether to divide the output of a kept branch by 1 - rate.

    Returns:
      An array with the shape and dtype of x.

    Raises:
      ValueError: if the output of the branch does not have the shape and dtype of x; else as in
        `drop_path`.
      TypeError: if branch is not a function; else as in `drop_path`.

    Example:
      Deeper blocks are dropped more often:

      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import linear_rates, residual_drop_path
      >>> def network(key, x, weights):
      ...     rates = linear_rates(0.5, len(weights))
      ...     keys = jax.random.split(key, len(weights))
      ...     for key, w, rate in zip(keys, weights, rates):
      ...         x = residual_drop_path(key, x, lambda x: jnp.tanh(x @ w), rate, mode="batch")
      ...     return x
      >>> weights = [jnp.ones((4, 4))] * 3
      >>> jax.jit(network)(jax.random.key(0), jnp.ones((2, 4)), weights).shape
      (2, 4)

    Reference: Huang et al., Deep Networks with Stochastic Depth, 2016,
    https://arxiv.org/abs/1603.09382
    """
    check_branch(branch)
    recipe = path_recipe(x, mode, batch_axis, scale)
    rate = recipe.check_rate(rate)
    x = jnp.asarray(x)

    def checked(x: jax.Array) -> jax.Array:
        return check_branch_fits(branch(x), x)

    if is_static(rate, 1.0):
        jax.eval_shape(checked, x)
        return x
    mask, dropped = draw_branch(key, rate, recipe, mode)
    if mask is None:
        return x + dropped(checked(x))
    y: jax.Array = run_or_skip(mask, lambda x: x + dropped(checked(x)), lambda x: x, x)
    return y


def draw_branch(
    key: Key, rate: Rate, recipe: Recipe, mode: PathMode
) -> tuple[jax.Array | None, Callable[[jax.Array], jax.Array]]:
    """Returns the mask that decides whether a branch runs, and a function that drops its output.

    The mask has one entry. It is None if the branch always runs: with mode="row", at a rate of 0 or
    1, and while a summary is made, since the summary lists what is inside of dropped branches too.
    """
    if mode == "row" or needs_no_key(rate) or current_recorder() is not None:
        return None, lambda y: drop(key, y, rate, recipe)
    mask = recipe.sample(key, rate, recipe.noise_shape)
    return mask, lambda y: recipe.apply(y, mask, rate)


def path_recipe(x: Array, mode: PathMode, batch_axis: int | Sequence[int], scale: bool) -> Recipe:
    """Returns the recipe of drop path for x, which is checked here."""
    check_switch(scale, "scale")
    noise_shape = path_noise_shape(check_input(x).shape, mode, batch_axis)
    if scale:
        return Recipe(noise_shape)
    return Recipe(noise_shape, apply=_apply_unscaled, apply_key=None)


def check_branch(branch: Any) -> None:
    """Raises unless a branch can be called."""
    if not callable(branch):
        raise TypeError(
            f"branch must be a function of x or a module, given before rate: got {shown(branch)}"
        )


def check_branch_fits(output: Any, x: Array) -> jax.Array:
    """Returns the output of a branch, or raises if it cannot be added to x."""
    if getattr(output, "shape", None) != x.shape or getattr(output, "dtype", None) != x.dtype:
        is_array = hasattr(output, "shape") and hasattr(output, "dtype")
        got = f"shape {output.shape} and dtype {output.dtype}" if is_array else shown(output)
        if is_array and output.shape == x.shape:
            got += "; cast it by .astype(x.dtype), or give its layers a dtype"
        raise ValueError(
            "the branch of a residual block must return an array that can be added to x, of shape "
            f"{x.shape} and dtype {x.dtype}: got {got}"
        )
    checked: jax.Array = output
    return checked


def forms(variables: Any) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Returns the shape and dtype of each variable, by its path."""
    leaves = jax.tree.leaves_with_path(jax.eval_shape(lambda: variables))
    return {jax.tree_util.keystr(path): (leaf.shape, leaf.dtype) for path, leaf in leaves}


def check_forms_stay(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Raises if a branch that may be skipped made variables, or changed their shape or dtype."""
    changed = {path for path, _ in before.items() ^ after.items()}
    if changed:
        raise ValueError(
            "with mode='batch' a branch must make no variables, such as sown or captured "
            "intermediates, and keep the shape and dtype of those it has: got a change of "
            f"{', '.join(sorted(changed))}"
        )


def run_or_skip(
    mask: jax.Array, run: Callable[..., Any], skip: Callable[..., Any], *operands: Any
) -> Any:
    """Returns run(*operands) if the mask, which has one entry, is True; else skip(*operands).

    Both checkpoints are needed. Without the inner one, `cond` would keep the residuals of `run`,
    and fill them with zeros when it skips. Without the outer one, it would copy the operands that
    it keeps, including all weights.
    """

    @partial(jax.checkpoint, prevent_cse=False)
    def either(mask: jax.Array, *operands: Any) -> Any:
        kept = jax.checkpoint(run, prevent_cse=False) if CAN_REMAT_INSIDE else run
        return jax.lax.cond(mask.reshape(()), kept, skip, *operands)

    return either(*vary_alike((mask, *operands)))


def _apply_unscaled(x: Array, mask: Array, rate: Rate) -> jax.Array:
    return by_mask(kept_or_zero, mask, x, np.float32(1))
