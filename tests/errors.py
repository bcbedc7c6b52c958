"""Helps tests to compare complete messages."""

import re


def exactly(message: str) -> str:
    """Returns a pattern for exactly `message`, and JAX's note about the traceback after it."""
    return rf"\A{re.escape(message)}(\n-+\nFor simplicity, JAX has removed[^\n]*)?\Z"
