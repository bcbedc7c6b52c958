"""Masks of spans: runs of neighbors that are dropped together, inside the length of each sample."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from .._checks import check_key
from .._compat import assert_shape
from .._typing import Array, Key
from .mask import clipped
from .sharding import drawn, explicit_sharding, spec_of


def sample_spans(
    key: Key,
    lengths: jax.Array,
    max_length: int,
    num: int,
    min_width: int | Array,
    max_width: int | Array,
    max_ratio: float | Array,
) -> jax.Array:
    """Draws bool[*lengths.shape, max_length], False on `num` spans of each sample.

    The width of a span is uniform on the integers from min(min_width, w) to w, where w is
    min(max_width, floor(max_ratio * length)), and its start is uniform where the span fits:

        width_key, start_key = jax.random.split(key)
        width = jax.random.randint(width_key, (*lengths.shape, num), min(min_width, w), w + 1)
        start = jax.random.randint(start_key, (*lengths.shape, num), 0, length - width + 1)
    """
    widths = as_int32(min_width), as_int32(max_width)
    ratio = jnp.asarray(max_ratio)
    mask: jax.Array = _sample_spans(check_key(key), lengths, max_length, num, *widths, ratio)
    assert_shape(mask, (*lengths.shape, max_length))
    return mask


def as_int32(count: int | Array) -> jax.Array:
    """Returns integers as int32, clipped to 0, ..., 2^31 - 1."""
    if isinstance(count, int):
        return jnp.asarray(min(count, _LARGEST), np.int32)
    return clipped(jnp.asarray(count), _LARGEST).astype(np.int32)


_LARGEST = 2**31 - 1


@partial(jax.jit, static_argnums=(2, 3))
def _sample_spans(
    key: jax.Array,
    lengths: jax.Array,
    max_length: int,
    num: int,
    min_width: jax.Array,
    max_width: jax.Array,
    max_ratio: jax.Array,
) -> jax.Array:
    ratio = max_ratio.astype(np.float32)
    ratio = jnp.where(ratio > 0, jnp.minimum(ratio, np.float32(1)), np.float32(0))  # NaN gives 0
    length = lengths[..., None]
    by_ratio = jnp.floor(ratio * length.astype(np.float32)).astype(np.int32)
    widest = jnp.minimum(jnp.minimum(by_ratio, length), max_width)
    narrowest = jnp.minimum(widest, min_width)
    shape, sharding = (*lengths.shape, num), _with_axis(lengths)
    width_key, start_key = jax.random.split(key)
    randint = partial(jax.random.randint, shape=shape, dtype=np.int32)
    width = drawn(partial(randint, width_key, minval=narrowest, maxval=widest + 1), sharding)
    start = drawn(partial(randint, start_key, minval=0, maxval=length - width + 1), sharding)
    places = jnp.arange(max_length, dtype=np.int32).reshape((1,) * len(shape) + (-1,))
    start, width = start[..., None], width[..., None]
    is_in_span = (places >= start) & (places < start + width)
    return ~is_in_span.any(axis=-2)


def _with_axis(x: jax.Array) -> NamedSharding | None:
    """Returns the explicit sharding of an array that has one more axis than x."""
    sharding = explicit_sharding(x)
    return None if sharding is None else sharding.update(spec=P(*spec_of(x), None))
