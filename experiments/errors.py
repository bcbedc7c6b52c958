"""What goes wrong, in a sentence for the user."""

import contextlib
import sys
import textwrap


class InputError(Exception):
    """Says what is wrong with what the user gave; `main` prints it without a traceback."""

    def __init__(self, sentence: str):
        # Values and foreign messages are quoted, and can be long or have several lines.
        super().__init__(textwrap.shorten(sentence, 400, placeholder=" ..."))


def say(sentence: str) -> None:
    """Prints a sentence to stderr, if there is one that takes it."""
    if sys.stderr is not None:  # as it is where it was closed before the start
        with contextlib.suppress(OSError):
            print(sentence, file=sys.stderr, flush=True)
