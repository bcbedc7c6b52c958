"""Attention in blocks as Pallas kernels for TPUs: the passes of `flash`, forward and backward.

A kernel copies tiles to the vector memory of a chip, and computes their weights and masks there:

    forward     for each block of queries, over the blocks of keys: the outputs and the log-sums
    backward    for each block of keys, over the blocks of queries: all three gradients at once; the
                gradient of all queries of a head stays in vector memory

Tiles that a window hides have no step. A tile that a mask or segments hide is skipped when its step
comes. Lengths are padded to whole blocks, and the padding is hidden. Both passes draw a tile of the
mask of dropout from the words of the key and its position. The four weights of a group share a hash
(see `groups`), and lie at the same place of four registers.
"""

import math
from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import is_symbolic
from .._compat import pallas
from .._random.groups import BITS, draws_of_groups, groups_of
from .._random.threefry import FAST_ROUNDS, hash_words
from .._typing import Array, Shape
from .scores import capped, in_window, slope_of_cap
from .tile import Operands, TilePlan
from .tiling import Tiling, in_reach

Places: TypeAlias = tuple[jax.Array, jax.Array]
"""Where the mask of each head begins among all draws: two words, uint32[*batch, heads]."""

_DEPTHS = (64, 128, 256)
_LANES = 128
_SHORTEST = 128
"""The least length that is worth a kernel."""

_LONGEST_QUERIES = 1024
_LONGEST_KEYS = 1024
_PART = 256
"""The queries of a tile whose weights are computed at once."""

_MOST_RESIDENT = 2**22
"""The numbers in the gradient of the queries of a head, which stays in vector memory."""

_MEMORY = 60 * 2**20
"""The bytes of vector memory that a kernel may use."""


def fits(plan: TilePlan, x: Operands) -> bool:
    """Whether the kernels can compute this attention. If not, XLA's blocks do on every platform."""
    *batch, queries, heads, depth = x.query.shape
    keys, features = x.key.shape[-3], x.value.shape[-1]
    if any(map(is_symbolic, (*batch, queries, heads, keys))) or x.first_row is not None:
        return False
    if x.query.dtype not in (jnp.float32, jnp.bfloat16) or not _has_precision(plan.precision):
        return False
    if depth not in _DEPTHS or features not in _DEPTHS or min(queries, keys) < _SHORTEST:
        return False
    if queries * depth > _MOST_RESIDENT:
        return False
    if x.source is None:
        return True
    spans = x.source.spans
    return not spans.long_axes and math.prod(spans.noise_shape[-2:]) <= 2**32


def _has_precision(precision: Any) -> bool:
    """Whether products in a kernel can have this precision."""
    pair = precision if isinstance(precision, tuple) else (precision,)
    known = (None, "default", lax.Precision.DEFAULT, "highest", lax.Precision.HIGHEST)
    return len({*pair}) == 1 and pair[0] in known


class _Tiles(NamedTuple):
    """How a kernel divides its work, all static.

    Attributes:
      plan: the options of the call; its blocks are those of XLA and mean nothing here.
      queries, keys: the blocks of these axes. The last block ends in padding if it must.
      noise_shape: the shape of the mask of dropout; None if no weights are dropped.
      rounds: the number of rounds of the hash.
    """

    plan: TilePlan
    queries: Tiling
    keys: Tiling
    noise_shape: Shape | None
    rounds: int

    @property
    def parts(self) -> list[slice]:
        """The queries of each part, within a tile."""
        size = math.gcd(self.queries.size, _PART)
        return [slice(start, start + size) for start in range(0, self.queries.size, size)]


def _tiles(plan: TilePlan, x: Operands) -> _Tiles:
    queries, keys = x.query.shape[-3], x.key.shape[-3]
    unit = 4 * _LANES if keys % (4 * _LANES) == 0 else _LANES
    return _Tiles(
        plan,
        Tiling(queries, _block(queries, _LANES, _LONGEST_QUERIES)),
        Tiling(keys, _block(keys, unit, _LONGEST_KEYS)),
        None if x.source is None else x.source.spans.noise_shape,
        0 if x.source is None else x.source.rounds,
    )


