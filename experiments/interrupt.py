"""Handles Ctrl-C between pieces of work, and ends the program."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from .errors import say

INTERRUPTED = 130


def leave(code: int) -> NoReturn:
    """Ends the program at once. Python's own cleanup could fail or be interrupted."""
    with suppress(OSError, AttributeError):
        if sys.stdout.isatty():
            sys.stdout.write("\x1b[?25h")  # a progress bar hides the cursor
        sys.stdout.flush()
    os._exit(code)


def leave_at_ctrl_c(sentence: str) -> None:
    """Makes Ctrl-C print a sentence and end the program, even during an import."""

    def handler(number: int, frame: object) -> None:
        say(sentence)
        leave(INTERRUPTED)

    signal.signal(signal.SIGINT, handler)


@contextmanager
def deferred_interrupt() -> Iterator[Callable[..., None]]:
    """Defers Ctrl-C until the next call of the yielded function, which then raises it.

    Call that function before each piece of work, with the name of the work. Python raises Ctrl-C
    at any moment. During a compile, JAX might ignore it or crash. A second Ctrl-C ends the program
    at once.
    """
    pressed, doing = False, ""

    def handler(number: int, frame: object) -> None:
        nonlocal pressed
        pressed = True

    def check(work: str = "this epoch") -> None:
        nonlocal doing
        if pressed:
            raise KeyboardInterrupt
        doing = work

    def watch() -> None:
        if os.read(read, 1):
            say(f"Stopping after {doing}; Ctrl-C again stops at once.")
        if os.read(read, 1):
            say("Stopped at once.")
            leave(INTERRUPTED)

    # Python runs a handler only between two bytecode instructions, and a compile can take minutes
    # without one. The pipe gets a byte at once, and a thread reads it.
    read, write = os.pipe()
    os.set_blocking(write, False)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    pipe_before = signal.set_wakeup_fd(write)
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
        signal.set_wakeup_fd(pipe_before)
        os.close(write)
        watcher.join()
        os.close(read)
