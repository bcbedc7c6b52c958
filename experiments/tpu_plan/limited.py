"""Runs a function in a process of its own, under limits of memory and time."""

import multiprocessing
import resource
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from ..errors import InputError

KILLED = (-signal.SIGABRT, -signal.SIGKILL, -signal.SIGSEGV)
"""How a process ends in which C++ code gets no memory."""


class Limits(NamedTuple):
    """What one process may use."""

    gigabytes: float
    seconds: float


def run_limited(work: Callable[..., Any], arguments: tuple[Any, ...], limits: Limits) -> Any:
    """Returns `work(*arguments)`. An InputError says in a sentence why there is no result."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(theirs, work, arguments, limits.gigabytes))
    process.start()
    theirs.close()
    result, failure = None, ""
    try:
        if ours.poll(limits.seconds):
            result, failure = ours.recv()
        else:
            failure = f"it took longer than --time_limit={limits.seconds:g} seconds"
    except EOFError:  # the process died
        process.join()
        failure = f"the process died with the exit code {process.exitcode}"
        if process.exitcode in KILLED:
            failure = _no_memory(limits.gigabytes)
    finally:
        process.kill()
        process.join()
    if failure:
        raise InputError(failure)
    return result


def _send(pipe: Connection, work: Any, arguments: tuple[Any, ...], gigabytes: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a compile at once
    limit = round(gigabytes * 1e9)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        pipe.send((work(*arguments), ""))
    except InputError as error:
        pipe.send((None, str(error)))
    except MemoryError:
        pipe.send((None, _no_memory(gigabytes)))


def _no_memory(gigabytes: float) -> str:
    return f"it needs more than --memory_limit={gigabytes:g} gigabytes"
