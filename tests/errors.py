"""How tests match a message: the whole of it."""

import re


def exactly(message: str) -> str:
    """A pattern for `message` and nothing else, but the note JAX adds about its traceback."""
    return rf"\A{re.escape(message)}(\n-+\nFor simplicity, JAX has removed[^\n]*)?\Z"
