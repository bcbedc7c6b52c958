"""Ctrl-C at a moment of our choosing, and the end of the program."""

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
    """Ends the program here and now: what Python does at its end could fail, or be interrupted."""
    with suppress(OSError, AttributeError):
        if sys.stdout.isatty():
            sys.stdout.write("\x1b[?25h")  # a progress bar hides the cursor
        sys.stdout.flush()
    os._exit(code)


def leave_at_ctrl_c(sentence: str) -> None:
    """Lets Ctrl-C say a sentence and end the program, in the middle of an import as well."""

    def handler(number: int, frame: object) -> None:
        say(sentence)
        leave(INTERRUPTED)

    signal.signal(signal.SIGINT, handler)


@contextmanager
def deferred_interrupt() -> Iterator[Callable[..., None]]:
    """Holds Ctrl-C back until the function it yields is called, which then raises.

    That function is called before each piece of work, with its name. Raised at any moment, as
    Python does, Ctrl-C can hit the middle of a compile: there JAX may swallow it or crash. A second
    Ctrl-C ends the program at once.
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

    # Python calls a handler between two of its own instructions, and a compile can be minutes of
    # none. The pipe is written to at once, and read by a thread.
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
