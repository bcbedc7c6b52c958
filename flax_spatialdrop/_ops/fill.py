"""The values that replace hidden ones: a number, a vector, or the mean of the rest."""

import contextlib
import dataclasses
import numbers
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from .._apply import Select
from .._checks import is_array, is_sequence, shown, unboxed
from .._typing import Array, Shape

Fill: TypeAlias = float | Sequence[float] | Array | Literal["mean"]
"""The values of hidden positions: one number, one number per channel, or "mean"."""


def _kept_or_fill(mask: jax.Array, x: jax.Array, fill: jax.Array) -> jax.Array:
    return jnp.where(mask, x, fill)


@dataclasses.dataclass(frozen=True)
class _KeptOrMean:
    """Replaces hidden values by the mean of the kept ones over `axes`, in at least float32."""

    axes: Shape

    def __call__(self, mask: jax.Array, x: jax.Array) -> jax.Array:
        kept = jnp.where(mask, x, jnp.zeros((), x.dtype))
        dtype = np.promote_types(x.dtype, np.float32)
        total = jnp.sum(kept, self.axes, dtype, keepdims=True)
        count = jnp.sum(jnp.broadcast_to(mask, x.shape), self.axes, np.float32, keepdims=True)
        mean = total / jnp.maximum(count, np.float32(1)).astype(dtype)
        return jnp.where(mask, x, mean.astype(x.dtype))


def resolve_fill(
    fill: Any,
    dtype: Any,
    shape: Shape,
    channel: int,
    axes: Shape,
    unit: tuple[str, str] = ("channel", "channels"),
) -> tuple[Select, Sequence[jax.Array]]:
    """Returns the function that computes the output, and its constants.

    The mean is over `axes`. A vector lies along the axis `channel`. Messages call its entries by
    `unit`, the singular and the plural of a noun.
    """
    if isinstance(fill, str) and fill == "mean":
        return _KeptOrMean(axes), ()
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    values = _fill_values(fill, dtype, unit[0])
    if values.shape not in ((), (shape[channel],)):
        raise ValueError(
            f"fill must be a number, or one number for each of the {shape[channel]} "
            f"{unit[1]} of x: got fill={shown(fill)}"
        )
    if not isinstance(values, jax.core.Tracer) and not _can_hold(dtype, values):
        raise ValueError(f"fill must be finite in x's dtype, {dtype}: got {shown(fill)}")
    along = [values.size if axis == channel else 1 for axis in range(len(shape))]
    return _kept_or_fill, (jnp.asarray(values, dtype).reshape(along),)


def _fill_values(fill: Any, dtype: Any, unit: str) -> Array:
    """Returns the values as an array of any dtype; it may be complex only if `dtype` is complex."""
    is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
    fill = unboxed(fill)
    given = fill if is_sequence(fill) else (fill,)
    kind = numbers.Complex if is_complex else numbers.Real
    if all(isinstance(number, kind) and not isinstance(number, bool) for number in given):
        with contextlib.suppress(OverflowError, TypeError):
            return np.asarray(fill, complex if is_complex else float)
        raise ValueError(f"fill must be finite in x's dtype, {dtype}: got {shown(fill)}")
    if not is_array(fill) or not (
        jnp.issubdtype(fill.dtype, jnp.integer)
        or jnp.issubdtype(fill.dtype, jnp.inexact if is_complex else jnp.floating)
    ):
        kind_of_number = "complex" if is_complex else "real"
        kind_of_error = ValueError if isinstance(fill, str) else TypeError
        raise kind_of_error(
            f"fill must be a {kind_of_number} number, one for each {unit}, or 'mean': "
            f"got {shown(fill)}"
        )
    return fill


def _can_hold(dtype: Any, values: Array) -> bool:
    """Whether all finite values are finite in the dtype too."""
    parts = np.asarray(values, complex).reshape(-1).view(float)
    return not np.any(np.isfinite(parts) & (np.abs(parts) > float(jnp.finfo(dtype).max)))
