"""Calls a kernel of attention: its operands by name, the grid of its steps, and its memory."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._compat import pallas
from .._random.redraw import short_threshold
from .._typing import Array, Shape
from .kernel_blocks import Tiles
from .kernel_tile import Tile
from .tile import Operands
from .tiling import Tiling, in_reach

Places: TypeAlias = tuple[jax.Array, jax.Array]
"""Where the mask of each head begins among all draws: two words, uint32[*batch, heads]."""

_MEMORY = 60 * 2**20
"""The bytes of vector memory that a kernel may use."""


_Axis: TypeAlias = Tiling | int
"""An axis of an operand: in blocks, or as a whole with its size."""


class Call:
    """Collects the operands of a kernel by name, [*batch, heads, rows, columns], and runs it.

    Operands may have fewer heads than the grid, and batch axes of size 1.
    """

    def __init__(self, tiles: Tiles, x: Operands, places: Places | None) -> None:
        self.tiles = tiles
        *batch, _, heads, _ = x.query.shape
        self.grid: Shape = (*batch, heads)
        self.inputs: dict[str, tuple[jax.Array, Any]] = {}
        self.results: dict[str, tuple[Any, Any]] = {}
        self.scratch: dict[str, Any] = {}
        for name, array, axis in (
            ("query", x.query, tiles.queries),
            ("key", x.key, tiles.keys),
            ("value", x.value, tiles.keys),
        ):
            self.add(name, jnp.swapaxes(array, -2, -3), (axis, array.shape[-1]))
        if x.bias is not None:
            is_short = x.bias.dtype == jnp.bfloat16
            self._add_over_weights("bias", x.bias if is_short else jnp.asarray(x.bias, np.float32))
        if x.mask is not None:
            is_whole = min(x.mask.shape[-2:]) > 1
            self._add_over_weights(
                "mask", x.mask.astype(bool).astype(np.int8 if is_whole else np.int32)
            )
        if x.segment_ids is not None:
            of_queries, of_keys = x.segment_ids
            self._add_over_weights("query_ids", of_queries)
            self._add_over_weights("key_ids", of_keys)
        if x.source is not None and places is not None:
            threshold: Any = jnp.asarray(x.source.threshold)
            if tiles.has_short_draws:
                threshold = short_threshold(threshold)
            numbers = (x.source.words[0], x.source.words[1], threshold, *places)
            of_heads = [jnp.broadcast_to(number, self.grid) for number in numbers]
            self.add("numbers", jnp.stack(of_heads, -1)[..., None, :], (1, len(numbers)), "SMEM")
            self.add_scratch("draws", tiles.memory_shape, jnp.uint32)
            self.add_scratch("is_drawn", (1,), jnp.int32, "SMEM")

    def _add_over_weights(self, name: str, array: Array) -> None:
        """Adds an array with the axes of the weights, each of their size or 1."""
        rows, columns = array.shape[-2:]
        by_row = self.tiles.queries if rows > 1 else 1
        self.add(name, jnp.asarray(array), (by_row, self.tiles.keys if columns > 1 else 1))

    def add(
        self,
        name: str,
        array: jax.Array,
        axes: tuple[_Axis, _Axis],
        memory: str = "VMEM",
        padding: float = 0,
    ) -> None:
        """Adds an input, and pads its axes to whole blocks."""
        missing = [(0, 0)] * (array.ndim - 2) + [
            (0, axis.number * axis.size - axis.length if isinstance(axis, Tiling) else 0)
            for axis in axes
        ]
        if any(after for _, after in missing):
            array = jnp.pad(array, missing, constant_values=padding)
        self.inputs[name] = array, self._spec(array.shape[:-2], axes, memory)

    def add_result(self, name: str, axes: tuple[_Axis, _Axis], dtype: Any) -> None:
        """Adds an output."""
        sizes = (axis.number * axis.size if isinstance(axis, Tiling) else axis for axis in axes)
        query, _ = self.inputs["query"]
        one = query[(0,) * query.ndim].astype(dtype)  # varies over the axes of a shard_map
        shape = jax.eval_shape(lambda: jnp.broadcast_to(one, (*self.grid, *sizes)))
        self.results[name] = shape, self._spec(self.grid, axes, "VMEM")

    def add_scratch(
        self, name: str, shape: Shape, dtype: Any = jnp.float32, memory: str = "VMEM"
    ) -> None:
        """Adds an array that is kept from step to step."""
        _, pltpu = pallas()
        self.scratch[name] = getattr(pltpu, memory)(shape, dtype)

    def _spec(self, own: Shape, axes: tuple[_Axis, _Axis], memory: str) -> Any:
        """Returns which block of an operand a step of the grid needs; `own` are its first axes."""
        pl, pltpu = pallas()

        def index(*args: Any) -> tuple[Any, ...]:
            *at, step, steps = args
            first = [
                i if n == size else lax.div(i, np.int32(n // size))
                for i, n, size in zip(at, self.grid, own, strict=True)
            ]
            for axis in axes:
                row = {id(self.tiles.queries): 0, id(self.tiles.keys): 1}.get(id(axis))
                first.append(np.int32(0) if row is None else steps[row, step])
            return tuple(first)

        block = (axis.size if isinstance(axis, Tiling) else axis for axis in axes)
        space = getattr(pltpu, memory)
        return pl.BlockSpec((*[None] * len(own), *block), index, memory_space=space)

    def run(
        self,
        step: Callable[..., None],
        name: str,
        *,
        query_blocks: range | None = None,
        interpret: bool = False,
    ) -> Any:
        """Calls step(tile, is_first, is_last) for each head and tile; returns the results.

        The tiles go by blocks of queries, or by blocks of keys over these blocks of queries.
        """
        pl, pltpu = pallas()
        steps = _steps(self.tiles, query_blocks)
        all_needed = steps[-1].all()
        names = [*self.inputs, *self.results, *self.scratch]

        def kernel(steps: Any, *refs: Any) -> None:
            at = pl.program_id(len(self.grid))
            i, j, is_first, is_last, is_needed = (steps[row, at] for row in range(5))
            next_step = jnp.minimum(at + np.int32(1), np.int32(steps.shape[1] - 1))
            next_place = steps[0, next_step], steps[1, next_step]
            refs_by_name = dict(zip(names, refs, strict=True))
            needed = None if all_needed else is_needed != 0
            tile = Tile(self.tiles, refs_by_name, at, (i, j), next_place, needed)
            step(tile, is_first != 0, is_last != 0)

        grid_spec = pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(*self.grid, steps.shape[1]),
            in_specs=[spec for _, spec in self.inputs.values()],
            out_specs=[spec for _, spec in self.results.values()],
            scratch_shapes=[*self.scratch.values()],
        )
        return pl.pallas_call(
            kernel,
            grid_spec=grid_spec,
            out_shape=[shape for shape, _ in self.results.values()],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=(*["parallel"] * len(self.grid), "arbitrary"),
                vmem_limit_bytes=_MEMORY,
            ),
            interpret=interpret,
            name=name,
        )(jnp.asarray(steps), *(array for array, _ in self.inputs.values()))


def _steps(tiles: Tiles, query_blocks: range | None) -> np.ndarray:
    """Returns the tiles to compute, int32[5, steps].

    The rows are the block of queries, the block of keys, whether the step is the first or the last
    one of its block, and whether the tile is needed. Each block has a step, since its results must
    be written.
    """
    needed = in_reach(tiles.plan.window, tiles.queries, tiles.keys)
    if query_blocks is not None:
        needed[: query_blocks.start] = needed[query_blocks.stop :] = False
        needed = needed.T.copy()
    is_empty = np.logical_not(needed.any(1))
    needed[is_empty, 0 if query_blocks is None else query_blocks.start] = True
    outer, inner = np.nonzero(needed)
    begins = np.diff(outer, prepend=-1) != 0
    ends = np.diff(outer, append=-1) != 0
    blocks = (outer, inner) if query_blocks is None else (inner, outer)
    return np.stack([*blocks, begins, ends, ~is_empty[outer]]).astype(np.int32)
