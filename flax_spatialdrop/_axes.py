"""Axes of x, as users name them: their checks, and what is wrong with them."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard


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


def is_whole(value: Any) -> bool:
    """Whether it counts something, which a bool does not."""
    return hasattr(value, "__index__") and not isinstance(value, bool)


def is_sequence(value: Any) -> TypeGuard[Sequence[Any]]:
    """Whether it is a tuple or the like, which a string is not."""
    return isinstance(value, Sequence) and not isinstance(value, str)
