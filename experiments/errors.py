"""Errors that the user sees as one sentence."""

import contextlib
import sys
import textwrap


class InputError(Exception):
    """An error in the user's input. `main` prints it without a traceback."""

    def __init__(self, sentence: str):
        # The sentence may quote values and other messages, which can be long or have several lines.
        super().__init__(textwrap.shorten(sentence, 400, placeholder=" ..."))


def say(sentence: str) -> None:
    """Prints a sentence to stderr, and ignores a closed stderr."""
    if sys.stderr is not None:  # None if it was closed before the start
        with contextlib.suppress(OSError):
            print(sentence, file=sys.stderr, flush=True)
