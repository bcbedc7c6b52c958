"""Axes, counts and switches as users give them: their checks, and what is wrong with them."""

import numbers
from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard

from ._typing import DataFormat


def check_axes(axes: Iterable[Any], name: str, role: str, shape: tuple[int, ...]) -> set[int]:
    """Returns the axes of x of `shape`, counted from 0; `name` is the argument's, `role` theirs."""
    axes = tuple(axes)
    for axis in axes:
        if not is_whole(axis):
            raise TypeError(
                f"{name} must hold whole numbers, the axes of x that {role}: "
                f"got {axis!r} in {name}={axes}"
            )
        if not -len(shape) <= axis < len(shape):
            known = f"from {-len(shape)} to {len(shape) - 1}" if shape else "of which x has none"
            raise ValueError(
                f"{name} must name axes of x, {known}: got {axis} in {name}={axes} "
                f"for x.shape={shape}"
            )
    return {axis % len(shape) for axis in axes}


def check_batch_dims(batch_dims: int) -> None:
    """Raises unless batch_dims is a number of leading axes."""
    if not is_whole(batch_dims):
        raise TypeError(
            f"batch_dims must be a whole number, how many leading axes are batch axes: "
            f"got {batch_dims!r}"
        )
    if batch_dims < 0:
        raise ValueError(f"batch_dims must be at least 0: got {batch_dims}")


def axis_roles(shape: tuple[int, ...], data_format: DataFormat, batch_dims: int) -> list[str]:
    """What each axis of x is: "batch", "space" or "channel"."""
    check_batch_dims(batch_dims)
    num_space = len(shape) - batch_dims - 1
    if num_space < 0:
        raise ValueError(
            f"x needs at least {batch_dims + 1} axes, {plural(batch_dims, 'batch axis')} and a "
            f"channel axis: got x.shape={shape} with batch_dims={batch_dims}"
        )
    if data_format == "channels_last":
        inner = ["space"] * num_space + ["channel"]
    elif data_format == "channels_first":
        inner = ["channel"] + ["space"] * num_space
    else:
        raise ValueError(
            "data_format must be 'channels_last' or 'channels_first': "
            f"got data_format={data_format!r}"
        )
    return ["batch"] * batch_dims + inner


def check_whole(number: Any, name: str) -> int:
    """Returns a whole number that is no array, or says what it is."""
    if not is_whole(number):
        raise TypeError(f"{name} must be a whole number: got {number!r}")
    return int(number)


def check_bool(value: Any, name: str) -> bool:
    """Returns True or False, or says what was given in its place."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False: got {value!r}")
    return value


def is_whole(value: Any) -> bool:
    """Whether it counts something, which a bool does not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_sequence(value: Any) -> TypeGuard[Sequence[Any]]:
    """Whether it is a tuple or the like, which a string is not."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def plural(count: int, noun: str) -> str:
    plurals = {"batch axis": "batch axes", "entry": "entries"}
    return f"{count} {noun if count == 1 else plurals[noun]}"


def shown(value: Any) -> str:
    """What a value is, on one short line."""
    text, kind = repr(value), type(value).__name__
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"a value of type {kind}, shape {value.shape} and dtype {value.dtype}"
    is_short = len(text) <= 60 and "\n" not in text
    return f"{text} of type {kind}" if is_short else f"a value of type {kind}"
