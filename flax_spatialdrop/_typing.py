"""The type aliases that signatures share."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import jax
import numpy as np

Array: TypeAlias = jax.Array | np.ndarray
"""An array given by the user, such as x or a mask: a JAX array, traced or not, or a NumPy array."""

Key: TypeAlias = jax.Array | None
"""One JAX PRNG key, typed or legacy; None where no key is needed."""

Rate: TypeAlias = float | jax.Array | np.ndarray
"""The probability to drop: a number in [0, 1] or a scalar array, traced or not."""

Shape: TypeAlias = tuple[int, ...]
"""The sizes of an array, or of a part of it."""

AxisNames: TypeAlias = str | Sequence[str]
"""The names of mapped axes, such as those of a shard_map's mesh: one name or a sequence of them."""

NoiseShape: TypeAlias = Sequence[int | None]
"""The shape of a mask, one entry per axis of x: 1 where the axis shares a draw, otherwise its size
or None."""

SegmentIds: TypeAlias = Array | Sequence[Array]
"""The number of the segment of each position, or a pair: of each query, and of each key."""

Window: TypeAlias = int | Sequence[int | None]
"""How far a query attends to the left and to the right: a number of keys, or a pair of them."""

DataFormat: TypeAlias = Literal["channels_last", "channels_first"]
"""Where the channel axis of x is: after the space axes, or before them."""

PathMode: TypeAlias = Literal["row", "batch"]
"""Whether each sample (row) of a batch has its own draw, or the whole batch shares one."""

ResidualMode: TypeAlias = Literal["row", "batch", "subset"]
"""As PathMode, or "subset": the branch runs on a fixed number of rows."""
