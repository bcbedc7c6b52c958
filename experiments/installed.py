"""Files of data: those inside packages, and those that the user names."""

import importlib.util
import os
import stat
from pathlib import Path

from .errors import InputError


def installed_file(data: str, package: str, requirement: str, kind: str, *parts: str) -> Path:
    """Finds a file of `parts` inside a package, without importing it.

    If it is not there, an InputError says that `data` needs the requirement, or a file of a kind.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"the {data} is not installed: pip install {requirement}, "
            f"or give a {kind} file with --config.data.path"
        )
    return Path(spec.submodule_search_locations[0], *parts)


def user_file(path: str | Path, data: str) -> Path:
    """Finds a file that the user named; anything but a file could be read for ever."""
    path = Path(os.path.expanduser(path))
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read the {data} {path}: {why}") from error
    if not stat.S_ISREG(mode):
        raise InputError(f"cannot read the {data} {path}: it is no file")
    return path
