"""Schedules for the scale of rates, which are functions of the step as in optax.

Enter `flax_spatialdrop.scale_rates(schedule(step))` around the calls of a model.
"""

import numbers
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ._checks import check_array, check_switch, check_whole, shown
from ._scaling import check_scale
from ._typing import Array, Rate

__all__ = ["early", "late", "linear"]

Schedule: TypeAlias = Callable[[float | Array], jax.Array]
"""schedule(step) returns the scale in float32, in the shape of step."""


def early(steps: int, *, decay: bool = True) -> Schedule:
    """Returns a schedule for early dropout, which drops in the first steps only.

        scale(step) = max(1 - step / steps, 0)            decay=True
        scale(step) = 1 if step < steps else 0            decay=False

    It is for models that underfit. In the experiments of the paper the scale falls linearly during
    the first 50 of 300 epochs.

    Args:
      steps: the number of steps in which anything is dropped, at least 1.
      decay: True lets the scale fall from 1 to 0; False keeps it at 1 and then sets it to 0.

    Returns:
      A function of the step, a number or an array, traced or not. It returns the scale in float32.

    Raises:
      ValueError: if steps is below 1.
      TypeError: if steps is not an integer, or decay is not a bool; in calls of the schedule, if
        the step is not a real number.

    Example:
      >>> from flax_spatialdrop import schedules
      >>> scale_at = schedules.early(100)
      >>> float(scale_at(0)), float(scale_at(75)), float(scale_at(200))
      (1.0, 0.25, 0.0)

    Reference: Liu et al., Dropout Reduces Underfitting, 2023, https://arxiv.org/abs/2303.01500
    """
    steps = _check_steps(steps)
    if check_switch(decay, "decay"):
        return linear(steps, start=1.0, end=0.0)

    def scale_at(step: float | Array) -> jax.Array:
        return (_check_step(step) < steps).astype(jnp.float32)

    return scale_at


def late(steps: int) -> Schedule:
    """Returns a schedule for late dropout, which drops nothing in the first steps.

        scale(step) = 0 if step < steps else 1

    It is for models that overfit. In the experiments of the paper, dropout begins after 50 of 300
    epochs.

    Args:
      steps: the number of steps in which nothing is dropped, at least 1.

    Returns:
      A function of the step, as in `early`.

    Raises:
      ValueError: as in `early`.
      TypeError: as in `early`.

    Example:
      >>> from flax_spatialdrop import schedules
      >>> scale_at = schedules.late(100)
      >>> float(scale_at(99)), float(scale_at(100))
      (0.0, 1.0)

    Reference: Liu et al., Dropout Reduces Underfitting, 2023, https://arxiv.org/abs/2303.01500
    """
    steps = _check_steps(steps)

    def scale_at(step: float | Array) -> jax.Array:
        return (_check_step(step) >= steps).astype(jnp.float32)

    return scale_at


def linear(steps: int, *, start: Rate = 0.0, end: Rate = 1.0) -> Schedule:
    """Returns a schedule that goes linearly from one scale to another, and then stays there.

        scale(step) = (1 - t) * start + t * end,   t = min(max(step / steps, 0), 1)

    By default the rates grow, as the drop path of some recipes for image models does.

    Args:
      steps: the number of steps until the scale is `end`, at least 1.
      start: the scale at step 0, at least 0: a number or a scalar array.
      end: the scale from step `steps` on, at least 0: a number or a scalar array.

    Returns:
      A function of the step, as in `early`.

    Raises:
      ValueError: if steps is below 1; if start or end is a number below 0 or not finite, or an
        array that is not scalar.
      TypeError: if steps is not an integer, or start or end is not real; in calls of the schedule,
        if the step is not a real number.

    Example:
      >>> from flax_spatialdrop import schedules
      >>> scale_at = schedules.linear(100, start=0.5)
      >>> float(scale_at(0)), float(scale_at(50)), float(scale_at(200))
      (0.5, 0.75, 1.0)

    Reference: Liu et al., Dropout Reduces Underfitting, 2023, https://arxiv.org/abs/2303.01500
    """
    steps = _check_steps(steps)
    start, end = check_scale(start, "start"), check_scale(end, "end")

    def scale_at(step: float | Array) -> jax.Array:
        t = jnp.clip(_check_step(step).astype(jnp.float32) / steps, 0, 1)
        return (1 - t) * start + t * end

    return scale_at


def _check_steps(steps: Any) -> int:
    return check_whole(steps, "steps", least=1, unit="step")


def _check_step(step: Any) -> jax.Array:
    """Returns the step as an array."""
    is_number = isinstance(step, numbers.Real | np.generic)
    array = np.asarray(step) if is_number else check_array(step, "step")
    kinds = jnp.integer, jnp.floating
    if not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
        raise TypeError(f"step must be a real number: got {shown(step)}")
    return jnp.asarray(array)
