"""The scores of attention: how they are capped, and which keys are near enough to a query."""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from .._apply import widened

Sides: TypeAlias = tuple[int | None, int | None]
"""A window (left, right): query i attends to keys i - left to i + right. None is no limit."""


def in_window(window: Sides, query: Any, key: Any) -> list[Any]:
    """Whether keys at some positions are in the windows of queries, for each side with a limit."""
    left, right = window
    sides = []
    if left is not None:
        sides.append(key >= query - np.int32(left))
    if right is not None:
        sides.append(key <= query + np.int32(right))
    return sides


def capped(scores: jax.Array, soft_cap: float | None) -> jax.Array:
    """Returns soft_cap * tanh(scores / soft_cap), or the scores if soft_cap is None."""
    if soft_cap is None:
        return scores
    return (soft_cap * jnp.tanh(widened(scores) / soft_cap)).astype(scores.dtype)


def slope_of_cap(capped_scores: jax.Array, soft_cap: float) -> jax.Array:
    """The derivative of `capped`, computed from its result: 1 - tanh(scores / soft_cap)^2."""
    bounded = capped_scores / soft_cap
    return 1 - bounded * bounded
