"""Compares the times of programs fairly in one process.

A program that runs after one with large temporaries has more page faults. So every program is
called twice, and only the second call is timed. The order is random in every round, so that a
program does not always follow the same one.
"""

import itertools
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

MIN_ROUNDS, MAX_ROUNDS = 5, 100
LEAST_SAMPLE = 2e-3  # seconds; shorter calls are repeated, because the clock is not exact enough
IN_FLIGHT, FILLED = 20, 0.05
"""The most calls, and the seconds of calls, sent to an accelerator at once.

So the accelerator does not wait for Python.
"""

PAGES_KEPT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
}
"""Environment variables that make glibc reuse the pages of freed large arrays.

Otherwise each call requests new pages, and a copy of more than 32 MiB is mostly page faults.
"""

Call = Callable[[], Any]


class Time(NamedTuple):
    """The median of a program's times in milliseconds, and their quartiles."""

    median: float
    low: float
    high: float


def times(calls: dict[str, Call], seconds: float) -> dict[str, Time]:
    """Times the calls for about `seconds` in total, and at least 5 rounds."""
    repeats = {name: _repeats(call) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    names, rng = list(calls), np.random.default_rng(0)
    start = time.perf_counter()
    for turn in range(MAX_ROUNDS):
        if turn >= MIN_ROUNDS and time.perf_counter() - start > seconds:
            break
        for name in rng.permutation(names):
            jax.block_until_ready(calls[name]())
            samples[name].append(_seconds(calls[name], repeats[name]))
    return {name: summary(values) for name, values in samples.items()}


def compiled(programs: Mapping[str, Callable[..., Any]], *arguments: Any) -> dict[str, Any]:
    """Compiles programs for the same arguments, all but the first at the same time.

    On a GPU the first measures the variants of each matrix product, and the others use its choice.
    """
    lowered = {name: jax.jit(f).lower(*arguments) for name, f in programs.items()}
    first, *others = lowered
    found = {first: lowered[first].compile()}
    with ThreadPoolExecutor() as pool:
        return found | dict(
            zip(others, pool.map(lambda name: lowered[name].compile(), others), strict=True)
        )


def scratch_bytes(program: Any) -> int:
    """Returns the memory of a compiled program besides its arguments and results."""
    return program.memory_analysis().temp_size_in_bytes


def summary(seconds: list[float]) -> Time:
    """Returns the median and quartiles of times, in milliseconds."""
    low, median, high = np.percentile(seconds, (25, 50, 75)) * 1e3
    return Time(float(median), float(low), float(high))


def _repeats(call: Call) -> int:
    jax.block_until_ready(call())
    once = _seconds(call, 1)
    if jax.default_backend() != "cpu":
        return min(IN_FLIGHT, int(np.ceil(FILLED / once)))
    return int(np.ceil(LEAST_SAMPLE / once))


def _seconds(call: Call, repeats: int) -> float:
    waits = jax.default_backend() == "cpu"
    start = time.perf_counter()
    for _ in itertools.repeat(None, repeats):
        result = call()
        if waits:
            jax.block_until_ready(result)
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / repeats
