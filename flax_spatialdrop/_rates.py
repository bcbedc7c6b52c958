"""The rate: its check, and the keep probability and scale that follow from it.

A checked rate is a Python float where it is known when tracing, else a scalar array. Only the
float takes short cuts (nothing drawn at 0 and 1); an array is right at every value in one program.
"""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._typing import Rate


def check_rate(rate: Any) -> Rate:
    """Returns a number as a float in [0, 1] and a scalar array as it is; raises for all else."""
    if isinstance(rate, numbers.Real) and not isinstance(rate, bool):
        number = float(rate)
        if not 0 <= number <= 1:
            raise ValueError(
                f"rate is the probability to drop and must be in [0, 1]: got rate={rate}"
            )
        return number
    if not isinstance(rate, jax.Array | np.ndarray | np.generic):
        raise TypeError(
            "rate is the probability to drop and must be a number or a scalar array: "
            f"got {rate!r} of type {type(rate).__name__}"
        )
    if rate.shape != ():
        raise ValueError(
            "rate must be one number or a scalar array, the same for all of x: "
            f"got an array of shape {rate.shape}"
        )
    if not (jnp.issubdtype(rate.dtype, jnp.floating) or jnp.issubdtype(rate.dtype, jnp.integer)):
        raise TypeError(f"rate must be a real number: got an array of dtype {rate.dtype}")
    return rate  # type: ignore[return-value]


def is_static(rate: Rate, value: float) -> bool:
    """Whether a checked rate is known, when tracing, to be exactly `value`."""
    return isinstance(rate, float) and rate == value


def keep_probability(rate: Rate) -> np.float32 | jax.Array:
    """1 - rate in float32; of an array clipped to [0, 1], 0 for NaN, with no gradient to it."""
    if isinstance(rate, float):
        return np.float32(1.0 - rate)
    keep = np.float32(1) - jax.lax.stop_gradient(jnp.asarray(rate).astype(np.float32))
    return jnp.where(keep > 0, jnp.minimum(keep, np.float32(1)), np.float32(0))


def scale_of(keep: np.float32 | jax.Array) -> np.float32 | jax.Array:
    """1 / keep in float32, what a kept value is multiplied by; 1 where nothing is kept."""
    if isinstance(keep, np.float32):
        return np.float32(1) / keep if keep > 0 else np.float32(1)
    return np.float32(1) / jnp.where(keep > 0, keep, np.float32(1))
