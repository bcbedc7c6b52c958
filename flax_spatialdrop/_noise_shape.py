"""Finds the shape of a mask from the options of a regularizer, in pure Python without arrays.

A noise shape has one entry per axis of x: the size of the axis if each index has its own draw, or 1
if the whole axis shares one draw. The messages about noise shapes are written here.
"""

import operator
from collections.abc import Sequence
from typing import Any, get_args

from ._checks import (
    check_axes,
    check_batch_dims,
    check_choice,
    check_sequence,
    check_whole,
    is_at_most,
    is_symbolic,
    is_whole,
    plural,
    shown,
)
from ._typing import DataFormat, NoiseShape, PathMode, Shape


def resolve_noise_shape(
    shape: Shape,
    noise_shape: NoiseShape | None = None,
    broadcast_dims: Sequence[int] | None = (),
    array: str = "x",
) -> Shape:
    """Returns the shape of the mask for an array of `shape`; messages call the array `array`.

    At most one of noise_shape and broadcast_dims may be given.
    """
    broadcast_dims = check_sequence(
        () if broadcast_dims is None else broadcast_dims,
        "broadcast_dims",
        f"a tuple of axes of {array}",
        "write (1,) to share the draw along axis 1",
    )
    if noise_shape is None:
        shared = check_axes(broadcast_dims, "broadcast_dims", "share a draw", shape, array)
        return tuple(1 if axis in shared else size for axis, size in enumerate(shape))
    if broadcast_dims:
        raise ValueError(
            "at most one of noise_shape and broadcast_dims may be given: "
            f"got noise_shape={shown(noise_shape)} and broadcast_dims={shown(broadcast_dims)}"
        )
    noise_shape = check_sequence(
        noise_shape,
        "noise_shape",
        f"a tuple with one entry per axis of {array}, which has shape {shown(shape)}",
    )
    if len(noise_shape) != len(shape):
        raise ValueError(
            f"noise_shape needs one entry per axis of {array}: "
            f"got noise_shape={shown(noise_shape)} for {array}.shape={shape}; "
            f"{_full_rank_advice(shape, noise_shape)}"
        )
    return tuple(
        _resolve_entry(axis, entry, shape, noise_shape, array)
        for axis, entry in enumerate(noise_shape)
    )


def spatial_noise_shape(
    shape: Shape, data_format: DataFormat, batch_dims: int, num_space: int | None = None
) -> Shape:
    """One draw per sample and channel; x must have `num_space` space axes unless it is None."""
    if num_space is not None:
        _check_rank(shape, batch_dims, num_space, f"{num_space}D spatial dropout")
    return _draw_per(("batch", "channel"), shape, data_format, batch_dims)


def timestep_noise_shape(shape: Shape, data_format: DataFormat, batch_dims: int) -> Shape:
    """One draw per sample and step of a sequence."""
    _check_rank(shape, batch_dims, 1, "timestep dropout")
    return _draw_per(("batch", "space"), shape, data_format, batch_dims)


def feature_noise_shape(shape: Shape, data_format: DataFormat, batch_dims: int) -> Shape:
    """One draw per channel, shared by the whole batch."""
    return _draw_per(("channel",), shape, data_format, batch_dims)


def sample_noise_shape(shape: Shape, data_format: DataFormat, batch_dims: int) -> Shape:
    """One draw per sample."""
    return _draw_per(("batch",), shape, data_format, batch_dims)


def head_noise_shape(shape: Shape, head_axis: int, batch_dims: int) -> Shape:
    """One draw per sample and attention head."""
    batch_dims, head_axis = check_batch_dims(batch_dims), check_whole(head_axis, "head_axis")
    if len(shape) != batch_dims + 3:
        raise ValueError(
            f"head dropout takes x with {batch_dims + 3} axes ({plural(batch_dims, 'batch axis')}, "
            f"length, heads, features): got {shape_given(shape, batch_dims)}; "
            "an attention layer has an axis of heads only inside its attention_fn"
        )
    axis = head_axis + len(shape) if head_axis < 0 else head_axis
    if not batch_dims <= axis < len(shape):
        raise ValueError(
            "head_axis must name an axis of x that is not a batch axis: "
            f"got head_axis={head_axis} for x.shape={shape} with batch_dims={batch_dims}"
        )
    return tuple(n if i < batch_dims or i == axis else 1 for i, n in enumerate(shape))


