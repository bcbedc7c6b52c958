"""Chooses how a pass of attention runs: in a kernel for TPUs, or in blocks that XLA compiles.

Both draw the same masks, and compute the same values up to rounding.

    platform, devices of the program                      way
    not a TPU, or this process has TPUs v2 to v4          the blocks of `flash`
    TPU, one device, or all axes of a shard_map           the kernel
    TPU, a mesh of explicit axes only                     the kernel, on each device's part
    TPU, several devices and automatic axes               the blocks

The kernel must also fit the inputs; see `fits` and `_divides`. On automatic axes XLA decides how
arrays are sharded after JAX has chosen, and it does not partition kernels. A derivative of a pass,
such as a second derivative, takes the blocks everywhere.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType, PartitionSpec

from .._compat import ClosedJaxpr, Primitive, jaxpr_as_fun, kernels_see_whole_arrays
from .._random.sharding import explicit_sharding, spec_of, vary_alike
from .._random.threefry import positions
from .kernel import fits
from .kernel_call import Places
from .tile import Operands, TilePlan


def by_kernel_or_blocks(
    kernel: Callable[..., Any],
    blocks: Callable[..., Any],
    plan: TilePlan,
    x: Operands,
    *others: jax.Array,
) -> Any:
    """Returns blocks(plan, x, *others), or the same from kernel(plan, x, places, *others)."""
    if not fits(plan, x) or not _divides(x):
        return blocks(plan, x, *others)
    operands = vary_alike((x, first_places(x), others))
    leaves, tree = jax.tree.flatten(operands)

    def run_kernel(*leaves: jax.Array) -> Any:
        x, places, others = jax.tree.unflatten(tree, leaves)
        return jax.tree.leaves(kernel(plan, x, places, *others))

    def run_blocks(*leaves: jax.Array) -> Any:
        x, _, others = jax.tree.unflatten(tree, leaves)
        return blocks(plan, x, *others)

    traced, shapes = jax.make_jaxpr(run_blocks, return_shape=True)(*leaves)
    results = _pass.bind(*leaves, kernel=run_kernel, blocks=traced)
    return jax.tree.unflatten(jax.tree.structure(shapes), results)


def first_places(x: Operands) -> Places | None:
    """Returns where the mask of each head begins among all draws."""
    if x.source is None:
        return None
    *batch, _, heads, _ = x.query.shape
    shape = x.source.spans.seed_shape
    words = positions(jnp.zeros((*shape[:-2], 1, 1), bool), None, shape)
    *spec, _, of_heads, _ = spec_of(x.query)
    sharded = explicit_sharding(x.query) is not None

    def of_each_head(word: Any) -> jax.Array:
        word = jnp.broadcast_to(word, (*shape[:-2], 1, 1))[..., 0, 0]
        word = jnp.broadcast_to(word, (*batch, heads))
        if sharded:
            word = jax.sharding.reshard(word, PartitionSpec(*spec, of_heads))
        place: jax.Array = word
        return place

    high, low = map(of_each_head, words)
    return high, low


def _divides(x: Operands) -> bool:
    """Whether a device with a part of the inputs can run the kernel, if they are sharded at all.

    It must have the heads of key and value that belong to its heads of query. A bias takes the
    blocks: they compute its gradient, and they draw the mask of the whole batch.
    """
    if explicit_sharding(x.query) is None:
        return True
    of_query = spec_of(x.query)[-2]
    return x.bias is None and all(spec_of(array)[-2] == of_query for array in (x.key, x.value))


_pass = Primitive("attention_pass")
"""results = attention_pass(*operands; kernel, blocks), a pass as a function and as a jaxpr.

`lax.platform_dependent` does not know the devices of a program.
"""
_pass.multiple_results = True


def _lower_for_tpu(ctx: Any, *operands: Any, kernel: Any, blocks: ClosedJaxpr) -> Any:
    way = _kernel_of_devices(ctx, kernel) or jaxpr_as_fun(blocks)
    return mlir.lower_fun(way, multiple_results=True)(ctx, *operands)


def _kernel_of_devices(ctx: Any, kernel: Callable[..., Any]) -> Callable[..., Any] | None:
    """Returns the kernel for the devices that a program is lowered for, or None if none fits."""
    if not _have_vector_memory(jax.devices()):
        return None
    if kernels_see_whole_arrays(ctx):
        return kernel
    mesh = ctx.avals_in[0].sharding.mesh
    if not mesh.axis_types or {*mesh.axis_types} != {AxisType.Explicit}:
        return None
    in_specs = tuple(aval.sharding.spec for aval in ctx.avals_in)
    out_specs = [aval.sharding.spec for aval in ctx.avals_out]
    of_each_device: Callable[..., Any] = jax.shard_map(
        kernel, mesh=mesh, in_specs=in_specs, out_specs=out_specs
    )
    return of_each_device


def _have_vector_memory(devices: list[Any]) -> bool:
    """Whether chips have as much vector memory as a kernel may use. Older ones have 16 MiB.

    A program for another machine is lowered without its chips. It gets the kernel.
    """
    small = "TPU v2", "TPU v3", "TPU v4"
    return not any(device.device_kind.startswith(small) for device in devices)


def _lower(ctx: Any, *operands: Any, kernel: Any, blocks: ClosedJaxpr) -> Any:
    return mlir.lower_fun(jaxpr_as_fun(blocks), multiple_results=True)(ctx, *operands)


def _batch(operands: Any, dims: Any, *, kernel: Any, blocks: ClosedJaxpr) -> Any:
    mapped = jax.make_jaxpr(jax.vmap(jaxpr_as_fun(blocks), dims))(*operands)
    results = _pass.bind(*operands, kernel=jax.vmap(kernel, dims), blocks=mapped)
    return results, [0] * len(results)


def _jvp(primals: Any, tangents: Any, *, kernel: Any, blocks: ClosedJaxpr) -> Any:
    tangents = map(ad.instantiate_zeros, tangents)
    return jax.jvp(jaxpr_as_fun(blocks), tuple(primals), tuple(tangents))


_pass.def_abstract_eval(lambda *_, kernel, blocks: blocks.out_avals)
_pass.def_impl(lambda *operands, kernel, blocks: jaxpr_as_fun(blocks)(*operands))
ad.primitive_jvps[_pass] = _jvp
batching.primitive_batchers[_pass] = _batch
mlir.register_lowering(_pass, _lower)
mlir.register_lowering(_pass, _lower_for_tpu, platform="tpu")
