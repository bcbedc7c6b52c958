"""What attention is given: its checks, and the shape of the weights between queries and keys."""

from typing import Any

import jax
import jax.numpy as jnp

from ._checks import check_array, shown
from ._typing import Array, Shape


def weights_shape(query: Array, key: Array) -> Shape:
    """[*batch, heads, queries, keys]."""
    return query.shape[:-3] + query.shape[-2:-1] + query.shape[-3:-2] + key.shape[-3:-2]


def check_operands(
    query: Any, key: Any, value: Any, *, dtype: Any, precision: Any
) -> tuple[Any, Any, Any]:
    """Returns three arrays of numbers; what they are computed in is checked too."""
    if dtype is not None and not _is_inexact(dtype):
        raise TypeError(
            f"dtype must be None or a floating or complex dtype of JAX: got {shown(dtype)}"
        )
    if precision is not None and not _is_precision(precision):
        raise ValueError(
            "precision must be None, a jax.lax.Precision, its name, or a pair of them: "
            f"got {shown(precision)}"
        )
    return _numbers(query, "query"), _numbers(key, "key"), _numbers(value, "value")


def _numbers(array: Any, name: str) -> Array:
    array = check_array(array, name)
    if not jnp.issubdtype(array.dtype, jnp.number):
        looks_like_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
        advice = "; a PRNG key is passed as dropout_rng" if looks_like_key else ""
        raise TypeError(f"{name} must have a dtype of numbers: got dtype {array.dtype}{advice}")
    return array


def _is_inexact(dtype: Any) -> bool:
    try:
        return jnp.issubdtype(jax.dtypes.canonicalize_dtype(dtype), jnp.inexact)
    except (TypeError, ValueError):
        return False


def _is_precision(precision: Any) -> bool:
    x = jax.ShapeDtypeStruct((1,), jnp.float32)
    try:
        jax.eval_shape(lambda x: jax.lax.dot(x, x, precision=precision), x)
    except (TypeError, ValueError):
        return False
    return True


def check_sown(module: Any) -> None:
    """Raises unless a module can be told what the weights are, or is None."""
    if module is not None and not hasattr(module, "sow"):
        raise TypeError(
            f"module must be None or a Flax module, which sows the weights: got {shown(module)}"
        )


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
        raise ValueError(f"query and key must have the same number of features: got {shapes}")
    if key.shape[-3] != value.shape[-3]:
        raise ValueError(f"key and value must have the same length: got {shapes}")
    heads = query.shape[-2]
    others = {key.shape[-2], value.shape[-2]} - {heads}
    if others and not grouped:
        raise ValueError(f"query, key and value must have the same number of heads: got {shapes}")
    if any(own == 0 or heads % own != 0 for own in others):
        raise ValueError(f"the heads of key and of value must divide those of query: got {shapes}")


def over_weights(bias: Any, mask: Any, shape: Shape) -> tuple[Any, Any]:
    """A bias and a mask with as many axes as the weights of `shape`, each of their size or 1."""
    return _of_full_rank(bias, "bias", shape), _of_full_rank(mask, "mask", shape)


def _of_full_rank(array: Any, name: str, shape: Shape) -> Array | None:
    if array is None:
        return None
    if isinstance(array, bool | int | float):
        array = jnp.asarray(array)
    array = check_array(array, name)
    kind = array.dtype
    if kind != jnp.bool_ and not jnp.issubdtype(kind, jnp.number):
        raise TypeError(f"{name} must be an array of bools or numbers: got dtype {kind}")
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
