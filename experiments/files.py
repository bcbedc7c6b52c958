"""Writes files atomically: a crash leaves the whole old file or the whole new one."""

import contextlib
import io
from pathlib import Path

from matplotlib.figure import Figure


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