def path_noise_shape(shape: Shape, mode: PathMode, batch_axis: int | Sequence[int]) -> Shape:
    """One draw per index of the batch axes, or one for all of x."""
    if check_choice(mode, "mode", get_args(PathMode)) == "batch":
        return (1,) * len(shape)
    own = _batch_axes(shape, batch_axis)
    return tuple(size if axis in own else 1 for axis, size in enumerate(shape))


def row_axis(shape: Shape, batch_axis: int | Sequence[int]) -> int:
    """The one axis of rows of a residual block whose branch runs on some of them."""
    axes = _batch_axes(shape, batch_axis)
    if len(axes) != 1:
        raise ValueError(
            "batch_axis must be one axis of x with mode='subset': "
            f"got batch_axis={shown(batch_axis)}"
        )
    return axes.pop()


def _batch_axes(shape: Shape, batch_axis: int | Sequence[int]) -> set[int]:
    one = is_whole(batch_axis)
    axes = (
        (batch_axis,)
        if one
        else check_sequence(batch_axis, "batch_axis", "an axis of x, or a tuple of axes")
    )
    return check_axes(axes, "batch_axis", "have draws of their own", shape)


def group_size(shape: Shape, axis: int, groups: int) -> int:
    """The number of rows in each group, if the rows lie along an axis of x."""
    rows = shape[axis]
    if is_symbolic(rows):
        raise ValueError(
            "x must have a known number of rows if some are dropped with mode='subset': "
            f"got the symbolic size {shown(rows)}"
        )
    if rows % groups:
        raise ValueError(
            f"groups must divide the number of rows of x, {rows}: got groups={groups} "
            f"for x.shape={shape}"
        )
    return rows // groups


def check_rows(arg: Shape, shape: Shape, axis: int) -> None:
    """Raises unless an argument of that shape has the rows of x, or one row."""
    if len(arg) <= axis or not (arg[axis] == 1 or arg[axis] == shape[axis]):
        raise ValueError(
            f"row_args must have as many rows as x, {shape[axis]}, or one row, along axis {axis}: "
            f"got an array of shape {arg}"
        )


def check_shape(shape: Any, what: str) -> Shape:
    """Returns a shape as a tuple; messages call it `what`."""
    sizes = check_sequence(shape, what, "a tuple of sizes")
    for size in sizes:
        if not _is_size(size):
            raise TypeError(
                f"{what} must hold integers: got {shown(size)} in {shown(sizes)}; entries "
                "may be None only where x is given"
            )
        if is_whole(size) and size < 0:
            raise ValueError(f"{what} cannot have a negative size: got {shown(sizes)}")
    return tuple(operator.index(size) if is_whole(size) else size for size in sizes)


def check_size(size: Any, name: str) -> int:
    """Returns the length of an axis."""
    return check_whole(size, name, least=0) if is_whole(size) or not _is_size(size) else size


def check_block_fits(start: tuple[Any, ...], sizes: Shape, shape: Shape) -> None:
    """Raises unless a block lies in a mask of `shape`. Entries of `start` may be traced."""
    if not len(start) == len(sizes) == len(shape):
        raise ValueError(
            "start and sizes need one entry per axis of the mask: "
            f"got {len(start)} and {len(sizes)} for noise_shape={shown(shape)}"
        )
    for axis, (first, size, whole) in enumerate(zip(start, sizes, shape, strict=True)):
        begins = first if isinstance(first, int) else 0
        if begins < 0 or not is_at_most(begins + size, whole):
            got = f"from {begins} to {begins + size}" if isinstance(first, int) else f"{size}"
            raise ValueError(
                f"start and sizes must lie in noise_shape, which has {whole} along axis {axis}: "
                f"got {got} there"
            )


def check_mask_spreads(
    mask_shape: Shape, shape: Shape, name: str = "mask", x: str = "x.shape"
) -> None:
    """Raises unless a mask broadcasts to `shape`; `name` and `x` are their names in messages."""
    if len(mask_shape) != len(shape) or any(
        m not in (1, n) for m, n in zip(mask_shape, shape, strict=True)
    ):
        raise ValueError(
            f"{name} must have the same number of axes as x, each of x's size or 1: "
            f"got {name}.shape={mask_shape} for {x}={shape}"
        )


def can_broadcast(shape: Shape, to: Shape) -> bool:
    """Whether an array of `shape` broadcasts to the shape `to`; sizes may be symbolic."""
    last = to[len(to) - len(shape) :] if len(shape) <= len(to) else ()
    return len(last) == len(shape) and all(m in (1, n) for m, n in zip(shape, last, strict=True))


