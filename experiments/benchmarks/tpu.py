"""Compiles the rows for TPUs without having one, and reads the compiler's estimates.

The package libtpu (the extra `tpu`) contains the compiler. Its cycles are estimates, which are
useful for ratios between two programs on one kind of chip. Each chip has one part of the batch.
"""

import importlib.util
import math
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..errors import InputError
from .cases import Case
from .libraries import FLAX_AGAIN
from .results import Record
from .timing import scratch_bytes

CYCLES = "estimated cycles"
SCRATCH = "scratch memory in KiB a chip"
COLLECTIVES = "collectives"
COMPILE = "compile time in s"
_COLLECTIVE = re.compile(
    r"\b(all-reduce|all-gather|collective-permute|all-to-all|reduce-scatter)(?:-start)?\("
)
_ENVIRONMENT = {  # otherwise libtpu asks a metadata server, which only a TPU's host has
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


def mesh(topology: str) -> Mesh:
    """Returns all chips of a topology such as "v5e:4x4" along one axis, "data"."""
    return Mesh(np.array(chips(topology)), ("data",))


def chips(topology: str) -> list[Any]:
    """Returns all chips of a topology. No TPU is needed, but the package libtpu."""
    if importlib.util.find_spec("libtpu") is None:
        raise InputError("compiling for TPUs needs the package libtpu: pip install -e '.[tpu]'")
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as error:  # the plug-in raises its own types of errors
        if "lockfile" in str(error):
            raise InputError(
                "another process is using the TPU's compiler: wait until it has ended"
            ) from error
        why = str(error).strip().splitlines()[-1]
        raise InputError(
            "a TPU topology needs a name such as v5e:4x4, v5e:16x16, v5p:2x2x4, v5p:8x16x16 or "
            f"v6e:16x16: got {topology!r} ({why})"
        ) from error
    return list(found.devices)


def measure(case: Case, chips: Mesh) -> Iterator[Record]:
    """Yields every quantity of a row. Each chip gets a batch of the size of the row."""
    found = {
        name: _compile(f, case.shapes, chips)
        for name, f in case.programs.items()
        if name != FLAX_AGAIN  # an estimate has no noise
    }
    texts = {name: program.as_text() for name, (program, _) in found.items()}
    cycles = {name: float(total_cycles(text)) for name, text in texts.items()}
    yield Record(case.section, case.row, CYCLES, cycles, baseline=case.baseline)
    scratch = {name: scratch_bytes(program) / 1024 for name, (program, _) in found.items()}
    yield Record(case.section, case.row, SCRATCH, scratch)
    counts = {name: float(len(_COLLECTIVE.findall(text))) for name, text in texts.items()}
    yield Record(case.section, case.row, COLLECTIVES, counts)
    seconds = {name: seconds for name, (_, seconds) in found.items()}
    yield Record(case.section, case.row, COMPILE, seconds)


def _compile(f: Any, shapes: tuple[Any, ...], chips: Mesh) -> tuple[Any, float]:
    def placed(shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        if len(shape.shape) == len(shapes[0].shape) and shape.shape[0] == shapes[0].shape[0]:
            rows = shape.shape[0] * math.prod(chips.shape.values())
            batch = jax.ShapeDtypeStruct((rows, *shape.shape[1:]), shape.dtype)
            return _sharded(batch, chips, PartitionSpec("data"))
        return _sharded(shape, chips, PartitionSpec())

    key = jax.eval_shape(lambda: jax.random.key(0))
    replicated = _sharded(key, chips, PartitionSpec())
    lowered = jax.jit(f).lower(replicated, *jax.tree.map(placed, shapes))
    start = time.perf_counter()
    return lowered.compile(), time.perf_counter() - start


def _sharded(array: Any, chips: Mesh, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=NamedSharding(chips, spec))


def total_cycles(text: str) -> int:
    """Returns the cycles of a compiled program's text. A loop's body counts as often as it runs."""
    return int(sum(cycles * times for cycles, times in estimates(text)))


def estimates(text: str, causal: bool = False) -> Iterator[tuple[int, float]]:
    """Yields the cycles of each instruction that has an estimate, and how often it runs."""
    for line, times in executions(text, causal):
        for cycles in re.findall(r'"estimated_cycles":"(\d+)"', line):
            yield int(cycles), times


def collectives(text: str, causal: bool = False) -> Counter[str]:
    """Returns how often each kind of collective runs.

    A collective that runs beside computations is in several of them, with one channel.
    """
    channels: dict[tuple[str, str], float] = {}
    for line, times in executions(text, causal):
        for kind in _COLLECTIVE.findall(line):
            channel = re.search(r"channel_id=\d+", line)
            id = kind, channel.group() if channel else line
            channels[id] = max(times, channels.get(id, 0))
    counts: Counter[str] = Counter()
    for (kind, _), times in channels.items():
        counts[kind] += round(times)
    return counts


def executions(text: str, causal: bool) -> Iterator[tuple[str, float]]:
    """Yields each line of a compiled program's text, and how often it runs.

    JAX's scans count from 0 up to a constant in their conditions, and so do the compiler's loops
    that send the parts of a product while others are computed. Causal attention in blocks has a
    loop without: for block i of n, it visits i blocks. With `causal`, such a loop has the mean
    length, (n + 1) / 2, if it is inside a loop of length n.
    """
    lines: list[tuple[str, str]] = []  # (computation, line)
    constants: dict[str, int] = {}
    lengths: dict[str, int | None] = {}  # condition -> number of iterations
    callers: dict[str, tuple[str, str | None]] = {}  # -> (the computation around, condition)
    name = ""
    for line in text.splitlines():
        if header := re.match(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            name = header.group(1)
        lines.append((name, line))
        if constant := re.match(r"\s*%?([\w.\-]+) = [su]32\[\]\S* constant\((\d+)\)", line):
            constants[constant.group(1)] = int(constant.group(2))
        if limit := re.match(r"\s*ROOT .* compare\(.*%([\w.\-]+)\), direction=LT", line):
            lengths[name] = constants.get(limit.group(1))
        if loop := re.search(r" while\(.*\bcondition=%?([\w.\-]+), body=%?([\w.\-]+)", line):
            callers[loop.group(2)] = name, loop.group(1)
        elif call := re.search(r"\bcalls=%?([\w.\-]+)", line):
            callers[call.group(1)] = name, None

    def length(condition: str, outside: str) -> float:
        if (known := lengths.get(condition)) is not None:
            return known
        around = callers.get(outside, ("", None))
        if not causal or around[1] is None:
            raise ValueError(f"a loop must count up to a constant: {condition} has none")
        return (length(around[1], around[0]) + 1) / 2

    def runs(name: str) -> float:
        if name not in callers:
            return 1
        outside, condition = callers[name]
        return runs(outside) * (1 if condition is None else length(condition, outside))

    times = {name: runs(name) for name in dict.fromkeys(name for name, _ in lines)}
    for name, line in lines:
        yield line, times[name]
