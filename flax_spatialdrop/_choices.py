"""The three choices that make a regularizer, and the one way from them to its output."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ._apply import apply_mask, apply_redrawn
from ._checks import check_key, check_mask, check_rate, is_static
from ._random.mask import is_redrawn, sample_mask
from ._typing import Array, Key, Rate


class Choices(NamedTuple):
    """The shape of the mask, how it is drawn, what values become; by default those of dropout.

    Whoever makes one has checked the input that it is for.

    Attributes:
      noise_shape: the mask's shape: as many axes as the input, unless apply takes it otherwise.
      sample: sample(key, rate, noise_shape) draws the mask.
      apply: apply(x, mask, rate) is the output; the derivative keeps the mask in noise shape.
      redraw: redraw(x, key, rate) is the output where each element has a draw of its own, and its
        derivative keeps the key alone; None to draw and apply there as well.
      check_rate: returns a rate, or says what is wrong with it.
      check_mask: returns a mask of a user's own, or says what it is.
      draws_at_1: whether a rate of 1 leaves something to draw, so that a key is needed.
    """

    noise_shape: tuple[int, ...]
    sample: Callable[[Key, Rate, tuple[int, ...]], jax.Array] = sample_mask
    apply: Callable[[Array, Array, Rate], jax.Array] = apply_mask
    redraw: Callable[[Array, jax.Array, Rate], jax.Array] | None = apply_redrawn
    check_rate: Callable[[Any], Rate] = check_rate
    check_mask: Callable[[Any], Array] = check_mask
    draws_at_1: bool = False


def drop(key: Key, x: Array, rate: Rate, choices: Choices) -> jax.Array:
    """What every function and module here comes to, once its choices are made."""
    rate = choices.check_rate(rate)
    if is_static(rate, 0.0):
        return jnp.asarray(x)
    if needs_key(rate, choices):
        key = check_key(key)
        if choices.redraw is not None and is_redrawn(key, choices.noise_shape, x.shape):
            return choices.redraw(x, key, rate)
    return choices.apply(x, choices.sample(key, rate, choices.noise_shape), rate)


def needs_key(rate: Rate, choices: Choices) -> bool:
    """Whether anything is drawn at a checked rate."""
    return not is_static(rate, 0.0) and (choices.draws_at_1 or not is_static(rate, 1.0))
