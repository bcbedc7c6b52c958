"""Dropout of each element with a fast key: one kernel on TPUs, fused operations elsewhere.

Both draw the same mask, and give the same output in every bit. `_lower_for_tpu` chooses:

    platform and devices of the program                    way
    not a TPU                                              fused operations
    TPU: one device, or all axes of a shard_map            the kernel
    TPU: a mesh of explicit axes                           the kernel, on each device's part of x
    TPU: several devices along automatic axes              fused operations

XLA does not partition kernels. Along automatic axes it decides after JAX how x is sharded, so only
operations of XLA draw each part where it lies. (`custom_partitioning` would let JAX decide. The
compiler without a TPU does not support it, so we could not test it.)

The kernel reads blocks of rows and lanes, without moving x first:

    x [8, 1024, 768]     8192 rows of 768 lanes
    x [8, 100, 512]      8 times 100 rows of 512 lanes, since a register has 8 rows
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.interpreters import ad, batching, mlir
from jax.sharding import PartitionSpec

from .._compat import Primitive, kernels_see_whole_arrays, pallas
from .._typing import Shape
from .groups import Groups, draws_of_groups, groups_of
from .redraw import redraw_mask, short_threshold
from .sharding import spec_of, vary_alike
from .threefry import FAST_ROUNDS, mark_as_used, rounds_of

Select: TypeAlias = Callable[..., jax.Array]
"""select(mask, x, scale) returns the output. It is linear in x, and works on parts of x."""

_BLOCK = 2**18
"""Elements of x that are copied to a chip's vector memory at once."""

_CHUNK = 2**15
"""Elements that are drawn at once. Fewer would wait for each other. More would gain little on v5e,
where the kernel already waits for the memory."""

_LEAST = 2**14
"""Elements of the smallest block that is worth a step of the kernel's grid."""

_ROWS = 16
"""Rows of a register of bfloat16; two of float32."""


class _View(NamedTuple):
    """How the kernel goes through x, an array of [*outer, rows, lanes], and through its mask."""

    groups: Groups
    outer: Shape
    strides: Shape
    """The distance in the whole mask of two neighbors along the outer axes and the rows."""
    rows: int
    lanes: int
    block: tuple[int, int]
    chunk: tuple[int, int]
    """The sizes of a block, and of the parts of it that are drawn at once, as rows and lanes."""


def has_kernel(key: jax.Array, x: jax.Array) -> bool:
    """Whether the kernel can draw the mask of x, if x has one device."""
    return rounds_of(key) == FAST_ROUNDS and _view(x.shape, x.shape, x.dtype) is not None


