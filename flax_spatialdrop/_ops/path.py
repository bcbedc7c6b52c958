"""Drop path, or stochastic depth: drops samples of a residual branch, or the whole branch."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from .._apply import Recipe, by_mask, drop, kept_or_zero
from .._checks import (
    check_array,
    check_choice,
    check_input,
    check_key,
    check_known_rate,
    check_sequence,
    check_switch,
    check_whole,
    is_static,
    needs_no_key,
    shown,
)
from .._compat import CAN_REMAT_INSIDE
from .._noise_shape import check_rows, group_size, path_noise_shape, row_axis
from .._random.mask import drawn_rate
from .._random.sharding import vary_alike
from .._random.subset import sample_subset
from .._rates import count_kept
from .._summary import current_recorder
from .._typing import Array, Key, PathMode, Rate, ResidualMode
from .rows import add_to_rows, sharding_of_groups, take_rows


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
    branch: Callable[..., jax.Array],
    rate: Rate,
    *,
    mode: ResidualMode = "row",
    batch_axis: int | Sequence[int] = 0,
    scale: bool = True,
    groups: int = 1,
    row_args: Sequence[Any] = (),
) -> jax.Array:
    """A residual block with drop path, which need not compute what it drops.

        y = x + drop_path(key, branch(x), rate)                       mode="row" or "batch"
        y = x;   y[rows] += branch(x[rows]) * B / k,   k of B rows    mode="subset"

    With mode="row" the branch is computed for all rows.

    With mode="batch" the branch is one side of `jax.lax.cond`. If it is dropped, neither the
    forward nor the backward pass computes it, and y is x. If it is kept, the backward pass computes
    it again, as with `jax.checkpoint`, so that only x is stored. Under `jax.vmap` over keys, `cond`
    computes both sides and selects one.

    With mode="subset" the branch runs on k = round((1 - rate) * B) of the B rows, so its time and
    its memory fall by the rate. At a rate below 1 / (2 * B) that is all of them. The rows are drawn
    without replacement and keep their order: those with the smallest random bits, which are
    `jax.random.bits(key, [groups, B / groups], "uint32")`.
    A branch that looks at more than one row, such as a batch norm, sees the k rows only.

    Args:
      key: as in `dropout`.
      x: any shape, floating or complex.
      branch: a pure function of x, and of row_args if there are any. Arrays that it closes over
        have gradients too. If the rate is the number 1, only the shape of its output is computed.
      rate: as in `dropout`; the probability to drop the branch. With mode="subset" it is the
        fraction of rows to drop: a number, known when tracing.
      mode: "row" for one draw per sample, "batch" for one draw for all of x, or "subset" for a
        fixed number of samples.
      batch_axis: the axis of samples, or with mode="row" a tuple of axes; not used with
        mode="batch".
      scale: whether to scale the output of a kept branch: by 1 / (1 - rate), or with mode="subset"
        by B / k.
      groups: with mode="subset", the number of groups of B / groups adjacent rows, each of which
        keeps k / groups = round((1 - rate) * B / groups) by a draw of its own. Over a batch that is
        sharded, give a multiple of the number of shards: each device then keeps rows of its own,
        and nothing is sent. Otherwise devices gather all rows, and may all run the branch on the
        same k.
      row_args: more arguments of the branch, branch(x, *row_args), that have the rows of x along
        the same axis, such as an attention mask: arrays or pytrees of arrays. With mode="subset"
        the branch gets the same rows of them as of x. An array with one row is given as it is.

    Returns:
      An array with the shape and dtype of x.

    Raises:
      ValueError: if the output of the branch does not have the shape and dtype of its input; with
        mode="subset", if no row is kept, groups does not divide B, or row_args does not have the
        rows of x; else as in `drop_path`.
      TypeError: if branch is not a function, or if rate is an array with mode="subset"; else as in
        `drop_path`.

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
    https://arxiv.org/abs/1603.09382. For mode="subset": Oquab et al., DINOv2: Learning Robust
    Visual Features without Supervision, 2023, https://arxiv.org/abs/2304.07193
    """
    check_branch(branch)
    block = block_for(x, mode, batch_axis, scale, groups, row_args)
    rate = block.recipe.check_rate(rate)
    x = jnp.asarray(x)
    if is_static(rate, 1.0):
        jax.eval_shape(lambda x: block.draw(None, x, 0.0).run(branch, x, row_args), x)
        return x
    drawn = block.draw(key, x, rate)
    if drawn.mask is None:
        return drawn.run(branch, x, row_args)
    y: jax.Array = run_or_skip(drawn.mask, lambda x: drawn.run(branch, x, row_args), lambda x: x, x)
    return y


class Block(NamedTuple):
    """The checked options of a residual block, for its input.

    Attributes:
      recipe: what drops the output of the branch, and checks the rate.
      mode: what has a draw of its own.
      axis: the axis of rows, for mode="subset".
      groups: the number of groups of rows, for mode="subset".
      scale: whether kept values are scaled.
    """

    recipe: Recipe
    mode: ResidualMode
    axis: int
    groups: int
    scale: bool

    def draw(self, key: Key, x: jax.Array, rate: Rate) -> "Drawn":
        """Decides what of the branch runs.

        A branch is skipped for the batch by a mask with one entry. Nothing is skipped while a
        summary is made, since the summary lists what is inside of dropped branches too.
        """
        recipe = self.recipe
        if self.mode == "subset" and isinstance(rate, float) and not needs_no_key(rate):
            return self._draw_rows(key, x, rate)
        if self.mode == "row" or needs_no_key(rate) or current_recorder() is not None:
            return Drawn(None, _whole, lambda x, y: x + drop(key, y, rate, recipe))
        key = check_key(key)
        rate = drawn_rate(key, rate)
        mask = recipe.sample(key, rate, recipe.noise_shape, None)
        return Drawn(mask, _whole, lambda x, y: x + recipe.apply(y, mask, rate))

    def _draw_rows(self, key: Key, x: jax.Array, rate: float) -> "Drawn":
        key, size = check_key(key), group_size(x.shape, self.axis, self.groups)
        kept = count_kept(rate, size, "rows" if self.groups == 1 else "rows of a group")
        if kept == size:
            return Drawn(None, _whole, jnp.add)
        sharding = sharding_of_groups(x, self.axis, self.groups)
        indices = sample_subset(key, (self.groups, size), kept, sharding)[..., None]
        scale = np.float32(size / kept if self.scale else 1)
        return Drawn(
            None,
            lambda x: x if x.shape[self.axis] == 1 else take_rows(x, indices, self.axis),
            lambda x, y: add_to_rows(x, y, indices, self.axis, scale),
        )


class Drawn(NamedTuple):
    """A residual block after its draw: y = add(x, branch(take(x))).

    Attributes:
      mask: whether the branch runs; it has one entry. It is None if the branch always runs.
      take: returns what the branch gets of x, or of an argument that has the rows of x.
      add: adds the output of the branch to x.
    """

    mask: jax.Array | None
    take: Callable[[jax.Array], jax.Array]
    add: Callable[[jax.Array, jax.Array], jax.Array]

    def run(
        self, branch: Callable[..., Any], x: jax.Array, row_args: Sequence[Any] = ()
    ) -> jax.Array:
        """Runs the block, as if the branch is kept."""
        taken, args = self.take(x), jax.tree.map(self.take, tuple(row_args))
        return self.add(x, check_branch_fits(branch(taken, *args), taken))


def block_for(
    x: Array,
    mode: ResidualMode,
    batch_axis: int | Sequence[int],
    scale: bool,
    groups: int,
    row_args: Sequence[Any],
) -> Block:
    """Checks the options of a residual block for x."""
    check_choice(mode, "mode", get_args(ResidualMode))
    check_whole(groups, "groups", least=1)
    check_sequence(row_args, "row_args", "a tuple of arguments of the branch")
    args = [check_array(arg, "row_args") for arg in jax.tree.leaves(tuple(row_args))]
    if mode != "subset":
        if groups != 1:
            raise ValueError(
                f"groups must be 1 unless mode='subset': got {groups} with mode={mode!r}"
            )
        return Block(path_recipe(x, mode, batch_axis, scale), mode, 0, 1, scale)
    recipe = path_recipe(x, "row", batch_axis, scale)._replace(check_rate=_check_rate_of_subset)
    shape = check_input(x).shape
    axis = row_axis(shape, batch_axis)
    for arg in args:
        check_rows(arg.shape, shape, axis)
    return Block(recipe, mode, axis, groups, scale)


def path_recipe(x: Array, mode: PathMode, batch_axis: int | Sequence[int], scale: bool) -> Recipe:
    """Returns the recipe of drop path for x, which is checked here."""
    check_switch(scale, "scale")
    noise_shape = path_noise_shape(check_input(x).shape, mode, batch_axis)
    if scale:
        return Recipe(noise_shape)
    return Recipe(noise_shape, apply=_apply_unscaled, apply_key=None)


def _check_rate_of_subset(rate: Any) -> float:
    return check_known_rate(
        rate, "with mode='subset' the rate determines the shape of the branch's input"
    )


def _whole(x: jax.Array) -> jax.Array:
    return x


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
