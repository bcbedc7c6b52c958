"""Compiles the rows for TPUs without having one, and reads the compiler's estimates.

The package libtpu (the extra `tpu`) contains the compiler. Its cycles are estimates, which are
useful for ratios between two programs on one kind of chip. Each chip has one part of the batch.
"""

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
    r"\b(?:all-reduce|all-gather|collective-permute|all-to-all|reduce-scatter)(?:-start)?\("
)
_ENVIRONMENT = {  # otherwise libtpu asks a metadata server, which only a TPU's host has
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


def mesh(topology: str) -> Mesh:
    """Returns all chips of a topology such as "v5e:4x4" along one axis, "data"."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except Exception as error:  # the plug-in raises its own types of errors
        why = str(error).strip().splitlines()[-1]
        raise InputError(
            f"cannot compile for the TPU topology {topology!r}, which needs the package libtpu "
            f"(pip install -e '.[tpu]') and a name such as v5e:4x4: {why}"
        ) from error
    return Mesh(np.array(devices).reshape(-1), ("data",))


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
    """Returns the cycles of a compiled program's text. A loop's body counts as often as it runs.

    JAX's scans count from 0 up to a constant in their conditions.
    """
    cycles: Counter[str] = Counter()
    constants: dict[str, int] = {}
    lengths: dict[str, int | None] = {}  # condition -> number of iterations
    loops: dict[str, tuple[str, str]] = {}  # body -> (the computation around the loop, condition)
    name = ""
    for line in text.splitlines():
        if header := re.match(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            name = header.group(1)
        for count in re.findall(r'"estimated_cycles":"(\d+)"', line):
            cycles[name] += int(count)
        if constant := re.match(r"\s*%?([\w.\-]+) = s32\[\]\S* constant\((\d+)\)", line):
            constants[constant.group(1)] = int(constant.group(2))
        if limit := re.match(r"\s*ROOT .* compare\(.*%([\w.\-]+)\), direction=LT", line):
            lengths[name] = constants.get(limit.group(1))
        if loop := re.search(r" while\(.*\bcondition=%?([\w.\-]+), body=%?([\w.\-]+)", line):
            loops[loop.group(2)] = name, loop.group(1)

    def runs(name: str) -> int:
        if name not in loops:
            return 1
        outside, condition = loops[name]
        if (length := lengths.get(condition)) is None:
            raise ValueError(f"a loop must count up to a constant: {condition} has none")
        return length * runs(outside)

    return sum(count * runs(name) for name, count in cycles.items())
