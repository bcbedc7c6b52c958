"""The keep probability and the scale that follow from a rate, and rates over depth.

A checked rate is a Python float if it is known when tracing, and a scalar array otherwise. Only the
float takes short cuts (nothing drawn at 0 and 1); an array is right at every value in one program.
"""

from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from ._checks import check_choice, check_rate, check_whole
from ._typing import Rate

Convention: TypeAlias = Literal["huang", "timm"]
"""Where a rate that grows with depth starts: `linear_rates` has both equations."""


def linear_rates(
    max_rate: Rate, depth: int, *, convention: Convention = "huang"
) -> tuple[Rate, ...]:
    """Returns a rate for each of `depth` blocks, growing linearly up to `max_rate`.

        "huang":  rate[l] = max_rate * (l + 1) / depth       the first block drops a little
        "timm":   rate[l] = max_rate * l / (depth - 1)       the first block drops nothing

    The rule of stochastic depth: early blocks are what the later ones build on, so they are
    dropped less. "huang" is the paper's own, "timm" that of timm, Swin and ConvNeXt (whose single
    block, at depth 1, drops nothing).

    Args:
      max_rate: the rate of the last block, in [0, 1]; a number or a scalar array, traced or not.
      depth: how many blocks, at least 1.
      convention: "huang" or "timm".

    Returns:
      A tuple of `depth` rates: numbers for a number, scalar arrays for an array.

    Raises:
      ValueError: for a number for max_rate outside [0, 1], a depth below 1, an unknown convention.
      TypeError: for a rate of another type, a depth that is not a whole number.

    Example:
      >>> from flax_spatialdrop import linear_rates
      >>> linear_rates(0.5, 5)
      (0.1, 0.2, 0.3, 0.4, 0.5)
      >>> linear_rates(0.5, 5, convention="timm")
      (0.0, 0.125, 0.25, 0.375, 0.5)

    Reference: Huang et al., Deep Networks with Stochastic Depth, 2016,
    https://arxiv.org/abs/1603.09382
    """
    max_rate = check_rate(max_rate, "max_rate")
    depth = check_whole(depth, "depth", least=1, unit="block")
    check_choice(convention, "convention", get_args(Convention))
    if convention == "huang":
        steps, last = range(1, depth + 1), depth
    else:
        steps, last = range(depth), max(depth - 1, 1)
    if isinstance(max_rate, float):
        return tuple(max_rate * (step / last) for step in steps)
    max_rate = jnp.asarray(max_rate)
    dtype = max_rate.dtype if jnp.issubdtype(max_rate.dtype, jnp.floating) else np.float32
    return tuple(max_rate.astype(dtype) * jnp.asarray(step / last, dtype) for step in steps)


def keep_probability(rate: Rate) -> np.float32 | jax.Array:
    """1 - rate in float32; of an array clipped to [0, 1], 0 for NaN, with no gradient to it."""
    if isinstance(rate, float):
        return np.float32(1.0 - rate)
    keep = np.float32(1) - jax.lax.stop_gradient(jnp.asarray(rate).astype(np.float32))
    return jnp.where(keep > 0, jnp.minimum(keep, np.float32(1)), np.float32(0))


def fence(x: np.float32 | jax.Array) -> np.float32 | jax.Array:
    """Returns x as it is, but rounded to float32 before anything else is computed from it.

    XLA may compute a product and a sum in one instruction that rounds once, and may add up
    constants first. Whether it does depends on the rest of the program, and so would the result:

        a * b + c           round(a * b + c) in one program, round(round(a * b) + c) in another
        fence(a * b) + c    round(round(a * b) + c) in all of them

    The fence is a maximum that changes no value, which XLA does not move operations across.
    """
    if isinstance(x, np.float32):
        return x
    return jax.lax.max(x, np.finfo(np.float32).min)


def scale_of(keep: np.float32 | jax.Array) -> np.float32 | jax.Array:
    """1 / keep in float32, what a kept value is multiplied by; 1 where nothing is kept."""
    if isinstance(keep, np.float32):
        return np.float32(1) / keep if keep > 0 else np.float32(1)
    return np.float32(1) / jnp.where(keep > 0, keep, np.float32(1))
