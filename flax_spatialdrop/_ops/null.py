"""Null values: what is put in place of the dropped inputs of a sample."""

import contextlib
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_array, is_array, is_box, shown
from .._noise_shape import can_broadcast
from .._typing import Array


def broadcast_null(null: Any, tree: Any, argument: str) -> Any:
    """Returns a tree with the null value of each array of a tree.

    The structures are compared by the paths of their leaves. So a tuple fits a list, and a dict
    fits a FrozenDict: the modules freeze what they are made with.
    """
    paths_and_leaves, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_box)
    try:
        null_at = dict(jax.tree_util.tree_flatten_with_path(null, is_leaf=is_box)[0])
    except (ValueError, TypeError):  # keys that cannot be sorted
        null_at = {}
    prefixes = [
        next((path[:n] for n in range(len(path) + 1) if path[:n] in null_at), None)
        for path, _ in paths_and_leaves
    ]
    if None in prefixes or {*prefixes} != {*null_at}:
        at = jax.tree_util.keystr
        given = ", ".join(f"null{at(path)}" for path in null_at) or shown(null)
        expected = ", ".join(f"{argument}{at(path)}" for path, _ in paths_and_leaves)
        raise ValueError(
            f"null must be one value, or have the structure of {argument}: "
            f"got {given} for {expected}"
        )
    return jax.tree.unflatten(structure, [null_at[path] for path in prefixes if path is not None])


def check_null(null: Any, x: Array, num_batch_axes: int) -> jax.Array:
    """Returns a null value for x, with as many axes."""
    dtype = jax.dtypes.canonicalize_dtype(x.dtype)
    array = is_array(null)
    values = _null_array(check_array(null, "null"), dtype) if array else _null_number(null, dtype)
    shape = x.shape[num_batch_axes:]
    if not can_broadcast(values.shape, shape):
        raise ValueError(
            f"null must broadcast to {shape}, the shape of a sample's condition: "
            f"got null.shape={values.shape}"
        )
    return jnp.expand_dims(values, range(len(x.shape) - values.ndim))


def zero_like(x: Array, name: str) -> jax.Array:
    if x.dtype == jnp.float8_e8m0fnu:
        raise TypeError(
            f"{name} must have dtypes that can represent 0, the value of what is dropped: "
            f"got dtype {x.dtype}"
        )
    return jnp.zeros((1,) * len(x.shape), x.dtype)


def _null_number(null: Any, dtype: Any) -> jax.Array:
    """Returns a number in the dtype of a condition, which must be able to hold it."""
    kind = _kind_of(dtype)
    if isinstance(null, np.generic) and _kind_of(null.dtype) == "real":
        null = float(null)  # since Python does not count bfloat16 among the numbers
    if not isinstance(null, _NUMBERS[kind]) or (isinstance(null, bool) and kind != "bool"):
        raise TypeError(_rule_for_null(dtype, shown(null)))
    if kind == "integer":
        limits = jnp.iinfo(dtype)
        if not limits.min <= int(null) <= limits.max:
            raise ValueError(
                f"null must be from {limits.min} to {limits.max}, the numbers of dtype {dtype}: "
                f"got {shown(null)}"
            )
    python_type = {"bool": bool, "integer": int, "real": float, "complex": complex}[kind]
    with contextlib.suppress(OverflowError), np.errstate(over="ignore"):
        number = python_type(null)
        value = np.asarray(number).astype(dtype)
        if kind in ("bool", "integer") or np.isfinite(value) or not np.isfinite(number):
            return jnp.asarray(value)
    raise ValueError(f"null must be finite in dtype {dtype}: got {shown(null)}")


def _null_array(null: Array, dtype: Any) -> jax.Array:
    """Returns an array of numbers that the dtype of a condition can hold."""
    kinds, kind = [*_NUMBERS], _kind_of(dtype)
    theirs = jnp.asarray(null).dtype  # as JAX has it: int64 becomes int32
    fits = _kind_of(theirs) in ([kind] if kind == "bool" else kinds[1 : kinds.index(kind) + 1])
    if fits and kind == "integer":
        limits, given = jnp.iinfo(dtype), jnp.iinfo(theirs)
        fits = limits.min <= given.min and given.max <= limits.max
    if not fits:
        raise TypeError(_rule_for_null(dtype, shown(null)))
    array = jnp.asarray(null)
    # A learned parameter of float32 keeps its precision, so that its gradient is a sum in float32.
    return array if _kind_of(theirs) == kind else array.astype(dtype)


def _rule_for_null(dtype: Any, got: str) -> str:
    kinds = {"bool": "a bool", "integer": "an integer", "real": "a real number"}
    what = kinds.get(_kind_of(dtype), "a number")
    return f"null must be {what} or an array that a condition of dtype {dtype} can hold: got {got}"


_NUMBERS: dict[str, Any] = {
    "bool": bool | np.bool_,
    "integer": numbers.Integral,
    "real": numbers.Real,
    "complex": numbers.Complex,
}
"""The scalars of each kind of dtype. A condition can hold those of its kind and of kinds above it,
but bools stay apart."""


def _kind_of(dtype: Any) -> str:
    for kind, parent in (("bool", jnp.bool_), ("integer", jnp.integer), ("real", jnp.floating)):
        if jnp.issubdtype(dtype, parent):
            return kind
    return "complex" if jnp.issubdtype(dtype, jnp.complexfloating) else ""
