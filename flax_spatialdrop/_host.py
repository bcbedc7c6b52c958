"""What a module does when it is made and called, in both hosts, Linen and NNX.

`_docs` composes the docstrings of modules from those below. So these explain some arguments that
only the calls of modules have.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any, get_args

import jax
import jax.numpy as jnp

from ._apply import Recipe, drop, needs_key
from ._checks import (
    check_axis_names,
    check_batch_dims,
    check_callable,
    check_choice,
    check_count,
    check_key,
    check_name,
    check_rate,
    check_scalar,
    check_sequence,
    check_switch,
    check_whole,
    is_static,
    unboxed,
)
from ._ops.blocks import Normalize
from ._ops.inputs import Inputs
from ._ops.noise import check_alpha
from ._ops.patches import Patches, check_rate_of_patches, count_patches, keep_patches
from ._ops.path import Block, check_branch
from ._random.keys import fold_in
from ._recurrent.spec import Variant, check_merge, check_unroll
from ._scaling import explained, scaled
from ._summary import Call, Use, note
from ._typing import Array, DataFormat, Key, Rate, ResidualMode, Shape

_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "branch": lambda value, _: check_branch(value),
    "alpha": check_alpha,
    "axis_name": check_axis_names,
    "rate": check_rate,
    "rng_collection": check_name,
    "noise_shape": partial(check_sequence, what="a tuple with one entry per axis of x"),
    "broadcast_dims": partial(check_sequence, what="a tuple of axes of x"),
    "data_format": partial(check_choice, choices=get_args(DataFormat)),
    "mode": partial(check_choice, choices=get_args(ResidualMode)),
    "normalize": partial(check_choice, choices=get_args(Normalize)),
    "batch_dims": lambda value, _: check_batch_dims(value),
    "groups": partial(check_whole, least=1),
    "head_axis": check_whole,
    "max_freq_width": check_count,
    "max_time_ratio": check_scalar,
    "max_time_width": check_count,
    "num_blocks": partial(check_whole, least=1),
    "num_freq_masks": partial(check_whole, least=0),
    "num_keep": check_whole,
    "num_prefix_tokens": check_whole,
    "num_time_masks": partial(check_whole, least=0),
    "mask_id": check_whole,
    "features": partial(check_whole, least=0),
    "merge_fn": lambda value, _: check_merge(value),
    **dict.fromkeys(("activation_fn", "gate_fn"), partial(check_callable, what="a function")),
    **dict.fromkeys(
        ("kernel_init", "recurrent_kernel_init", "bias_init", "carry_init"),
        partial(check_callable, what="a function"),
    ),
    "dropout": check_rate,
    "recurrent_dropout": check_rate,
    "variant": partial(check_choice, choices=get_args(Variant)),
    "unroll": lambda value, _: check_unroll(value),
    **dict.fromkeys(
        (
            "scale",
            "per_channel",
            "per_sample",
            "per_gate",
            "time_major",
            "return_carry",
            "reverse",
            "keep_order",
            "joint",
            "keep_one",
        ),
        check_switch,
    ),
}
"""The checks that can be made before a module has inputs, by option. A class may have its own."""


def check_options(module: Any, options: Iterable[str], advice: str) -> None:
    """Checks the options of a module that can be checked without inputs.

    None is accepted where it is the default, and for a required option, since each call may give
    the rate. `advice` ends the message about a traced `deterministic`.
    """
    for name in options:
        value = getattr(module, name)
        if value is None and getattr(type(module), name, None) is None and name != "branch":
            continue  # `branch` is required, and no call gives it
        if name == "deterministic":
            if value is None:  # a call, or nnx.view, may give it
                continue
            checked = check_switch(value, name, advice)
        else:
            checks = _CHECKS | getattr(module, "_checks", {})
            checked = checks[name](value, name) if name in checks else value
        if isinstance(checked, bool) and checked is not value:  # a bool of NumPy or JAX
            setattr(module, name, checked)


def along_axes(key: Key, module: Any) -> Key:
    """Returns the key of a call, folded along the mapped axes that the module names."""
    names = getattr(module, "axis_name", None)  # Flax's own layers, which run here too, have none
    return key if names is None else fold_in(check_key(key), names, "axis_name")


@cache
def parameters_of(recipe: Callable[..., Recipe]) -> tuple[str, ...]:
    """Returns the names of x and the options that a recipe is made of."""
    return tuple(inspect.signature(recipe).parameters)


def regularize(
    call: Call, inputs: Array, recipe: Recipe, rate: Rate | None, mask: Any = None
) -> jax.Array:
    """Applies a recipe to inputs, with the mask given or else with one that is drawn.

    Args:
      call: of the module.
      inputs: an array of a dtype and rank that the class takes.
      recipe: for these inputs.
      rate: used in place of the attribute, such as the value of a schedule; it may be traced. The
        attribute may be None then.
      mask: used in place of a draw: bool, in noise shape or in the shape of inputs. `sample_mask`
        returns one. A mask has no effect if nothing is dropped: in a deterministic call, or if the
        rate is the number 0.

    Returns:
      An array of the shape and dtype of inputs.

    Raises:
      ValueError: for inputs of the wrong rank; a noise shape, mask or rate that does not fit;
        `deterministic` that is missing or, in Linen, given twice.
      TypeError: for inputs of another dtype, a traced `deterministic`, another type.
      ValueError, KeyError, flax.errors.InvalidRngError: if a mask is drawn and there is no key.
    """
    use, inputs = use_of(call, recipe, rate, mask), unboxed(inputs)
    if mask is not None:
        mask = recipe.check_mask(mask, recipe.noise_shape, inputs.shape)

    def run(x: Array) -> jax.Array:
        if mask is None or not use.active:
            return drop(use.key, x, use.effective_rate, recipe)
        return recipe.apply(x, mask, use.rate)

    note(call.where, run, inputs, use)
    return run(inputs)


def draw_mask(call: Call, recipe: Recipe, rate: Rate | None) -> jax.Array:
    """Draws the mask that `regularize` would draw.

    Args:
      call: of the module.
      inputs: an array, of which only shape and dtype matter.
      recipe: for these inputs.
      rate: as at the call.

    Returns:
      bool in noise shape, True where a value is kept; all True if nothing would be dropped.
    """
    use = use_of(call, recipe, rate)
    mask: jax.Array = recipe.sample(use.key, use.effective_rate, recipe.noise_shape, None)
    return mask


def key_and_rate(call: Call, inputs: Array, block: Block, rate: Rate | None) -> tuple[Key, Rate]:
    """Returns the key and rate of a residual block.

    Args:
      call: of the module.
      inputs: floating or complex.
      block: for these inputs.
      rate: as in `regularize`; with mode="subset" it must be a number.
      row_args: arguments of the branch that have the rows of inputs, such as an attention mask:
        branch(inputs, *row_args, *args, **kwargs). With mode="subset" the branch gets the same rows
        of them as of inputs.
      *args, **kwargs: other arguments of the branch. It gets neither `deterministic` nor the key.

    Returns:
      An array of the shape and dtype of inputs.

    Raises:
      ValueError: for a branch whose output differs from its input in shape or dtype, or that makes
        variables with mode="batch"; a mode, batch_axis, groups, row_args or rate that does not fit;
        `deterministic` that is missing or, in Linen, given twice.
      TypeError: for integer or bool inputs, a traced `deterministic`, another type; a traced rate
        with mode="subset".
      ValueError, KeyError, flax.errors.InvalidRngError: if a mask is drawn and there is no key.
    """
    use = use_of(call, block.recipe, rate)

    def run(x: Array) -> jax.Array:
        x = jnp.asarray(x)
        return block.draw(use.key, x, use.effective_rate).run(lambda x: x, x)

    note(call.where, run, inputs, use)
    return use.key, use.effective_rate


def run_layer_of_flax(
    call: Call,
    inputs: Array,
    noise_shape: Shape,
    rate: Rate,
    run: Callable[[Key, Array], jax.Array],
) -> jax.Array:
    """Runs a dropout layer of Flax itself, `run(key, inputs)`, so that a summary lists it."""
    recipe = Recipe(noise_shape)
    use = _use_at(call, recipe, recipe.check_rate(rate))  # Flax does not scale it
    note(call.where, partial(run, use.key), inputs, use)
    return run(use.key, inputs)


def find_patches(
    inputs: Array, rate: Any, num_keep: Any, num_prefix_tokens: Any, batch_dims: Any
) -> Patches:
    """Counts the patches of inputs and those to keep; the rate is scaled."""
    if rate is not None:
        rate = scaled(check_rate_of_patches, rate)
    return count_patches(inputs, rate, num_keep, num_prefix_tokens, batch_dims)


def drop_patches(call: Call, inputs: Array, patches: Patches) -> tuple[jax.Array, jax.Array]:
    """Removes patches.

    Args:
      call: of the module.
      inputs: [batch, tokens, features], of any dtype.
      patches: of these inputs.
      rate: a number to use instead of the module's rate or num_keep.

    Returns:
      The kept tokens, [batch, prefix + k, features], and the indices of the kept patches, int32
      [batch, k], where 0 is the first after the prefix. If deterministic, all are kept.
    """
    active = not call.deterministic and not patches.are_all_kept
    key = call.find_key() if active else None
    kept = patches if active else patches._replace(num_keep=patches.num_patches)

    def run(x: Array) -> tuple[jax.Array, jax.Array]:
        return keep_patches(key, x, kept)

    noise_shape = (*patches.batch_shape, patches.num_patches, 1)
    note(call.where, run, inputs, Use(noise_shape, patches.rate, key, active=active))
    return run(inputs)


def drop_inputs(
    call: Call, inputs: Inputs, nulls: Any, rate: Any, mask: Any
) -> tuple[Any, Sequence[Array] | None]:
    """Drops whole inputs of samples, with the masks given or else with masks that are drawn.

    Args:
      call: of the module.
      inputs: with one draw or several.
      nulls: what is put in place of what is dropped.
      rate: used in place of the attribute: a number, a scalar array, or a dict of them by name. The
        attribute may be None then.
      mask: forces the choice, in place of a draw: bool of the batch shape, or a dict of them by
        name; `sample_mask` returns it. Unlike that of other modules, it is used in a deterministic
        call too, and at any rate.

    Returns:
      The inputs with what is dropped replaced, and the masks; None if nothing is dropped.

    Raises:
      ValueError: for arrays that differ in their batch axes; a mask, rate or name that does not
        fit; `deterministic` that is missing or, in Linen, given twice.
      TypeError: for values that are not arrays, a traced `deterministic`, another type.
      ValueError, KeyError, flax.errors.InvalidRngError: if a mask is drawn and there is no key.
    """
    rates, masks = _scaled_rates(inputs, rate), inputs.check_masks(mask)
    key, given = None, None
    if masks is not None:
        given = masks[0] if len(masks) == 1 else jnp.stack([*map(jnp.asarray, masks)])
    elif not call.deterministic:
        key = _key_for_inputs(call, inputs, rates)
        masks = inputs.sample(key, rates)

    use = Use(
        inputs.noise_shape,
        inputs.mean_rate(rates),
        key,
        given,
        active=masks is not None,
        shape=None if len(inputs.arrays) == 1 else inputs.batch_shape,
        kept=inputs.kept_bytes if masks is not None else 0,
        drops_all_at_1=not inputs.keep_one,
    )
    note(call.where, lambda array: array, inputs.arrays[0], use)
    return inputs.replaced(masks, nulls), masks


def draw_for_inputs(call: Call, inputs: Inputs, rate: Any) -> Any:
    """Draws the masks that `drop_inputs` would draw.

    Args:
      call: of the module.
      inputs: with one draw or several.
      rate: as at the call.

    Returns:
      The masks.
    """
    rates = _scaled_rates(inputs, rate)
    if call.deterministic:
        return inputs.by_name(None)
    key = _key_for_inputs(call, inputs, rates)
    return inputs.by_name(inputs.sample(key, rates))


def _scaled_rates(inputs: Inputs, rate: Any) -> tuple[Rate, ...]:
    return inputs.check_rates(rate, lambda r, name: scaled(partial(check_rate, name=name), r))


def _key_for_inputs(call: Call, inputs: Inputs, rates: Sequence[Rate]) -> Key:
    """Checks the scaled rates, and finds a key, if one is needed."""
    with explained():
        inputs.check_some_kept(rates)
    return call.find_key() if inputs.needs_key(rates) else None


def use_of(call: Call, recipe: Recipe, rate: Rate | None, mask: Any = None) -> Use:
    """Checks and scales the rate, and finds a key, if one is needed."""
    return _use_at(call, recipe, scaled(recipe.check_rate, rate), mask)


def _use_at(call: Call, recipe: Recipe, rate: Rate, mask: Any = None) -> Use:
    active = not call.deterministic and not is_static(rate, 0.0)
    draws = mask is None and active and needs_key(rate, recipe)
    key = call.find_key() if draws else None
    return Use(recipe.noise_shape, rate, key, mask, active, drops_all_at_1=not recipe.draws_at_1)
