"""All code that depends on the version of JAX or Flax, or on their private parts.

Nothing here is public. Names of Flax are imported on first use, since the core does not need Flax.
So is chex, since importing it takes about as long as importing the rest of this package.
"""

import importlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Primitive, jaxpr_as_fun
from jax.extend.random import define_prng_impl, threefry_prng_impl

__all__ = [
    "CALLS",
    "CAN_DRAW_SHARDED",
    "CAN_REMAT_INSIDE",
    "REMATS",
    "ClosedJaxpr",
    "Jaxpr",
    "Literal",
    "Primitive",
    "as_linear",
    "assert_same_form",
    "assert_shape",
    "define_prng_impl",
    "is_trial_of_scan",
    "jaxpr_as_fun",
    "kernels_see_whole_arrays",
    "pallas",
    "split_streams",
    "threefry_prng_impl",
    "vary",
    "varying_axes",
]

CAN_REMAT_INSIDE = jax.__version_info__ >= (0, 10, 2)
"""Whether a branch of `cond` that is checkpointed may use PRNG keys. JAX before 0.10.2 fails in its
derivative."""

CAN_DRAW_SHARDED = jax.__version_info__ >= (0, 10)
"""Whether a draw with an `out_sharding` uses its key once. `jax_debug_key_reuse` counts two uses in
JAX 0.8."""

CALLS = {"jit", "pjit", "closed_call"}
"""The names of the primitive of `jax.jit` in the versions of JAX."""

REMATS = {"checkpoint", "remat", "remat2"}
"""The names of the primitive of `jax.checkpoint` in the versions of JAX."""


def as_linear(f: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the linear function f in a form that JAX can transpose.

    JAX before 0.10 transposes a scan only if the scan comes from `jax.jvp`.
    """
    if jax.__version_info__ >= (0, 10):
        return f
    return lambda *args: jax.jvp(f, jax.tree.map(jnp.zeros_like, args), args)[1]


def assert_shape(x: Any, shape: tuple[Any, ...]) -> None:
    """Asserts the shape of an array that this package computed."""
    import chex

    chex.assert_shape(x, shape)


def assert_same_form(x: Any, y: Any) -> None:
    """Asserts that an output has the shape and dtype of the input."""
    import chex

    chex.assert_trees_all_equal_shapes_and_dtypes(x, y)


def vary(x: Any, axes: tuple[str, ...]) -> Any:
    """Marks x as differing along these axes of a shard_map's mesh."""
    if hasattr(lax, "pcast"):
        return lax.pcast(x, axes, to="varying")
    return lax.pvary(x, axes)  # type: ignore[attr-defined]  # before JAX 0.9


def varying_axes(x: Any) -> frozenset[str]:
    """The axes of a shard_map's mesh along which the devices' values of x may differ."""
    kind = jax.typeof(x)
    axes: frozenset[str] = kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying
    return axes


def is_trial_of_scan() -> bool:
    """Whether this runs while Flax traces the body of an nn.scan only to find its constants.

    Flax after 0.12.8 fails if this trace contains a callback.
    """
    frame = sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        is_flax_s_scan = frame.f_globals.get("__name__") == "flax.core.axes_scan"
        if is_flax_s_scan and frame.f_locals.get("init_mode"):
            return True
    return False


def split_streams(model: Any, **options: Any) -> Any:
    """Splits the streams of an NNX model in place until a with-block ends, in tree mode too.

    In tree mode, `nnx.split_rngs` itself returns a copy.
    """
    nnx = importlib.import_module("flax.nnx")
    if hasattr(nnx, "compat"):  # not in Flax 0.12.5
        return nnx.compat.split_rngs(model, **options)
    return nnx.split_rngs(model, graph=True, **options)


def pallas() -> tuple[Any, Any]:
    """Returns Pallas and its part for TPUs, which take long to import."""
    pallas = importlib.import_module("jax.experimental.pallas")
    return pallas, importlib.import_module("jax.experimental.pallas.tpu")


def kernels_see_whole_arrays(ctx: Any) -> bool:
    """Whether XLA need not partition the kernels of a program that is being lowered.

    So it is for one device, and inside of a shard_map over all axes of the mesh. `ctx` is that of a
    lowering rule. JAX refuses other Pallas kernels for TPUs.
    """
    devices = ctx.module_context.axis_context
    if hasattr(devices, "num_devices"):
        one: bool = devices.num_devices == 1
        return one
    if not hasattr(devices, "manual_axes"):
        return False
    outer = getattr(devices.mesh, "manual_axes", ())
    return {*devices.manual_axes, *outer} == {*devices.mesh.axis_names}


def register_nnx_class(cls: Any) -> None:
    """Registers a derived class of modules of NNX as Flax does, without hooks of other classes."""
    nnx = importlib.import_module("flax.nnx")
    nnx.Module.__init_subclass__.__func__(cls, pytree=cls._pytree__is_pytree)


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