def _view(shape: Shape, whole: Shape, dtype: Any) -> _View | None:
    """Returns how to go through a part of an array, or None if the kernel does not fit.

    The part has this shape, and `whole` is the shape of the array and of its mask.
    """
    if dtype not in (jnp.float32, jnp.bfloat16) or len(shape) < 2:
        return None
    if not all(isinstance(size, int) for size in whole) or not 0 < math.prod(whole) <= 2**32:
        return None
    groups = groups_of(whole)
    if groups is None or shape[groups.axis] % groups.span or shape[-1] % 128:
        return None
    *outer, rows, lanes = shape
    strides = [math.prod(whole[axis + 1 :]) for axis in range(len(whole) - 1)]
    while outer and rows % 8 == 0 and strides[-2] == rows * strides[-1]:
        rows *= outer.pop()
        del strides[-2]
    unit, width = (groups.span, 128) if groups.axis == -2 else (_ROWS, groups.span)
    chunk_rows = _part(rows, _CHUNK // width, unit)
    block_lanes = _divisor(lanes, _BLOCK // chunk_rows, width)
    chunk_lanes = _divisor(block_lanes, _CHUNK // chunk_rows, width)
    block_rows = _part(rows, _BLOCK // block_lanes, chunk_rows)
    if min(rows, block_rows) * block_lanes < _LEAST:
        return None
    block, chunk = (block_rows, block_lanes), (chunk_rows, chunk_lanes)
    return _View(groups, tuple(outer), tuple(strides), rows, lanes, block, chunk)


def _part(size: int, most: int, unit: int) -> int:
    """Returns the size of equal parts of an axis: a multiple of `unit`, not far above `most`."""
    count = -(-size // max(most, unit))
    return -(-size // (count * unit)) * unit


def _divisor(size: int, most: int, unit: int) -> int:
    """Returns the largest divisor of `size` that is a multiple of `unit` and at most `most`."""
    lengths = range(unit, max(most, unit) + 1, unit)
    return max(length for length in lengths if size % length == 0)


def drop_in_kernel(
    select: Select, key: jax.Array, x: jax.Array, threshold: Any, scale: Any
) -> jax.Array:
    """Returns select(mask, x, scale) for the mask of a fast key, where `has_kernel` is true.

    The derivative keeps the key's words and draws the mask again, in both modes.
    """
    words = jax.random.key_data(key)
    mark_as_used(key)
    operands = vary_alike((x, words, jnp.asarray(threshold), jnp.asarray(scale)))
    y: jax.Array = _drop.bind(*operands, select=select, mapped=())
    return y


def _by_fusion(
    x: jax.Array, words: jax.Array, threshold: jax.Array, scale: jax.Array, *, select: Select
) -> jax.Array:
    """Draws and applies the mask in a form that XLA fuses."""
    return select(redraw_mask(words, FAST_ROUNDS, threshold, x), x, scale)


def _by_shards(
    x: jax.Array, words: jax.Array, threshold: jax.Array, scale: jax.Array, *, select: Select
) -> jax.Array:
    """Runs the kernel on each device's part of x, on a mesh of explicit axes."""
    mesh, spec = jax.typeof(x).sharding.mesh, PartitionSpec(*spec_of(x))

    def part(x: jax.Array, *others: jax.Array) -> jax.Array:
        first = jnp.uint32(0)
        for axis, names in enumerate(spec):
            if names is not None:
                stride = x.shape[axis] * math.prod(whole[axis + 1 :])
                first += lax.axis_index(names).astype(np.uint32) * np.uint32(stride % 2**32)
        return by_kernel(x, *others, select=select, whole=whole, first=first)

    whole, nowhere = x.shape, PartitionSpec()
    in_specs = (spec, *[nowhere] * 3)
    # All derivatives have been taken, so JAX need not know along which axes the parts differ.
    run = jax.shard_map(part, mesh=mesh, in_specs=in_specs, out_specs=spec, check_vma=False)
    y: jax.Array = run(x, words, threshold, scale)
    return y


def by_kernel(
    x: jax.Array,
    words: jax.Array,
    threshold: jax.Array,
    scale: jax.Array,
    *,
    select: Select,
    whole: Shape | None = None,
    first: jax.Array | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Draws and applies the mask in a kernel.

    x may be a part of an array of shape `whole`, whose first element has the position `first`.
    """
    view = _view(x.shape, x.shape if whole is None else whole, x.dtype)
    assert view is not None
    pl, pltpu = pallas()
    first = jnp.zeros_like(threshold) if first is None else first
    numbers = jnp.stack([words[0], words[1], short_threshold(threshold), first])
    # With two axes of their own, vmap keeps them whole, as the compiler requires.
    numbers, scale = vary_alike((numbers[None], scale[None, None]))
    viewed = x.reshape(*view.outer, view.rows, view.lanes)
    squeezed = (None,) * len(view.outer)
    block = pl.BlockSpec((*squeezed, *view.block), lambda *index: index)
    scalars = pl.BlockSpec(memory_space=pltpu.SMEM)
    grid = (*view.outer, pl.cdiv(view.rows, view.block[0]), view.lanes // view.block[1])
    y: jax.Array = pl.pallas_call(
        partial(_kernel, view, select),
        grid=grid,
        in_specs=[scalars, scalars, block],
        out_specs=block,
        out_shape=jax.eval_shape(lambda: viewed),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",) * len(grid)),
        interpret=interpret,
        name="flax_spatialdrop",
    )(numbers, scale, viewed)
    return y.reshape(x.shape)


def _kernel(view: _View, select: Select, numbers: Any, scale: Any, x: Any, y: Any) -> None:
    """Applies the mask to a block of x."""
    pl, _ = pallas()
    rows, lanes = view.chunk
    start = numbers[0, 3]
    steps = [*[1] * len(view.outer), view.block[0]]
    for axis, (step, stride) in enumerate(zip(steps, view.strides, strict=True)):
        start += pl.program_id(axis).astype(np.uint32) * np.uint32(step * stride % 2**32)
    start += pl.program_id(len(steps)).astype(np.uint32) * np.uint32(view.block[1])
    words = numbers[0, 0], numbers[0, 1]
    threshold = numbers[0, 2].astype(np.int32)
    offsets = _offsets(view)

    def draw_and_apply(index: jax.Array, _: None) -> None:
        across = np.int32(view.block[1] // lanes)
        row = pl.multiple_of(lax.div(index, across) * rows, rows)
        lane = pl.multiple_of(lax.rem(index, across) * lanes, lanes)
        place = start + row.astype(np.uint32) * np.uint32(view.strides[-1]) + lane.astype(np.uint32)
        draws = draws_of_groups(words, jnp.zeros_like(offsets), offsets + place)
        here = (pl.ds(row, rows), pl.ds(lane, lanes))
        members = _members(view, x[here].astype(np.float32))
        # Draws have 16 bits. TPUs compare signed integers faster than unsigned ones.
        kept = (lax.bitcast_convert_type(draw, np.int32) < threshold for draw in draws)
        pairs = zip(kept, members, strict=True)
        out = [select(mask, member, scale[0, 0]) for mask, member in pairs]
        y[here] = _joined(view, out).astype(y.dtype)

    lax.fori_loop(0, view.block[0] // rows * (view.block[1] // lanes), draw_and_apply, None)


def _offsets(view: _View) -> jax.Array:
    """Returns the distance of the first member of each group from the start of a chunk."""
    rows, lanes = view.chunk
    along_rows = view.groups.axis == -2
    shape = (rows // 32, 8, lanes) if along_rows else (lanes // 512, rows, 128)
    group, row, lane = (lax.broadcasted_iota(np.uint32, shape, axis) for axis in range(3))
    if along_rows:
        row += group * np.uint32(view.groups.span)
    else:
        lane += group * np.uint32(view.groups.span)
    return row * np.uint32(view.strides[-1]) + lane


def _members(view: _View, x: jax.Array) -> list[jax.Array]:
    """Returns the four members of each group of a chunk, in the shape of `_offsets`.

    They are whole registers, so nothing moves.
    """
    rows, lanes = x.shape
    if view.groups.axis == -2:
        x = x.reshape(rows // 32, 4, 8, lanes)
        return [x[:, d] for d in range(4)]
    registers = [x[:, lane : lane + 128] for lane in range(0, lanes, 128)]
    return [jnp.stack(registers[d::4]) for d in range(4)]


def _joined(view: _View, members: list[jax.Array]) -> jax.Array:
    """The inverse of `_members`."""
    if view.groups.axis == -2:
        return jnp.stack(members, 1).reshape(view.chunk)
    groups = range(view.chunk[1] // view.groups.span)
    return jnp.concatenate([member[group] for group in groups for member in members], 1)


_drop = Primitive("flax_spatialdrop")
"""y = drop(x, words, threshold, scale; select, mapped), linear in x.

`mapped` has an entry for each vmap around it, from the inner one to the outer one: the axes of the
operands that are mapped. JAX's other ways to have the derivative of a kernel allow the reverse mode
only, and choose before the devices of a program are known.
"""


def _under_vmap(way: Callable[..., jax.Array], mapped: Any, **params: Any) -> Callable[..., Any]:
    f = partial(way, **params)
    for axes in mapped:
        f = jax.vmap(f, axes)
    return f


def _run(*operands: jax.Array, mapped: Any, **params: Any) -> Any:
    return _under_vmap(_by_fusion, mapped, **params)(*operands)


def _jvp(primals: Any, tangents: Any, **params: Any) -> Any:
    x, *others = primals
    y = _drop.bind(x, *others, **params)
    if isinstance(tangents[0], ad.Zero):
        return y, ad.Zero(jax.typeof(y).to_tangent_aval())
    return y, _drop.bind(tangents[0], *others, **params)


def _transpose(ct: Any, x: Any, *others: Any, **params: Any) -> Any:
    d_x = ad.Zero(x.aval) if isinstance(ct, ad.Zero) else _drop.bind(ct, *others, **params)
    return d_x, *[None] * len(others)


def _batch(operands: Any, dims: Any, *, mapped: Any, **params: Any) -> Any:
    size = next(a.shape[d] for a, d in zip(operands, dims, strict=True) if d is not None)
    x, *others = operands
    x = batching.bdim_at_front(x, dims[0], size)  # so that x and the output have one shape
    return _drop.bind(x, *others, mapped=(*mapped, (0, *dims[1:])), **params), 0


def _lower_for_tpu(ctx: Any, *operands: Any, mapped: Any, **params: Any) -> Any:
    x = ctx.avals_in[0]
    way = _by_fusion
    if kernels_see_whole_arrays(ctx):
        way = by_kernel
    elif not mapped and _has_shards_for_kernel(x):
        way = _by_shards
    f = _under_vmap(way, mapped, **params)
    return mlir.lower_fun(f, multiple_results=False)(ctx, *operands)


def _has_shards_for_kernel(x: Any) -> bool:
    """Whether the kernel fits the part of x on each device of a mesh with explicit axes only."""
    mesh = x.sharding.mesh
    if mesh.empty or not mesh.are_all_axes_explicit:
        return False
    return _view(x.sharding.shard_shape(x.shape), x.shape, x.dtype) is not None


_drop.def_abstract_eval(lambda x, *others, **params: x.update(weak_type=False))
_drop.def_impl(_run)
ad.primitive_jvps[_drop] = _jvp
ad.primitive_transposes[_drop] = _transpose
batching.primitive_batchers[_drop] = _batch
mlir.register_lowering(_drop, mlir.lower_fun(_run, multiple_results=False))
mlir.register_lowering(_drop, _lower_for_tpu, platform="tpu")