def check_mask_fits(mask_shape: Shape, noise_shape: Shape, shape: Shape) -> None:
    """Raises unless a mask given to a module has the noise shape or the shape of x."""
    if mask_shape not in (noise_shape, shape):
        raise ValueError(
            f"mask must have the noise shape {noise_shape} or the shape of x: "
            f"got mask.shape={mask_shape} for x.shape={shape}"
        )


def axis_roles(shape: Shape, data_format: DataFormat, batch_dims: int) -> list[str]:
    """Returns the role of each axis of x: "batch", "space" or "channel"."""
    batch_dims = check_batch_dims(batch_dims)
    check_choice(data_format, "data_format", get_args(DataFormat))
    num_space = len(shape) - batch_dims - 1
    if num_space < 0:
        raise ValueError(
            f"x needs at least {batch_dims + 1} axes, {plural(batch_dims, 'batch axis')} and a "
            f"channel axis: got x.shape={shape} with batch_dims={batch_dims}"
        )
    is_last = data_format == "channels_last"
    space = ["space"] * num_space
    return ["batch"] * batch_dims + ([*space, "channel"] if is_last else ["channel", *space])


def _draw_per(
    roles: tuple[str, ...], shape: Shape, data_format: DataFormat, batch_dims: int
) -> Shape:
    """Keeps the size of the axes whose role is in `roles`; 1 for all others."""
    layout = axis_roles(shape, data_format, batch_dims)
    return tuple(size if role in roles else 1 for role, size in zip(layout, shape, strict=True))


def _check_rank(shape: Shape, batch_dims: int, num_space: int, what: str) -> None:
    batch_dims = check_batch_dims(batch_dims)
    rank = batch_dims + num_space + 1
    if len(shape) == rank:
        return
    advice = _rank_advice(shape, batch_dims, num_space, what)
    raise ValueError(
        f"{what} takes x with {rank} axes ({plural(batch_dims, 'batch axis')}, {num_space} "
        f"space, 1 channel): got {shape_given(shape, batch_dims)}; {advice}"
    )


def shape_given(shape: Shape, batch_dims: int) -> str:
    """Describes the shape of x in a message, with batch_dims unless it is the default."""
    return f"x.shape={shape}" + (f" with batch_dims={batch_dims}" if batch_dims != 1 else "")


def _rank_advice(shape: Shape, batch_dims: int, num_space: int, what: str) -> str:
    fitting = len(shape) - batch_dims - 1
    if fitting < 0:
        return "x has too few axes"
    if batch_dims > 0 and len(shape) == num_space + 1:
        unbatched = "pass batch_dims=0 if x has no batch axis, or use "
    else:
        unbatched = "use "
    if what == "timestep dropout":
        return f"{unbatched}dropout(noise_shape=...) to say which axes share a draw"
    if 1 <= fitting <= 3:
        return (
            f"{unbatched}spatial_dropout_{fitting}d (SpatialDropout{fitting}D), "
            f"which takes {len(shape)} axes"
        )
    return f"{unbatched}spatial_dropout, which takes any rank"


def _resolve_entry(
    axis: int, entry: Any, shape: Shape, noise_shape: tuple[Any, ...], array: str
) -> int:
    size = shape[axis]
    if entry is None:
        return size
    message = (
        f"noise_shape[{axis}] must be None, 1 or the size of that axis of {array}: "
        f"got {shown(entry)} in noise_shape={shown(noise_shape)} for {array}.shape={shown(shape)}"
    )
    if not _is_size(entry):
        raise TypeError(message)
    if entry == size:
        return size
    if entry != 1:
        raise ValueError(message)
    return 1


def _full_rank_advice(shape: Shape, noise_shape: tuple[Any, ...]) -> str:
    missing = len(shape) - len(noise_shape)
    if missing < 0:
        return f"leave out {plural(-missing, 'entry')}"
    full = (None,) * missing + noise_shape
    where = "the batch axis" if missing == 1 else f"the {missing} leading axes"
    fits = all(
        entry is None or (_is_size(entry) and entry in (1, size))
        for entry, size in zip(full, shape, strict=True)
    )
    # An entry that is a size above 1 shows which axes are meant, as in (10, 16). 1 and None do not.
    if fits and any(_is_size(entry) and entry != 1 for entry in noise_shape):
        return f"write None for {where}: {full}"
    return (
        f"write None where an axis has its own draws and 1 where it shares one, {len(shape)} in all"
    )


def _is_size(value: Any) -> bool:
    return is_whole(value) or is_symbolic(value)
