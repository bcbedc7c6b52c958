"""Prints to a terminal, a file or a pipe, so that none of their limits loses a result."""

import codecs
import io
import sys
from typing import Any

import rich.console

_PLAIN = {"±": "+-", "°": "deg "}


class Console(rich.console.Console):
    """Prints plain text, and replaces characters that the output does not support."""

    def __init__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="flax_spatialdrop.plain")
        super().__init__(highlight=False, markup=False, emoji=False)
        if not self.is_terminal:
            self.width = 1000  # do not wrap lines in a file or a pipe

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints, and leaves wrapping of long lines to the terminal. May raise OSError."""
        try:
            super().print(*objects, **{"soft_wrap": True, **options})
        except OSError as error:
            why = error.strerror or error
            raise OSError(f"cannot write to the standard output: {why}") from error

    def on_broken_pipe(self) -> None:
        """Raises the error that rich is handling. By default rich would end the program."""
        raise


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    unknown = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character, "?") for character in unknown), error.end


codecs.register_error("flax_spatialdrop.plain", _plain)
