"""Data sets that come as files inside packages."""

import importlib.util
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
