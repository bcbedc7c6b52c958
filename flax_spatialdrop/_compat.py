"""The one place for version gates, and for what JAX and Flax do not promise to keep.

Nothing here is public. What is of Flax is imported when it is asked for: the core needs no Flax.
"""

import importlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun
from jax.extend.random import define_prng_impl, threefry_prng_impl

__all__ = [
    "CALLS",
    "CAN_REMAT_INSIDE",
    "REMATS",
    "ClosedJaxpr",
    "Jaxpr",
    "Layout",
    "Literal",
    "as_linear",
    "define_prng_impl",
    "is_trial_of_scan",
    "jaxpr_as_fun",
    "threefry_prng_impl",
    "vary",
    "varying_axes",
    "with_layout_constraint",
]

CAN_REMAT_INSIDE = jax.__version_info__ >= (0, 10, 2)
"""JAX before 0.10.2 hands no keys, which a branch may draw with, to the derivative of a `cond`."""

CALLS = {"jit", "pjit", "closed_call"}
"""The names that the primitive of `jax.jit` has had."""

REMATS = {"checkpoint", "remat", "remat2"}
"""The names that the primitive of `jax.checkpoint` has had."""


def as_linear(f: Callable) -> Callable:
    """Returns f, which is linear. JAX before 0.10 transposes scans of its own derivatives alone."""
    if jax.__version_info__ >= (0, 10):
        return f
    return lambda *args: jax.jvp(f, jax.tree.map(jnp.zeros_like, args), args)[1]


def vary(x: Any, axes: tuple[str, ...]) -> Any:
    """Marks x as differing along these axes of a shard_map's mesh."""
    if hasattr(lax, "pcast"):
        return lax.pcast(x, axes, to="varying")
    return lax.pvary(x, axes)  # type: ignore[attr-defined]  # before JAX 0.9


def varying_axes(x: Any) -> frozenset[str]:
    """The axes of a shard_map's mesh along which devices have arrays of their own, by x's type."""
    kind = jax.typeof(x)
    return kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying


def is_trial_of_scan() -> bool:
    """Whether this runs in the trace of an nn.scan that Flax makes only to find its constants.

    After Flax 0.12.8 a callback in that trace, which cannot be left out, makes it fail.
    """
    frame = sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        is_flax_s_scan = frame.f_globals.get("__name__") == "flax.core.axes_scan"
        if is_flax_s_scan and frame.f_locals.get("init_mode"):
            return True
    return False


_OF_FLAX = {
    "linen_promote_dtype": ("flax.linen.dtypes", "promote_dtype"),
    "nnx_attention_weights": ("flax.nnx.nn.attention", "dot_product_attention_weights"),
    "nnx_promote_dtype": ("flax.nnx.nn.dtypes", "promote_dtype"),
}


def __getattr__(name: str) -> Any:
    if name not in _OF_FLAX:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _OF_FLAX[name]
    return getattr(importlib.import_module(module), attribute)
