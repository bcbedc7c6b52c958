"""Draws the masks of several inputs: independent ones, or such that each sample keeps an input."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from .._rates import fence, keep_probability
from .._typing import Key, Rate, Shape
from .mask import sample_each, sample_sharded


def sample_all(
    keys: Sequence[Key], rates: Sequence[Rate], shape: Shape, sharding: NamedSharding | None
) -> list[jax.Array]:
    """Draws independent masks of [*batch]."""
    pairs = zip(keys, rates, strict=True)
    return [sample_sharded(key, rate, shape, sharding) for key, rate in pairs]


def sample_some(
    keys: Sequence[Key], rates: Sequence[Rate], shape: Shape, sharding: NamedSharding | None
) -> list[jax.Array]:
    """Draws masks as `sample_all` would, given that each sample keeps at least one input."""
    masks, is_empty = [], jnp.ones(shape, bool, out_sharding=sharding)
    for key, rate, first in zip(keys, rates, _probabilities_of_the_first(rates), strict=True):
        keep = jnp.where(is_empty, first, keep_probability(rate))
        mask = sample_each(key, keep, sharding)
        masks.append(mask)
        is_empty &= ~mask
    return masks


def _probabilities_of_the_first(rates: Sequence[Rate]) -> list[np.float32 | jax.Array]:
    """Returns for each input the probability to keep it if none before it is kept.

        p[i] = (1 - r[i]) / (1 - r[i] r[i+1] ... r[n])

    The last one is exactly 1. The divisors are computed from the last one on, as sums of positive
    terms, so that rates near 1 lose no digits.
    """
    are_known = all(isinstance(rate, float) for rate in rates)
    # The probability that independent draws keep this input or a later one.
    some_kept: Any = 0.0 if are_known else np.float32(0)
    found: list[Any] = []
    for num, rate in enumerate(reversed(rates), start=1):
        if are_known:
            keep: Any = 1 - rate
            some_kept = keep + rate * some_kept
            found.append(np.float32(keep / some_kept if some_kept > 0 else 1 / num))
        else:
            keep = fence(keep_probability(rate))
            some_kept = fence(keep + fence((np.float32(1) - keep) * some_kept))
            divisor = jnp.where(some_kept > 0, some_kept, np.float32(1))
            found.append(jnp.where(some_kept > 0, keep / divisor, np.float32(1 / num)))
    return found[::-1]
