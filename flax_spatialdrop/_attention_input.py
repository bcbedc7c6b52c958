"""What attention is given: its checks, and the shape of the weights between queries and keys."""

from typing import Any

import jax.numpy as jnp

from ._checks import shown
from ._typing import Array, Shape


def weights_shape(query: Array, key: Array) -> Shape:
    """[*batch, heads, queries, keys]."""
    return query.shape[:-3] + query.shape[-2:-1] + query.shape[-3:-2] + key.shape[-3:-2]


def check_attention(query: Array, key: Array, value: Array, *, grouped: bool) -> None:
    """Raises unless they fit one another; `grouped`: several heads of query may share one."""
    shapes = f"query.shape={query.shape}, key.shape={key.shape} and value.shape={value.shape}"
    if not query.ndim == key.ndim == value.ndim >= 3:
        raise ValueError(
            "query, key and value must have the same axes, [*batch, length, heads, features]: "
            f"got {shapes}"
        )
    if not query.shape[:-3] == key.shape[:-3] == value.shape[:-3]:
        raise ValueError(f"query, key and value must have the same batch axes: got {shapes}")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"query and key must have as many features: got {shapes}")
    if key.shape[-3] != value.shape[-3]:
        raise ValueError(f"key and value must have the same length: got {shapes}")
    heads = query.shape[-2]
    others = {key.shape[-2], value.shape[-2]} - {heads}
    if others and not grouped:
        raise ValueError(f"query, key and value must have as many heads: got {shapes}")
    if any(own == 0 or heads % own for own in others):
        raise ValueError(f"the heads of key and of value must divide those of query: got {shapes}")


def of_full_rank(array: Any, name: str, shape: Shape) -> Array | None:
    """A bias or mask with as many axes as the weights of `shape`, each of their size or 1."""
    if array is None:
        return None
    if isinstance(array, bool | int | float):
        array = jnp.asarray(array)
    if not hasattr(array, "shape"):
        raise TypeError(f"{name} must be an array: got {shown(array)}")
    missing = (1,) * (len(shape) - array.ndim)
    sizes = missing + array.shape
    if len(sizes) > len(shape) or any(
        own not in (1, size) for own, size in zip(sizes, shape, strict=True)
    ):
        raise ValueError(
            f"{name} must spread over the weights, [*batch, heads, queries, keys], which are "
            f"{shape}: got {name}.shape={array.shape}"
        )
    return array.reshape(sizes) if missing else array
