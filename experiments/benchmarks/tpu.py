"""Compiles the rows for TPUs without having one, and reads what the compiler says of them.

Cycles are read from the compiler's schedule, and estimated by the compiler. Each chip has one part
of the batch. Programs that use a kernel are compiled for one chip, since XLA does not partition
kernels along automatic axes.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..tpu import hlo, schedule, topologies
from .cases import Case
from .libraries import FLAX_AGAIN
from .results import Record
from .timing import scratch_bytes

CYCLES = "estimated cycles"
SCHEDULE = "cycles (schedule)"
FLOOR = "floor"
SCRATCH = "scratch memory in KiB a chip"
COLLECTIVES = "collectives"
COMPILE = "compile time in s"


class Target(NamedTuple):
    """What programs are compiled for."""

    chips: Mesh
    peak: topologies.Peak | None
    schedules: Path
    """The folder where the compiler writes the schedules of a program."""


def target(topology: str, schedules: Path) -> Target:
    """Returns all chips of a topology such as "v5e:4x4"."""
    chips = topologies.mesh(topology, schedules)
    return Target(chips, topologies.peak(topology), schedules)


def measure(case: Case, target: Target) -> Iterator[Record]:
    """Yields every quantity of a row. Each chip gets a batch of the size of the row."""
    found, counts = {}, {}
    for name, f, chips in _programs(case, target.chips):
        found[name] = compiled(f, case.shapes, chips)
        counts[name] = schedule.counts(target.schedules)
        for path in target.schedules.iterdir():
            path.unlink()
    texts = {name: program.as_text() for name, (program, _) in found.items()}
    estimated = (name for name in texts if name not in case.kernels)  # kernels have no estimates
    cycles = {name: hlo.total_cycles(texts[name]) for name in estimated}
    if case.baseline in cycles:
        yield Record(case.section, case.row, CYCLES, cycles, baseline=case.baseline)
    if target.peak is not None:
        read = {
            name: schedule.read(text, counts[name], target.peak) for name, text in texts.items()
        }
        scheduled = {name: each.cycles for name, each in read.items()}
        memory = found[case.baseline][0].memory_analysis()
        moved = memory.argument_size_in_bytes + memory.output_size_in_bytes
        scheduled[FLOOR] = moved / target.peak.bytes_a_cycle
        gaps = {name: each.gap for name, each in read.items() if each.gap}
        yield Record(
            case.section, case.row, SCHEDULE, scheduled, baseline=case.baseline, notes=gaps
        )
    scratch = {name: scratch_bytes(program) / 1024 for name, (program, _) in found.items()}
    yield Record(case.section, case.row, SCRATCH, scratch)
    collectives = {name: float(sum(hlo.collectives(text).values())) for name, text in texts.items()}
    yield Record(case.section, case.row, COLLECTIVES, collectives)
    seconds = {name: seconds for name, (_, seconds) in found.items()}
    yield Record(case.section, case.row, COMPILE, seconds)


def _programs(case: Case, chips: Mesh) -> Iterator[tuple[str, Any, Mesh]]:
    """Yields the name of each program, the program, and the chips to compile it for."""
    for name, f in case.kernels.items():
        yield name, f, Mesh(chips.devices[:1], chips.axis_names)
    for name, f in case.programs.items():
        if name != FLAX_AGAIN:  # a program has the same cycles each time
            yield name, f, chips


def compiled(f: Any, shapes: tuple[Any, ...], chips: Mesh) -> tuple[Any, float]:
    """Returns the compiled `f(key, *arrays)`, and the time to compile it."""

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
