"""The metrics of a run: lines of JSON, and the same numbers for TensorBoard."""

import contextlib
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from .errors import say
from .files import replace_text
from .runs import finite_or_none
from .task import Array

LINES = "metrics.jsonl"
FEW_STEPS = 100
"""The most steps that are traced without a word."""


class Writer(contextlib.AbstractContextManager["Writer"]):
    """Writes a row of numbers for a step, at once, to a folder of its own.

    tensorboardX's SummaryWriter is not used: it writes in a thread, so a kill loses rows, and it
    waits forever if the disk is full.
    """

    def __init__(self, folder: Path, step: int = 0):
        """Opens the files of a run that goes on after `step`. Rows of later steps are removed."""
        self._folder = folder
        rows = [row for row in read(folder) if row["step"] <= step]
        replace_text(folder / LINES, "".join(map(_line, rows)))
        with self._named_errors():
            self._events = EventsWriter(str(folder / "events"), f".{step}")
            # TensorBoard removes what earlier files hold of later steps.
            start = SessionLog(status=SessionLog.START)
            self._events.write_event(Event(step=step + 1, session_log=start))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes a row. JSON has no NaN, so a value that is not finite becomes null there."""
        finite = {name: finite_or_none(value) for name, value in values.items()}
        row = {"step": step, "time": time.time(), **finite, "diverged": None in finite.values()}
        with self._named_errors():
            with (self._folder / LINES).open("a", encoding="utf-8") as file:
                file.write(_line(row))
            event = Event(wall_time=row["time"], step=step)
            for name, value in values.items():
                event.summary.value.add(tag=name, simple_value=float(value))
            self._events.write_event(event)
            self._events.flush()

    def __exit__(self, *error: Any) -> None:
        with self._named_errors():
            self._events.close()

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = error.strerror or error
            raise OSError(f"cannot write metrics to {self._folder}: {why}") from error


def read(folder: Path) -> list[dict[str, Any]]:
    """Returns the rows in the folder of a run, without a last one that was cut off."""
    rows = []
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        for line in (folder / LINES).read_text("utf-8").splitlines():
            rows.append(json.loads(line))
    return rows


def throughput(seconds: float, counted: Array) -> dict[str, float]:
    """Returns the steps and examples per second of a run, and tokens if examples consist of them.

    `counted` is that of the batches: [run, step, example] or [run, step, example, token].
    """
    runs, steps, examples = counted.shape[:3]
    counts = {"steps": steps, "examples": steps * examples}
    if counted.ndim > 3:
        counts["tokens"] = counted.sum() / runs
    return {f"{name}_per_second": float(count / seconds) for name, count in counts.items()}


def memory() -> dict[str, float]:
    """Returns the peak bytes of a device, or of the process if JAX reports no device memory."""
    told = [device.memory_stats() or {} for device in jax.local_devices()]
    peak = max(stats.get("peak_bytes_in_use", 0) for stats in told)
    if peak:
        return {"device_peak_bytes": peak}
    return {"process_peak_bytes": process_peak_bytes()}


def process_peak_bytes() -> int:
    """Returns the peak bytes of this process."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Profiler:
    """Traces the second call of compiled steps, because the first one may also set things up."""

    def __init__(self, folder: Path | None):
        """With None, traces nothing."""
        self._folder = folder
        self._calls = 0

    @contextlib.contextmanager
    def __call__(self, steps: int) -> Iterator[None]:
        """Traces a call of so many steps, which must end before the context does."""
        self._calls += 1
        if self._folder is None or self._calls != 2:
            yield
            return
        if steps > FEW_STEPS:
            say(f"--profile traces {steps} steps, as config.steps_per_call sets no fewer.")
        jax.profiler.start_trace(self._folder)
        yield
        try:
            jax.profiler.stop_trace()
        except RuntimeError as error:
            raise OSError(f"cannot write the trace: {error}") from error

    def say_if_nothing_was_traced(self) -> None:
        """Prints a sentence if a trace was asked for and there was no second call."""
        if self._folder is not None and self._calls < 2:
            say(
                "warning: --profile traced nothing, because it traces the second call of the "
                f"compiled steps: got {self._calls}. A smaller config.steps_per_call makes more."
            )


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"
