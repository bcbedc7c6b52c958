"""Describes a noise shape in words, and draws a mask as a picture."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_name, check_sequence, shown
from .._noise_shape import check_mask_spreads, check_shape, resolve_noise_shape
from .._typing import Array, NoiseShape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_AXIS_NAMES = {
    1: ("feature",),
    2: ("sample", "feature"),
    3: ("sample", "time", "channel"),
    4: ("sample", "height", "width", "channel"),
    5: ("sample", "depth", "height", "width", "channel"),
}
_KEPT, _DROPPED = "#9ec9e2", "#33363b"
_GAP = 0.8  # between two grids, in cells


def explain(
    shape: Sequence[int],
    noise_shape: NoiseShape | None = None,
    *,
    broadcast_dims: Sequence[int] = (),
) -> str:
    """Describes in words which axes of x share draws, and how many elements can be zero.

        flips = product of noise_shape,   number of zeros = a multiple of size / flips

    Args:
      shape: the shape of x.
      noise_shape, broadcast_dims: as in `dropout`.

    Returns:
      Four lines of text.

    Raises:
      ValueError, TypeError: as in `dropout`.

    Example:
      >>> from flax_spatialdrop import explain
      >>> print(explain((2, 2, 2), (1, 2, 2)))
      x.shape (2, 2, 2), noise_shape (1, 2, 2)
      axis 0 shares its draw; axes 1, 2 have draws of their own
      4 independent coin flips, each for 2 of the 8 elements
      zeros possible 0, 2, 4, 6, 8

    Reference: Tompson et al., Efficient Object Localization Using Convolutional Networks, 2015,
    https://arxiv.org/abs/1411.4280 (dropping entire feature maps)
    """
    shape = check_shape(shape, "shape")
    resolved = resolve_noise_shape(shape, noise_shape, broadcast_dims)
    flips, size = math.prod(resolved), math.prod(shape)
    shared = [a for a, (n, s) in enumerate(zip(resolved, shape, strict=True)) if n != s]
    each = math.prod(shape[a] for a in shared) if flips != 0 else 0
    own = [a for a in range(len(shape)) if a not in shared]
    return "\n".join(
        [
            f"x.shape {shape}, noise_shape {resolved}",
            _sharing(shared, own),
            f"{flips} independent coin {'flip' if flips == 1 else 'flips'}, "
            f"each for {each} of the {size} elements",
            f"zeros possible {_multiples(each, flips)}",
        ]
    )


def plot_mask(
    mask_or_output: Array,
    *,
    ax: "Axes | None" = None,
    shape: Sequence[int] | None = None,
    axis_names: Sequence[str] | None = None,
    title: str | None = None,
) -> "Axes":
    """Draws a mask, or the output of a dropout, as a grid of kept and dropped cells.

        cell dropped  <=>  mask == False,  or output == 0

    Columns of a grid are the last axis, and rows are the axis before it. Each index of the other
    axes has its own grid, and the grids are drawn side by side. This needs matplotlib (the extra
    "plot").

    Args:
      mask_or_output: a bool mask, in noise shape or in the shape of x, or an array of numbers,
        where 0 means dropped. It needs at least one axis.
      ax: the matplotlib Axes to draw on; None makes a new figure.
      shape: the shape of x, to which a mask in noise shape is broadcast; None draws the mask in its
        own shape.
      axis_names: a name for each axis; None chooses names by the number of axes.
      title: the title of the plot; None for no title.

    Returns:
      The matplotlib Axes.

    Raises:
      ValueError: if the array has no axes or no elements, if the mask does not broadcast to shape,
        or if the number of names is not the number of axes.
      TypeError: if an argument has the wrong type, or the array is traced.
      ImportError: if matplotlib is not installed.

    Example:
      >>> import jax
      >>> from flax_spatialdrop import plot_mask, sample_mask
      >>> ax = plot_mask(sample_mask(jax.random.key(0), 0.5, (2, 1, 4)), shape=(2, 3, 4))
      >>> ax.figure.savefig("mask.png")  # doctest: +SKIP

    Reference: Tompson et al., Efficient Object Localization Using Convolutional Networks, 2015,
    https://arxiv.org/abs/1411.4280 (its figure 3 shows what is dropped)
    """
    try:
        import matplotlib.pyplot as plt
        from matplotlib.colors import ListedColormap
    except ImportError as error:
        raise ImportError(
            "plot_mask draws with matplotlib, which is not installed: "
            "pip install 'flax-spatialdrop[plot]'"
        ) from error

    if not hasattr(ax, "pcolormesh") and ax is not None:
        raise TypeError(
            f"ax must be one matplotlib Axes, or None for a new figure: got {shown(ax)}"
        )
    if title is not None:
        check_name(title, "title")
    kept = _check_numbers(mask_or_output, "mask_or_output") != 0
    if kept.size == 0 or kept.ndim == 0:
        raise ValueError(f"mask_or_output must have an axis and an element: got shape {kept.shape}")
    if shape is not None:
        shape = check_shape(shape, "shape")
        check_mask_spreads(kept.shape, shape, "mask_or_output", "shape")
        kept = np.broadcast_to(kept, shape)
    names = _names(kept.ndim, axis_names)
    rows, columns = (1, *kept.shape)[-2:]
    grids = kept.reshape(-1, rows, columns)
    if ax is None:
        width = len(grids) * (columns + _GAP)
        _, ax = plt.subplots(figsize=(min(12, 0.5 * width + 1), min(8, 0.5 * rows + 1)))
    colors = ListedColormap([_DROPPED, _KEPT])
    for index, grid in enumerate(grids):
        left = index * (columns + _GAP)
        edges = left + np.arange(columns + 1), np.arange(rows + 1)
        ax.pcolormesh(*edges, grid, cmap=colors, vmin=0, vmax=1, edgecolors="white")
        if kept.ndim > 2:
            name = _grid_name(index, kept.shape, names)
            ax.text(left + columns / 2, -0.2, name, ha="center", va="bottom", fontsize="small")
    ax.set_ylim(rows, -1)  # downwards, with room for the names above
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_frame_on(False)
    ax.set_xlabel(f"{names[-1]} →")
    if kept.ndim > 1:
        ax.set_ylabel(f"← {names[-2]}")
    if title is not None:
        ax.set_title(title)
    return ax


def _sharing(shared: list[int], own: list[int]) -> str:
    parts = []
    if shared:
        parts.append(f"{_axes(shared)} {'shares its' if len(shared) == 1 else 'share their'} draw")
    if own:
        verb = "has draws of its own" if len(own) == 1 else "have draws of their own"
        parts.append(f"{_axes(own)} {verb}")
    return "; ".join(parts) or "no axes: one draw for the only element"


def _axes(axes: list[int]) -> str:
    return f"{'axis' if len(axes) == 1 else 'axes'} {', '.join(map(str, axes))}"


def _multiples(each: int, flips: int, most: int = 17) -> str:
    if each == 0:
        return "0"
    if isinstance(flips, int) and flips < most:
        return ", ".join(str(each * n) for n in range(flips + 1))
    return f"0, {each}, {2 * each}, ..., {each * flips}, the multiples of {each}"


def _check_numbers(values: Any, name: str) -> np.ndarray:
    """Returns an array, or nested lists, of numbers or bools as a NumPy array."""
    if isinstance(values, jax.core.Tracer):
        raise TypeError(
            f"{name} must not be traced: got a traced array; call plot_mask outside jax.jit"
        )
    if isinstance(values, jax.Array) and jnp.issubdtype(values.dtype, jax.dtypes.extended):
        array = None  # an array of keys
    else:
        try:
            array = np.asarray(values)
        except ValueError:  # nested lists with different lengths
            array = None
    kinds = jnp.bool_, jnp.number
    if array is None or not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
        raise TypeError(f"{name} must be an array of bools or numbers: got {shown(values)}")
    return array


def _names(ndim: int, axis_names: Sequence[str] | None) -> tuple[str, ...]:
    if axis_names is None:
        return _AXIS_NAMES.get(ndim) or tuple(f"axis {axis}" for axis in range(ndim))
    names = check_sequence(axis_names, "axis_names", "a tuple of one name per axis")
    if len(names) != ndim:
        raise ValueError(
            f"axis_names needs one name per axis: got {shown(axis_names)} for {ndim} axes"
        )
    return tuple(check_name(name, f"axis_names[{axis}]") for axis, name in enumerate(names))


def _grid_name(grid: int, shape: tuple[Any, ...], names: tuple[str, ...]) -> str:
    index = np.unravel_index(grid, shape[:-2])
    return ", ".join(f"{name} {i}" for name, i in zip(names, index, strict=False))
