"""Ctrl-C at a moment of our choosing."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], None]]:
    """Holds Ctrl-C back until the function it yields is called, which then raises.

    Raised at any moment, as Python does, it can hit the middle of a compile: there JAX may swallow
    it or crash. A second Ctrl-C is raised at once all the same.
    """
    pressed = False

    def handler(number: int, frame: object) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True
        print("Stopping after this epoch; Ctrl-C again stops at once.", file=sys.stderr)

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    previous = signal.signal(signal.SIGINT, handler)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, previous)
