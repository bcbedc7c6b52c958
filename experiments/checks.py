"""Checks of the fields of a config, and of flags. Each raises InputError with one sentence."""

import re
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import PurePath
from typing import Any

from ml_collections import ConfigDict

from .errors import InputError

MOST = 2**31 - 1


def is_number(value: Any) -> bool:
    """Returns whether a value is a float or an int, but not a bool."""
    return isinstance(value, float | int) and not isinstance(value, bool)


def rate(field: str, value: Any) -> None:
    """Checks that the field is a number in [0, 1]."""
    if not is_number(value) or not 0 <= value <= 1:
        raise InputError(f"{field} must be a number in [0, 1]: got {value!r}")


def finite(field: str, value: Any) -> None:
    """Checks that the field is a finite number of at least 0."""
    if not is_number(value) or not 0 <= value <= sys.float_info.max:
        raise InputError(f"{field} must be a finite number of at least 0: got {value!r}")


def has(part: str, config: Any, fields: Iterable[str]) -> None:
    """Checks that the part is a ConfigDict with the fields."""
    if not isinstance(config, ConfigDict):
        raise InputError(f"{part} must be a ConfigDict: got {config!r}")
    for field in fields:
        if field not in config:
            raise InputError(f"{part} needs the field {field}")


def one_of(field: str, value: Any, known: Collection[str]) -> None:
    """Checks that the field is one of the known names."""
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{field} must be one of {', '.join(known)}: got {value!r}")


def at_least(least: int, part: str, config: ConfigDict, fields: Iterable[str]) -> None:
    """Checks that the fields are whole numbers from `least` to the largest int32."""
    for field in fields:
        value = config[field]
        if not isinstance(value, int) or isinstance(value, bool):
            raise InputError(f"{part}.{field} must be a whole number: got {value!r}")
        if not least <= value <= MOST:
            bound = f"least {least}" if value < least else f"most {MOST}"
            raise InputError(f"{part}.{field} must be at {bound}: got {value}")


def heads(config: ConfigDict) -> None:
    """Checks that each head of a transformer with sines and cosines has as many of both."""
    if config.features % (2 * config.heads):
        raise InputError(
            "config.features must be an even multiple of config.heads: got "
            f"{config.features} and {config.heads}"
        )


def text(part: str, config: ConfigDict, fields: Iterable[str]) -> None:
    """Checks that the fields are strings."""
    for field in fields:
        if not isinstance(config[field], str):
            raise InputError(f"{part}.{field} must be a string: got {config[field]!r}")


def folder_name(field: str, value: Any) -> None:
    """Checks that the field is the name of a folder, without a path."""
    usable = isinstance(value, str) and value.isprintable() and value not in ("", ".", "..")
    if not usable or PurePath(value).name != value:
        raise InputError(f"{field} must be the name of a folder, without a path: got {value!r}")


def variant(config: str, value: str, known: Sequence[str]) -> None:
    """Checks that a variant of the config is one of the known ones."""
    if value not in known:
        names = f"{', '.join(known[:-1])} or {known[-1]}"
        raise InputError(f"the variant of {config} must be {names}: got {value!r}")


def pattern(flag: str, text: str) -> re.Pattern[str]:
    """Compiles the regular expression of a flag."""
    try:
        return re.compile(text)
    except re.error as error:
        raise InputError(f"{flag} must be a regular expression: got {text!r} ({error})") from error
