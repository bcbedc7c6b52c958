"""The one exception that users see as a sentence."""


class InputError(Exception):
    """Says what is wrong with what the user gave; `main` prints it without a traceback."""
