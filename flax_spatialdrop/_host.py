"""What every module does when it is made and called, in Linen and NNX alike.

`deterministic` is a bool here, and `find_key` asks for a key, which it does only if one is needed.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp

from ._apply import Recipe, drop, needs_key
from ._checks import (
    check_batch_dims,
    check_choice,
    check_name,
    check_rate,
    check_sequence,
    check_switch,
    is_static,
)
from ._noise_shape import check_mask_fits
from ._ops.blocks import Normalize
from ._ops.patches import Patches, keep_patches
from ._ops.path import check_branch
from ._recurrent.spec import Variant, check_unroll
from ._summary import Where, current_recorder
from ._typing import Array, DataFormat, Key, PathMode, Rate

_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "branch": lambda value, _: check_branch(value),
    "rate": check_rate,
    "rng_collection": check_name,
    "noise_shape": partial(check_sequence, what="a tuple with one entry per axis of x"),
    "broadcast_dims": partial(check_sequence, what="a tuple of axes of x"),
    "data_format": partial(check_choice, choices=get_args(DataFormat)),
    "mode": partial(check_choice, choices=get_args(PathMode)),
    "normalize": partial(check_choice, choices=get_args(Normalize)),
    "batch_dims": lambda value, _: check_batch_dims(value),
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
        ),
        check_switch,
    ),
}
"""The check of each argument of a module that needs no input to be checked by."""


def check_options(module: Any, advice: str) -> None:
    """Raises for what is wrong with a module's attributes, whatever the input will be.

    None stands for what a call may still say, such as the rate. `advice` is for whoever passes a
    traced `deterministic`.
    """
    for name, value in vars(module).items():
        if value is None:
            continue
        if name == "deterministic":
            check_switch(value, name, advice)
        elif name in _CHECKS:
            _CHECKS[name](value, name)


def regularize(
    inputs: Array,
    recipe: Recipe,
    *,
    rate: Rate | None,
    deterministic: bool,
    mask: Array | None,
    find_key: Callable[[], Key],
    where: Callable[[], Where],
) -> jax.Array:
    """Drops with the mask given, else with one drawn; a summary that is being made notes it."""
    rate = recipe.check_rate(rate)
    if mask is not None:
        check_mask_fits(recipe.check_mask(mask).shape, recipe.noise_shape, inputs.shape)
    active = is_active(rate, deterministic)
    key = find_key() if draws(recipe, rate, deterministic, mask) else None

    def run(x: Array) -> jax.Array:
        if not active:
            return jnp.asarray(x)
        if mask is not None:
            return recipe.apply(x, mask, rate)
        return drop(key, x, rate, recipe)

    recorder = current_recorder()
    if recorder is not None:
        recorder.note(
            where(), run, inputs, recipe.noise_shape, rate=rate, active=active, key=key, mask=mask
        )
    return run(inputs)


def key_and_rate(
    inputs: Array,
    recipe: Recipe,
    *,
    rate: Rate | None,
    deterministic: bool,
    find_key: Callable[[], Key],
    where: Callable[[], Where],
) -> tuple[Key, Rate]:
    """What a residual block drops with; a rate of 0 where it does not, None where none is drawn."""
    rate = recipe.check_rate(rate)
    active = is_active(rate, deterministic)
    key = find_key() if draws(recipe, rate, deterministic, None) else None

    def run(x: Array) -> jax.Array:
        return drop(key, x, rate if active else 0.0, recipe)

    recorder = current_recorder()
    if recorder is not None:
        recorder.note(
            where(), run, inputs, recipe.noise_shape, rate=rate, active=active, key=key, mask=None
        )
    return key, rate if active else 0.0


def draw_mask(
    recipe: Recipe, *, rate: Rate | None, deterministic: bool, find_key: Callable[[], Key]
) -> jax.Array:
    """The mask that `regularize` would drop with; that of a rate of 0 where it would not drop."""
    rate = recipe.check_rate(rate)
    rate = rate if is_active(rate, deterministic) else 0.0
    key = find_key() if draws(recipe, rate, deterministic, None) else None
    return recipe.sample(key, rate, recipe.noise_shape)


def drop_patches(
    inputs: Array,
    patches: Patches,
    *,
    deterministic: bool,
    find_key: Callable[[], Key],
    where: Callable[[], Where],
) -> tuple[jax.Array, jax.Array]:
    """Keeps some of the patches, or all; a summary that is being made notes it."""
    active = not deterministic and not patches.are_all_kept
    key = find_key() if active else None
    kept = patches if active else patches._replace(num_keep=patches.num_patches)

    def run(x: Array) -> tuple[jax.Array, jax.Array]:
        return keep_patches(key, x, kept)

    recorder = current_recorder()
    if recorder is not None:
        noise_shape = (*patches.batch_shape, patches.num_patches, 1)
        recorder.note(
            where(), run, inputs, noise_shape, rate=patches.rate, active=active, key=key, mask=None
        )
    return run(inputs)


def is_active(rate: Rate, deterministic: bool) -> bool:
    """Whether a call may drop anything."""
    return not deterministic and not is_static(rate, 0.0)


def draws(recipe: Recipe, rate: Rate, deterministic: bool, mask: Array | None) -> bool:
    """Whether a call draws a mask, and so needs a key."""
    return mask is None and not deterministic and needs_key(rate, recipe)
