"""Shows a progress bar, or plain lines if there is no terminal or it is narrow."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

SECONDS_BETWEEN_LINES = 10.0
_COMPILING = "compiling (can take a minute)"


class Display:
    """Shows how far training is, with the loss and the validation score of the last epoch."""

    def __init__(self, console: Console):
        self._console = console
        # A narrow terminal has no room for the numbers beside a bar.
        self._has_bar = console.is_terminal and console.width >= 96
        self._bar = Progress(
            TextColumn("{task.description:18}"),
            BarColumn(bar_width=10),
            TextColumn("{task.percentage:3.0f} %  {task.fields[status]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not self._has_bar,
        )
        self._printed = time.monotonic()

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.stop()

    def begin(self, name: str) -> None:
        """Starts the line of a regularizer."""
        self._name = name
        self._waiting = ""  # the last state, if it was not printed
        self._task = self._bar.add_task(name, total=1.0, status=_COMPILING)
        self._line(_COMPILING)

    def update(self, share: float, runs: str, loss: float, validation: str) -> None:
        """Shows the state after an epoch, and the runs that train."""
        status = f"{runs}  loss {loss:.3f}  validation {validation}"
        self._bar.update(self._task, completed=share, status=status)
        self._waiting = f"{100 * share:3.0f} %  {status}"
        if share == 1.0 or time.monotonic() - self._printed >= SECONDS_BETWEEN_LINES:
            self._line(self._waiting)
            self._waiting = ""

    def end(self, seconds: float, compile_seconds: float) -> None:
        """Ends the line of a regularizer. Runs may end before all epochs are over."""
        if self._waiting:
            self._line(self._waiting)
        status = f"{seconds:.0f} s, {compile_seconds:.0f} s of it compiling"
        self._bar.update(self._task, completed=1.0, status=status)
        self._line(f"finished in {status}")

    def _line(self, text: str) -> None:
        if not self._has_bar:
            self._console.print(f"{self._name}: {text}", soft_wrap=True)
            self._printed = time.monotonic()