def _block(length: int, unit: int, most: int) -> int:
    """The size of blocks: a multiple of `unit` for which there is little padding and few blocks."""
    sizes = range(unit, max(most, unit) + 1, unit)
    return min(sizes, key=lambda size: -(-length // size) * (size + _LANES))


def forward(
    plan: TilePlan, x: Operands, places: Places | None, *, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Returns the outputs, and log(sum of exp(scores)) of each query, [*batch, heads, queries]."""
    call = _Call(_tiles(plan, x), x, places)
    queries, features = call.tiles.queries, x.value.shape[-1]
    call.add_result("y", (queries, features), x.value.dtype)
    call.add_result("log_sums", (1, queries), jnp.float32)
    call.add_scratch("largest", (queries.size, _LANES))
    call.add_scratch("totals", (queries.size, _LANES))
    call.add_scratch("sums", (queries.size, features))
    y, log_sums = call.run(_forward_step, "attention_forward", interpret=interpret)
    y = jnp.swapaxes(y[..., : queries.length, :], -2, -3)
    return y, log_sums[..., 0, : queries.length]


def backward(
    plan: TilePlan,
    x: Operands,
    places: Places | None,
    log_sums: jax.Array,
    deltas: jax.Array,
    d_y: jax.Array,
    *,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the gradients of the query, the key and the value."""
    call = _Call(_tiles(plan, x), x, places)
    queries, keys = call.tiles.queries, call.tiles.keys
    depth, features = x.query.shape[-1], x.value.shape[-1]
    call.add("d_y", jnp.swapaxes(d_y, -2, -3), (queries, features))
    call.add("log_sums", log_sums[..., None, :], (1, queries), padding=np.inf)
    call.add("deltas", deltas[..., None, :], (1, queries))
    call.add_result("d_query", (queries.number * queries.size, depth), jnp.float32)
    for name, array in (("d_key", x.key), ("d_value", x.value)):
        is_grouped = array.shape[-2] != x.query.shape[-2]
        dtype = jnp.float32 if is_grouped else array.dtype
        call.add_result(name, (keys, array.shape[-1]), dtype)
    call.add_scratch("sum_key", (keys.size, depth))
    call.add_scratch("sum_value", (keys.size, features))
    d_query, d_key, d_value = call.run(
        _backward_step, "attention_backward", by_key=True, interpret=interpret
    )
    d_query = jnp.swapaxes(d_query[..., : queries.length, :], -2, -3).astype(x.query.dtype)
    return d_query, _sum_groups(d_key, x.key), _sum_groups(d_value, x.value)


def _sum_groups(d: jax.Array, like: jax.Array) -> jax.Array:
    """Sums [*batch, heads, padded keys, features] over the heads that share a head of `like`."""
    *batch, length, heads, features = like.shape
    d = d[..., :length, :].reshape(*batch, heads, -1, length, features)
    d = d[..., 0, :, :] if d.shape[-3] == 1 else d.sum(-3)
    return jnp.swapaxes(d, -2, -3).astype(like.dtype)


_Axis: TypeAlias = Tiling | int
"""An axis of an operand: in blocks, or as a whole with its size."""


class _Call:
    """Collects the operands of a kernel by name, [*batch, heads, rows, columns], and runs it.

    Operands may have fewer heads than the grid, and batch axes of size 1.
    """

    def __init__(self, tiles: _Tiles, x: Operands, places: Places | None) -> None:
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
            self._add_weights("bias", x.bias if is_short else jnp.asarray(x.bias, np.float32))
        if x.mask is not None:
            is_whole = min(x.mask.shape[-2:]) > 1
            self._add_weights("mask", x.mask.astype(bool).astype(np.int8 if is_whole else np.int32))
        if x.segment_ids is not None:
            of_queries, of_keys = x.segment_ids
            self._add_weights("query_ids", of_queries)
            self._add_weights("key_ids", of_keys)
        if x.source is not None and places is not None:
            threshold = jnp.asarray(x.source.threshold)
            if x.source.rounds == FAST_ROUNDS:
                threshold = threshold >> np.uint32(23 - BITS)
            numbers = (x.source.words[0], x.source.words[1], threshold, *places)
            of_heads = [jnp.broadcast_to(number, self.grid) for number in numbers]
            self.add("numbers", jnp.stack(of_heads, -1)[..., None, :], (1, len(numbers)), "SMEM")

    def _add_weights(self, name: str, array: Array) -> None:
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

    def add_scratch(self, name: str, shape: Shape) -> None:
        """Adds an array that is kept from step to step."""
        _, pltpu = pallas()
        self.scratch[name] = pltpu.VMEM(shape, jnp.float32)

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
        by_key: bool = False,
        interpret: bool = False,
    ) -> Any:
        """Calls step(tile, is_first, is_last) for each head and tile; returns the results."""
        pl, pltpu = pallas()
        steps = _steps(self.tiles, by_key)
        names = [*self.inputs, *self.results, *self.scratch]

        def kernel(steps: Any, *refs: Any) -> None:
            at = pl.program_id(len(self.grid))
            i, j, is_first, is_last = (steps[row, at] for row in range(4))
            tile = _Tile(self.tiles, dict(zip(names, refs, strict=True)), at, i, j)
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


def _steps(tiles: _Tiles, by_key: bool) -> np.ndarray:
    """Returns the tiles to compute, int32[4, steps].

    The rows are the block of queries, the block of keys, and whether the step is the first or the
    last one of its block. Each block has a step, since its results must be written.
    """
    needed = in_reach(tiles.plan.window, tiles.queries, tiles.keys)
    needed = needed.T.copy() if by_key else needed
    needed[~needed.any(1), 0] = True
    outer, inner = np.nonzero(needed)
    begins = np.diff(outer, prepend=-1) != 0
    ends = np.diff(outer, append=-1) != 0
    blocks = (inner, outer) if by_key else (outer, inner)
    return np.stack([*blocks, begins, ends]).astype(np.int32)


class _Tile:
    """A tile of weights inside a kernel: its operands by name, and where it lies.

    Attributes:
      tiles: how the kernel divides its work.
      refs: the blocks of the operands, [rows, columns].
      step: the step of the grid, counted for each head.
      first_query, first_key: the position of its first weight.
    """

    def __init__(
        self, tiles: _Tiles, refs: dict[str, Any], step: jax.Array, i: jax.Array, j: jax.Array
    ) -> None:
        self.tiles, self.refs, self.step = tiles, refs, step
        self.first_query = i * np.int32(tiles.queries.size)
        self.first_key = j * np.int32(tiles.keys.size)

    def when_shown(self, compute: Callable[[], None]) -> None:
        """Computes the tile, unless its mask or its segments hide all of it."""
        pl, _ = pallas()
        shown = []
        if "mask" in self.refs:
            shown.append(self.refs["mask"][...].astype(np.int32).max() > 0)
        if "query_ids" in self.refs:
            of_queries, of_keys = self.refs["query_ids"][...], self.refs["key_ids"][...]
            shown += [of_queries.min() <= of_keys.max(), of_keys.min() <= of_queries.max()]
        if shown:
            pl.when(reduce(jnp.logical_and, shown))(compute)
        else:
            compute()

    def product(self, a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
        """The product of two matrices over these axes, summed in float32."""
        contracted = (((axis_a,), (axis_b,)), ((), ()))
        return lax.dot_general(a, b, contracted, self.tiles.plan.precision, jnp.float32)

    def scores(self, rows: slice) -> tuple[jax.Array, jax.Array | None]:
        """Returns the scores of some queries, and their derivative, as `tile.scores_of`."""
        plan, keys = self.tiles.plan, self.tiles.keys
        query, key = self.refs["query"][rows, :], self.refs["key"][...]
        scores = capped(self.product(query, key, 1, 1), plan.soft_cap)
        slope = None if plan.soft_cap is None else slope_of_cap(scores, plan.soft_cap)
        if "bias" in self.refs:
            scores = scores + self._weights("bias", rows).astype(np.float32)
        row, column = (lax.broadcasted_iota(np.int32, scores.shape, axis) for axis in (0, 1))
        first = self.first_query + np.int32(rows.start) - self.first_key
        visible = in_window(plan.window, first, column - row)
        if keys.overlaps:
            visible.append(column < np.int32(keys.length) - self.first_key)
        if "mask" in self.refs:
            visible.append(self._weights("mask", rows).astype(np.int32) != 0)
        if "query_ids" in self.refs:
            visible.append(self._weights("query_ids", rows) == self.refs["key_ids"][...])
        for shown in visible:
            scores = jnp.where(shown, scores, -np.float32(np.inf))
        return scores, slope

    def _weights(self, name: str, rows: slice) -> jax.Array:
        """Takes some queries of an operand that they may share."""
        ref = self.refs[name]
        part: jax.Array = ref[rows, :] if ref.shape[0] > 1 else ref[...]
        return part

    def kept(self, rows: slice) -> list[jax.Array] | None:
        """The mask of dropout of some queries, 128 keys at a time; None if nothing is dropped."""
        tiles = self.tiles
        if tiles.noise_shape is None:
            return None
        groups = groups_of(tiles.noise_shape) if tiles.rounds == FAST_ROUNDS else None
        if groups is not None and groups.axis == -2:
            return self._kept_by_rows(rows, groups.span, groups.stride)
        offsets = self._offsets((rows.stop - rows.start, _LANES), (1, 0))
        columns = range(0, tiles.keys.size, _LANES if groups is None else groups.span)
        draws = (self._draws(rows, column, offsets) for column in columns)
        return [
            self._is_kept(draw)
            for group in draws
            for draw in (group[:1] if groups is None else group)
        ]

    def _kept_by_rows(self, rows: slice, span: int, stride: int) -> list[jax.Array]:
        """`kept` for groups along the queries."""
        size = rows.stop - rows.start
        offsets = self._offsets((size // span, stride, _LANES), (span, 1, 0))
        columns = range(0, self.tiles.keys.size, _LANES)
        draws = (jnp.stack(self._draws(rows, column, offsets), 1) for column in columns)
        return [self._is_kept(draw.reshape(size, _LANES)) for draw in draws]

    def _offsets(self, shape: Shape, queries: tuple[int, ...]) -> jax.Array:
        """Returns how many draws each element lies behind the first one.

        One step along an axis is as many `queries`, and along the last axis it is one key.
        """
        assert self.tiles.noise_shape is not None
        stride = self.tiles.noise_shape[-1]
        offsets = lax.broadcasted_iota(np.uint32, shape, len(shape) - 1)
        for axis, count in enumerate(queries[:-1]):
            index = lax.broadcasted_iota(np.uint32, shape, axis)
            offsets = offsets + index * np.uint32(count * stride)
        return offsets

    def _draws(self, rows: slice, column: int, offsets: jax.Array) -> tuple[jax.Array, ...]:
        """Returns the draws from a row and a column of the tile on."""
        assert self.tiles.noise_shape is not None
        numbers, stride = self.refs["numbers"], np.uint32(self.tiles.noise_shape[-1])
        words, high, low = (numbers[0, 0], numbers[0, 1]), numbers[0, 3], numbers[0, 4]
        row = (self.first_query + np.int32(rows.start)).astype(np.uint32)
        first = low + row * stride + (self.first_key + np.int32(column)).astype(np.uint32)
        place = first + offsets
        if math.prod(self.tiles.noise_shape) > 2**32:
            high = high + (first < low).astype(np.uint32) + (place < first).astype(np.uint32)
        if self.tiles.rounds == FAST_ROUNDS:
            return draws_of_groups(words, high, place)
        h0, h1 = hash_words(*words, high, place, self.tiles.rounds)
        return ((h0 ^ h1) >> np.uint32(9),)

    def _is_kept(self, draw: jax.Array) -> jax.Array:
        """Compares draws to the threshold, as signed integers, which is faster on TPUs."""
        threshold = self.refs["numbers"][0, 2]
        kept: jax.Array = draw.astype(np.int32) < threshold.astype(np.int32)
        return kept


def _forward_step(tile: _Tile, is_first: jax.Array, is_last: jax.Array) -> None:
    """The online softmax of a tile."""
    pl, _ = pallas()
    refs, minus_infinity = tile.refs, -np.float32(np.inf)
    largest, totals, sums = refs["largest"], refs["totals"], refs["sums"]

    def start() -> None:
        largest[...] = jnp.full_like(largest, minus_infinity)
        totals[...] = jnp.zeros_like(totals)  # of every 128th key
        sums[...] = jnp.zeros_like(sums)

    pl.when(is_first)(start)

    def add(rows: slice, scores: jax.Array) -> None:
        old, kept = largest[rows, :], tile.kept(rows)
        new = jnp.maximum(old, scores.max(-1, keepdims=True))
        reference = jnp.where(new == minus_infinity, np.float32(0), new)
        faded = jnp.exp(old - reference)
        total, pieces = totals[rows, :] * faded, []
        for n, column in enumerate(range(0, scores.shape[1], _LANES)):
            weights = jnp.exp(scores[:, column : column + _LANES] - reference)
            total = total + weights
            weights = weights if kept is None else jnp.where(kept[n], weights, np.float32(0))
            pieces.append(weights.astype(refs["value"].dtype))
        added = tile.product(jnp.concatenate(pieces, 1), refs["value"][...], 1, 0)
        largest[rows, :], totals[rows, :] = new, total
        sums[rows, :] = sums[rows, :] * faded[:, :1] + added

    def add_all() -> None:
        parts = tile.tiles.parts
        scores, _ = tile.scores(parts[0])
        for n, rows in enumerate(parts):
            # The matrix units compute the next scores while the vector units draw.
            following = tile.scores(parts[n + 1])[0] if n + 1 < len(parts) else scores
            add(rows, scores)
            scores = following

    tile.when_shown(add_all)

    def write() -> None:
        total = totals[...].sum(-1, keepdims=True)
        attends = total != 0  # True also for NaN
        total = jnp.where(attends, total, np.float32(1))
        refs["y"][...] = (sums[...] / total).astype(refs["y"].dtype)
        log_sums = jnp.where(attends, largest[...] + jnp.log(total), np.float32(np.inf))
        refs["log_sums"][...] = log_sums.T[:1, :]

    pl.when(is_last)(write)


def _backward_step(tile: _Tile, is_first: jax.Array, is_last: jax.Array) -> None:
    """The gradients of a tile, from weights that are computed again from the log-sums."""
    pl, _ = pallas()
    refs = tile.refs
    sum_key, sum_value, d_query = refs["sum_key"], refs["sum_value"], refs["d_query"]

    def start_head() -> None:
        d_query[...] = jnp.zeros_like(d_query)

    pl.when(tile.step == 0)(start_head)

    def start() -> None:
        sum_key[...] = jnp.zeros_like(sum_key)
        sum_value[...] = jnp.zeros_like(sum_value)

    pl.when(is_first)(start)

    def add(rows: slice) -> None:
        query, d_y, kept = refs["query"][rows, :], refs["d_y"][rows, :], tile.kept(rows)
        log_sums, deltas = (refs[name][0, rows][:, None] for name in ("log_sums", "deltas"))
        scores, slope = tile.scores(rows)
        weights = jnp.exp(scores - log_sums)
        dropped, d_weights = weights, tile.product(d_y, refs["value"][...], 1, 1)
        if kept is not None:
            mask = jnp.concatenate(kept, 1)
            dropped, d_weights = (jnp.where(mask, a, np.float32(0)) for a in (weights, d_weights))
        d_scores = weights * (d_weights - deltas)
        d_scores = d_scores if slope is None else d_scores * slope
        dropped, d_scores = dropped.astype(d_y.dtype), d_scores.astype(query.dtype)
        sum_value[...] += tile.product(dropped, d_y, 0, 0)
        sum_key[...] += tile.product(d_scores, query, 0, 0)
        first = pl.multiple_of(tile.first_query + np.int32(rows.start), _LANES)
        here = pl.ds(first, rows.stop - rows.start)
        d_query[here, :] += tile.product(d_scores, refs["key"][...], 1, 0)

    def add_all() -> None:
        for rows in tile.tiles.parts:
            add(rows)

    tile.when_shown(add_all)

    def write() -> None:
        refs["d_key"][...] = sum_key[...].astype(refs["d_key"].dtype)
        refs["d_value"][...] = sum_value[...].astype(refs["d_value"].dtype)

    pl.when(is_last)(write)
