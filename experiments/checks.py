"""Checks of a config's fields, each of which raises InputError with one sentence."""

from collections.abc import Collection, Iterable
from typing import Any

from ml_collections import ConfigDict

from .errors import InputError


def is_number(value: Any) -> bool:
    """Tells whether a value is a float or an int, and not a bool."""
    return isinstance(value, float | int) and not isinstance(value, bool)


def is_rate(value: Any) -> bool:
    """Tells whether a value is a number in [0, 1]."""
    return is_number(value) and 0 <= value <= 1


def rate(field: str, value: Any) -> None:
    """The field must be a number in [0, 1]."""
    if not is_rate(value):
        raise InputError(f"{field} must be a number in [0, 1]: got {value!r}")


def has(part: str, config: ConfigDict, fields: Iterable[str]) -> None:
    """The part must have the fields."""
    for field in fields:
        if field not in config:
            raise InputError(f"{part} needs the field {field}")


def one_of(field: str, value: Any, known: Collection[str]) -> None:
    """The field must be one of the names known."""
    if value not in known:
        raise InputError(f"{field} knows {', '.join(known)}: got {value!r}")


def at_least(least: int, part: str, config: ConfigDict, fields: Iterable[str]) -> None:
    """The fields must be numbers no smaller than the least."""
    for field in fields:
        if config[field] < least:
            raise InputError(f"{part}.{field} must be at least {least}: got {config[field]}")
