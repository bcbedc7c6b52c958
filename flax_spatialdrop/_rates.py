"""The keep probability and the scale of a rate, and rates that follow from another rate.

A checked rate is a Python float if it is known when tracing, and a scalar array otherwise. A float
of exactly 0 or 1 takes a short cut and draws nothing. With an array, one program serves all rates.
"""

from typing import Literal, TypeAlias, TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np

from ._checks import check_choice, check_rate, check_whole
from ._typing import Rate

Convention: TypeAlias = Literal["huang", "timm"]
"""The rule for rates that grow with depth; see `linear_rates` for the equations."""


def linear_rates(
    max_rate: Rate, depth: int, *, convention: Convention = "huang"
) -> tuple[Rate, ...]:
    """Returns a rate for each of `depth` blocks, growing linearly up to `max_rate`.

        "huang":  rate[l] = max_rate * (l + 1) / depth       the first block drops a little
        "timm":   rate[l] = max_rate * l / (depth - 1)       the first block drops nothing

    This is the rule of stochastic depth: later blocks build on early ones, so early blocks are
    dropped less. "huang" is the rule of the paper. "timm" is the rule of timm, Swin and ConvNeXt;
    at depth 1 its only block drops nothing.

    Args:
      max_rate: the rate of the last block, in [0, 1]: a number or a scalar array, traced or not.
      depth: the number of blocks, at least 1.
      convention: "huang" or "timm".

    Returns:
      A tuple of `depth` rates: numbers if max_rate is a number, scalar arrays if it is an array.

    Raises:
      ValueError: if max_rate is a number outside [0, 1], depth is below 1, or convention is
        unknown.
      TypeError: if depth is not an integer, or max_rate has the wrong type.

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


def count_kept(rate: float, total: int, things: str) -> int:
    """Returns round((1 - rate) * total), how many of `total` things to keep, or raises at 0."""
    kept = round((1 - rate) * total)
    if kept == 0 and total:
        raise ValueError(
            f"rate must keep at least one of the {total} {things}, but "
            f"(1 - rate) * {total} rounds to 0: got rate={rate}"
        )
    return kept


def rate_of_each(joint_rate: Rate, num: int) -> Rate:
    """Returns the rate of each of `num` independent draws that all drop at `joint_rate`.

        rate = joint_rate ** (1 / num)

    For example, three conditions that are dropped independently at .464 are all dropped in .1 of
    the samples, as an unconditional model needs. See `condition_dropout` with joint=False.

    Args:
      joint_rate: the probability that all of them drop, in [0, 1]: a number or a scalar array,
        traced or not. An array is clipped to [0, 1].
      num: the number of draws, at least 1.

    Returns:
      A number if joint_rate is a number, else a scalar array of at least float32.

    Raises:
      ValueError: if joint_rate is a number outside [0, 1], or num is below 1.
      TypeError: if num is not an integer, or joint_rate has the wrong type.

    Example:
      >>> from flax_spatialdrop import rate_of_each
      >>> round(rate_of_each(0.1, 3), 3)
      0.464

    Reference: Ho & Salimans, Classifier-Free Diffusion Guidance, 2022,
    https://arxiv.org/abs/2207.12598
    """
    joint_rate = check_rate(joint_rate, "joint_rate")
    num = check_whole(num, "num", least=1, unit="draw")
    if isinstance(joint_rate, float):
        return float(joint_rate ** (1 / num))
    joint_rate = jnp.asarray(joint_rate)
    wide = joint_rate.dtype == np.float64
    joint_rate = joint_rate.astype(np.float64 if wide else np.float32)
    exponent = joint_rate.dtype.type(1 / num)
    return jnp.power(jnp.clip(joint_rate, 0, 1), exponent)


def keep_probability(rate: Rate) -> np.float32 | jax.Array:
    """Returns 1 - rate in float32. If rate is an array, it is clipped to [0, 1], and NaN gives 0.

    There is no gradient to the rate.
    """
    if isinstance(rate, float):
        return np.float32(1.0 - rate)
    keep = np.float32(1) - jax.lax.stop_gradient(jnp.asarray(rate).astype(np.float32))
    return jnp.where(keep > 0, jnp.minimum(keep, np.float32(1)), np.float32(0))


_Float = TypeVar("_Float", bound=np.float32 | jax.Array)


def fence(x: _Float) -> _Float:
    """Returns x, which is rounded to float32 before anything else is computed from it.

    XLA may compute a product and a sum in one instruction (FMA) that rounds once, and it may add
    constants first. Whether it does so depends on the rest of the program. Without a fence, the
    same code can therefore give different results:

        a * b + c           round(a * b + c) in one program, round(round(a * b) + c) in another
        fence(a * b) + c    round(round(a * b) + c) in all programs

    The fence is a maximum with the lowest float32, which changes no value. XLA does not move other
    operations across it.
    """
    if isinstance(x, np.float32):
        return x
    fenced: _Float = jax.lax.max(x, np.finfo(np.float32).min)  # type: ignore[assignment]
    return fenced


def scale_of(keep: np.float32 | jax.Array) -> np.float32 | jax.Array:
    """Returns 1 / keep in float32, the factor of kept values; 1 if keep is 0."""
    if isinstance(keep, np.float32):
        return np.float32(1) / keep if keep > 0 else np.float32(1)
    return np.float32(1) / jnp.where(keep > 0, keep, np.float32(1))
