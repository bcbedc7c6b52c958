"""From words about blocks to the axes that they lie along and their sizes: pure Python."""

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

from ._checks import (
    check_batch_dims,
    check_sequence,
    check_switch,
    is_at_most,
    is_symbolic,
    is_whole,
    plural,
    shown,
)
from ._noise_shape import axis_roles
from ._typing import DataFormat, Shape


class Blocks(NamedTuple):
    """Blocks inside the space axes of a mask.

    A block of 3 on 5 positions begins at one of 3 seeds, so position i is covered by up to n(i):

        position   0  1  2  3  4
        seeds      s  s  s            each the first position of its block
        n(i)       1  2  3  2  1      which blocks reach i

    Along an axis that a block covers whole, the mask has one draw for all: sizes 1 in both.

    Attributes:
      noise_shape: the mask's shape, as many axes as x.
      axes: the space axes.
      sizes: of a block along them.
      batch_dims: how many leading axes are batch axes.
    """

    noise_shape: Shape
    axes: Shape
    sizes: Shape
    batch_dims: int

    @property
    def space(self) -> Shape:
        """The sizes of the space axes."""
        return tuple(self.noise_shape[axis] for axis in self.axes)

    @property
    def long_axes(self) -> list[tuple[int, int]]:
        """The axes along which a block is longer than 1, each with its length."""
        return [(axis, size) for axis, size in zip(self.axes, self.sizes, strict=True) if size > 1]

    def check_sizes(self) -> None:
        """Raises unless it is known how many blocks reach each position."""
        for axis, size in self.long_axes:
            if is_symbolic(self.noise_shape[axis]):
                raise ValueError(
                    "block_size must be 1 along an axis of symbolic size, where blocks are drawn: "
                    f"got {size} along axis {axis} of size {shown(self.noise_shape[axis])}"
                )

    @property
    def seed_shape(self) -> Shape:
        """One seed for each place where a whole block fits: its corner of lowest indices."""
        shape = list(self.noise_shape)
        for axis, size in zip(self.axes, self.sizes, strict=True):
            shape[axis] += 1 - size
        return tuple(shape)


def resolve_blocks(
    what: str,
    shape: Shape,
    block_size: int | Sequence[int],
    *,
    per_channel: bool,
    data_format: DataFormat,
    batch_dims: int,
) -> Blocks:
    """The blocks that lie in x of `shape`; `what` names who asks."""
    batch_dims = check_batch_dims(batch_dims)
    roles = axis_roles(shape, data_format, batch_dims)
    axes = tuple(axis for axis, role in enumerate(roles) if role == "space")
    if not 1 <= len(axes) <= 3:
        raise ValueError(
            f"{what} takes x with 1 to 3 space axes between {plural(batch_dims, 'batch axis')} and "
            f"the channel axis: got x.shape={shape}, which has {len(axes)}"
        )
    check_switch(per_channel, "per_channel")
    sizes = list(_one_per_axis(block_size, len(axes)))
    noise_shape = [
        1 if role == "channel" and not per_channel else size
        for role, size in zip(roles, shape, strict=True)
    ]
    for i, axis in enumerate(axes):
        if is_at_most(noise_shape[axis], sizes[i]):
            sizes[i] = noise_shape[axis] = 1
    return Blocks(tuple(noise_shape), axes, tuple(sizes), batch_dims)


def _one_per_axis(block_size: Any, num_space: int) -> Shape:
    what = "a whole number of positions, or a tuple of one for each space axis"
    sizes = (
        (block_size,) * num_space
        if is_whole(block_size)
        else check_sequence(block_size, "block_size", what)
    )
    if not all(map(is_whole, sizes)):
        raise TypeError(f"block_size must be {what}: got {shown(block_size)}")
    if min(sizes, default=1) < 1:
        raise ValueError(f"block_size must be at least 1 along every axis: got {shown(block_size)}")
    if len(sizes) != num_space:
        raise ValueError(
            f"block_size needs one entry per space axis of x, {num_space} in all: "
            f"got block_size={shown(block_size)}"
        )
    return tuple(map(operator.index, sizes))
