"""Several processes that train together: how they meet, and which one writes."""

import contextlib
import hashlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from . import errors
from .errors import InputError

JAX_SECONDS = 3600
"""The time limit of JAX itself. If JAX reaches it first, it aborts without a message."""


class Cluster(NamedTuple):
    """The flags that describe all processes. JAX looks in the environment for those that are None.

    Attributes:
      coordinator: HOST:PORT, where process 0 listens.
      num_processes, process_id: the number of processes, and the number of this one from 0.
      connect_seconds: how long to wait for the others.
      heartbeat_seconds: how long a process may be silent before JAX ends the others.
    """

    coordinator: str | None
    num_processes: int | None
    process_id: int | None
    connect_seconds: int = 60
    heartbeat_seconds: int = 100


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags that `from_flags` reads."""
    flags.DEFINE_bool("distributed", False, "Train with other processes.", flag_values=values)
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.", flag_values=values)
    for name, text, least in (
        ("num_processes", "The number of processes.", None),
        ("process_id", "The number of this process, from 0.", None),
        ("connect_seconds", "How long to wait for the others.", 1),
        ("heartbeat_seconds", "How long a process may be silent before JAX ends the others.", 1),
    ):
        default = Cluster._field_defaults.get(name)
        flags.DEFINE_integer(name, default, text, lower_bound=least, flag_values=values)


def from_flags(values: flags.FlagValues) -> Cluster | None:
    """Returns what the flags describe, or None without --distributed."""
    given = values.coordinator, values.num_processes, values.process_id
    missing = [value is None for value in given]
    if not values.distributed:
        if not all(missing):
            raise InputError("--coordinator, --num_processes and --process_id need --distributed")
        return None
    if any(missing) and not all(missing):
        raise InputError("--coordinator, --num_processes and --process_id must be given together")
    coordinator, number, process = given
    if coordinator is not None:
        host, _, port = coordinator.rpartition(":")
        if not (host and port.isdecimal() and int(port) < 2**16):
            raise InputError(f"--coordinator must be HOST:PORT: got {coordinator!r}")
        if not 0 <= process < number:
            raise InputError(
                f"--process_id must be from 0 to --num_processes - 1: got {process} of {number}"
            )
    return Cluster(*given, values.connect_seconds, values.heartbeat_seconds)


def connect(cluster: Cluster) -> None:
    """Waits for all processes. JAX's devices are then those of all of them.

    Raises InputError if the others do not come in time.
    """
    address, number, process, seconds, heartbeat = cluster
    with contextlib.suppress(AttributeError):  # JAX 0.8 has no such option
        # JAX's preemption service would catch SIGTERM, and nothing here asks it.
        jax.config.update("jax_enable_preemption_service", False)
    # If JAX gives up by itself, it aborts the program. The thread is left behind.
    connecting = ThreadPoolExecutor(1).submit(
        jax.distributed.initialize,
        *(address, number, process),
        initialization_timeout=JAX_SECONDS,
        heartbeat_timeout_seconds=heartbeat,
    )
    try:
        connecting.result(seconds)
    except TimeoutError as error:
        if address is not None and not _answers(address):
            what = f"no coordinator answers at {address}"
        else:
            what = "not all processes have connected"
        raise InputError(f"{what} after {seconds} s (--connect_seconds)") from error
    except ValueError as error:  # nothing was found
        raise InputError(
            "--distributed needs Slurm, Cloud TPU or another cluster that JAX knows, or "
            "--coordinator, --num_processes and --process_id"
        ) from error
    except RuntimeError as error:
        why = f"{error}".strip().split("\n")[0]
        raise InputError(f"cannot connect to the other processes: {why}") from error
    if number not in (None, jax.process_count()):
        raise InputError(
            f"--num_processes must be the same for all processes: got {number}, "
            f"but the coordinator has {jax.process_count()}"
        )


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False


def is_first() -> bool:
    """Returns whether this process prints and writes results. One process is always the first."""
    return jax.process_index() == 0


def meet(where: str) -> None:
    """Waits until all processes are at this point, which has a name."""
    if jax.process_count() > 1:
        with _failures_of_others():
            multihost_utils.sync_global_devices(where)


def gather(value: np.ndarray) -> np.ndarray:
    """Waits for all processes, and returns the arrays of all: [process, ...]."""
    if jax.process_count() == 1:
        return value[None]
    with _failures_of_others():
        return np.asarray(multihost_utils.process_allgather(value))


@contextlib.contextmanager
def _failures_of_others() -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        raise InputError("another process has ended, and its own output says why") from error


def others(text: str) -> list[int]:
    """Waits for all processes, and returns those that have another text than the first."""
    digests = gather(np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8))
    return np.flatnonzero((digests != digests[0]).any(axis=1)).tolist()


def say(sentence: str) -> None:
    """Prints a sentence to stderr, on the first process only."""
    if is_first():
        errors.say(sentence)


def disconnect() -> None:
    """Waits until all processes have ended their work."""
    if jax.process_count() > 1:
        jax.distributed.shutdown()
