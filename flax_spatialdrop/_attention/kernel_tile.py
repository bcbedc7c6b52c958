"""A tile of attention weights inside a kernel: its scores and products, and the loop over parts."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._compat import pallas
from .kernel_blocks import Tiles
from .kernel_draws import Draws
from .scores import capped, in_window, slope_of_cap


def precision_in_kernel(precision: Any) -> lax.Precision | None:
    """Returns the precision of products in a kernel, or None if they cannot have it."""
    pair = precision if isinstance(precision, tuple) else (precision,)
    try:
        found = {lax.Precision(each) for each in pair}
    except ValueError:  # an algorithm, such as "BF16_BF16_F32_X3"
        return None
    known = {lax.Precision.DEFAULT}, {lax.Precision.HIGHEST}
    return found.pop() if found in known else None


class Tile:
    """A tile of weights inside a kernel: its operands by name, and where it lies.

    Attributes:
      tiles: how the kernel divides its work.
      refs: the blocks of the operands, [rows, columns].
      step: the step of the grid, counted for each head.
      first_query, first_key: the position of its first weight.
      draws: its draws; None if nothing is dropped.
      is_needed: whether a window shows some of it; None if it does in every step.
    """

    def __init__(
        self,
        tiles: Tiles,
        refs: dict[str, Any],
        step: jax.Array,
        place: tuple[jax.Array, jax.Array],
        next_place: tuple[jax.Array, jax.Array],
        is_needed: jax.Array | None,
    ) -> None:
        self.tiles, self.refs, self.step, self.is_needed = tiles, refs, step, is_needed
        sizes = np.int32(tiles.queries.size), np.int32(tiles.keys.size)
        first, next_first = ((i * sizes[0], j * sizes[1]) for i, j in (place, next_place))
        self.first_query, self.first_key = first
        self.draws: Draws | None = None
        if tiles.drops:
            self.draws = Draws(tiles, refs["numbers"], refs["draws"], first, next_first)

    def compute(
        self, use: Callable[[jax.Array], None], start: Callable[[], None] | None = None
    ) -> None:
        """Calls start() once, then use(part) for each part, unless the whole tile is hidden.

        The draws of a part are in memory when use(part) begins.
        """
        pl, _ = pallas()
        shown, is_missing = self._is_shown(), self.step == 0

        def body(part: jax.Array, carry: jax.Array) -> jax.Array:
            use(part)
            return carry

        def use_all() -> None:
            if start is not None:
                start()
            lax.fori_loop(np.int32(0), np.int32(self.tiles.parts), body, np.int32(0))

        if self.draws is not None:
            if shown is not None:
                is_drawn = self.refs["is_drawn"]  # whether the tile before has drawn the first part
                is_missing = shown & (is_missing | (is_drawn[0] == 0))
                is_drawn[0] = shown.astype(np.int32)
            pl.when(is_missing)(lambda: self.draws.write(np.int32(0)))
        if shown is None:
            use_all()
        else:
            pl.when(shown)(use_all)

    def _is_shown(self) -> jax.Array | None:
        """Whether some of the tile is visible; None if it is in every step."""
        shown = [] if self.is_needed is None else [self.is_needed]
        if "mask" in self.refs:
            shown.append(self.refs["mask"][...].astype(np.int32).max() > 0)
        if "query_ids" in self.refs:
            of_queries, of_keys = self.refs["query_ids"][...], self.refs["key_ids"][...]
            shown += [of_queries.min() <= of_keys.max(), of_keys.min() <= of_queries.max()]
        return reduce(jnp.logical_and, shown) if shown else None

    def product(self, a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
        """The product of two matrices over these axes, summed in float32."""
        contracted = (((axis_a,), (axis_b,)), ((), ()))
        precision = precision_in_kernel(self.tiles.plan.precision)
        if a.dtype != jnp.float32:  # a product of two bfloat16 is exact
            precision = lax.Precision.DEFAULT
        return lax.dot_general(a, b, contracted, precision, jnp.float32)

    def rows(self, part: Any) -> Any:
        """The queries of a part, within the tile."""
        pl, _ = pallas()
        size = self.tiles.part_size
        return pl.ds(pl.multiple_of(part * np.int32(size), size), size)

    def scores(self, rows: Any, columns: slice) -> tuple[jax.Array, jax.Array | None]:
        """Returns the scores of some queries and keys, and their derivative, as `scores_of`."""
        plan, keys = self.tiles.plan, self.tiles.keys
        query, key = self.refs["query"][rows, :], self.refs["key"][columns, :]
        scores = capped(self.product(query, key, 1, 1), plan.soft_cap)
        slope = None if plan.soft_cap is None else slope_of_cap(scores, plan.soft_cap)
        if "bias" in self.refs:
            scores = scores + self._part_of("bias", rows, columns).astype(np.float32)
        row, column = (lax.broadcasted_iota(np.int32, scores.shape, axis) for axis in (0, 1))
        first_key = self.first_key + np.int32(columns.start)
        first = self.first_query + rows.start - first_key
        visible = in_window(plan.window, first, column - row)
        if keys.overlaps:
            visible.append(column < np.int32(keys.length) - first_key)
        if "mask" in self.refs:
            visible.append(self._part_of("mask", rows, columns).astype(np.int32) != 0)
        if "query_ids" in self.refs:
            of_queries = self._part_of("query_ids", rows, columns)
            visible.append(of_queries == self._part_of("key_ids", rows, columns))
        for shown in visible:
            scores = jnp.where(shown, scores, -np.float32(np.inf))
        return scores, slope

    def _part_of(self, name: str, rows: Any, columns: slice) -> jax.Array:
        """Takes some queries and keys of an operand that they may share."""
        ref = self.refs[name]
        part: jax.Array = ref[
            rows if ref.shape[0] > 1 else slice(None), columns if ref.shape[1] > 1 else slice(None)
        ]
        return part
