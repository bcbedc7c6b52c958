"""Writes files atomically: a crash leaves the whole old file or the whole new one."""

import contextlib
import io
import itertools
import tempfile
from pathlib import Path

from matplotlib.figure import Figure

from .errors import InputError


def replace(path: Path, content: bytes) -> None:
    """Writes a file. If that fails, an OSError names the file."""
    part = path.with_suffix(path.suffix + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # it may have been removed
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error


def replace_text(path: Path, text: str) -> None:
    """Writes a text in UTF-8, with "?" for characters that cannot be encoded."""
    replace(path, text.encode("utf-8", "replace"))


def replace_figure(path: Path, figure: Figure) -> None:
    """Writes a figure as a PNG."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    replace(path, picture.getvalue())


def free_path(folder: Path, name: str) -> Path:
    """Returns the path folder/name-N, for the first N from 1 where nothing is."""
    paths = (folder / f"{name}-{number}" for number in itertools.count(1))
    return next(path for path in paths if not path.exists())


def prepare(path: Path) -> None:
    """Makes a folder and tests that it is writable, before the work begins."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise InputError(f"cannot write to the workdir {path}: {error.strerror}") from error
