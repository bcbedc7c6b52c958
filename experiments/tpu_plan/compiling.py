"""Compiles the step of a row, and reads the program."""

import gzip
import json
import re
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from ..errors import InputError
from ..files import replace
from ..metrics import process_peak_bytes
from ..tpu import bundles, hlo, schedule, topologies
from . import costs, steps
from .limited import Limits, run_limited
from .results import PARTS, Row


class Compiled(NamedTuple):
    """A compiled program of one chip."""

    text: str
    arguments: dict[str, int]
    """Bytes of the parameters, of the optimizer's state and of the batch."""
    peak: int
    flops: float
    """The FLOPs of all chips."""
    seconds: float
    bytes: int
    """Memory of the machine that compiled."""
    counts: dict[str, bundles.Count]
    """The cycles of each schedule."""


def count_chips(topology: str, limits: Limits) -> int:
    """Returns the number of chips of a topology. May raise InputError."""
    return run_limited(_count, (topology,), limits)


def fill(row: Row, config: ConfigDict, arm: steps.Arm, limits: Limits, texts: Path | None) -> None:
    """Compiles the program of a row and fills the row in. May keep the program's text."""
    causal = config.task in steps.CAUSAL and not arm.flax
    batch = round(row.batch_a_chip * row.chips)
    try:
        compiled = run_limited(_compile, (config, arm, row.topology, batch, causal), limits)
    except InputError as error:
        row.failure = str(error)
        return
    if texts is not None:
        name = re.sub(r"[^\w.]+", "-", " ".join(map(str, row.id)))
        text = json.dumps(compiled._asdict())
        replace(texts / f"{name}.json.gz", gzip.compress(text.encode()))
    describe(row, compiled, causal)


def describe(row: Row, compiled: Compiled, causal: bool) -> None:
    """Reads the numbers of a row from its program."""
    room = compiled.peak - sum(compiled.arguments.values())
    # Values that stay in the vector memory of the chip need no room.
    kept = min(costs.kept_for_backward(compiled.text), room)
    sizes = (*compiled.arguments.values(), kept, room - kept)
    row.memory = dict(zip(PARTS, sizes, strict=True))
    row.cycles = hlo.total_cycles(compiled.text, causal)
    row.collectives = dict(sorted(hlo.collectives(compiled.text, causal).items()))
    if peak := topologies.peak(row.topology):
        scheduled = schedule.read(compiled.text, compiled.counts, peak, causal)
        row.scheduled, row.not_scheduled = scheduled.cycles, scheduled.gap
    else:
        row.not_scheduled = "the peak bandwidth of these chips is not known"
    row.flops = compiled.flops / row.chips
    row.compile_seconds, row.compile_bytes = round(compiled.seconds), compiled.bytes


def refusal(message: str) -> str:
    """Says in a sentence why XLA did not compile a step."""
    lines = message.strip().splitlines()
    for line in lines:
        if "memory space hbm" in line:
            return f"a chip has too little memory: {line.partition('hbm. ')[2] or line}"
    return f"XLA does not compile it: {lines[0] if lines else 'no reason given'}"


def _count(topology: str) -> int:
    jax.config.update("jax_platforms", "cpu")  # nothing runs, so no accelerator is needed
    return len(topologies.chips(topology))


def _compile(
    config: ConfigDict, arm: steps.Arm, topology: str, batch: int, causal: bool
) -> Compiled:
    jax.config.update("jax_platforms", "cpu")
    with tempfile.TemporaryDirectory() as folder:
        mesh = steps.make_mesh(config, topologies.chips(topology, Path(folder)))
        step = steps.plan(config, arm, mesh, batch)
        start = time.perf_counter()
        with jax.set_mesh(mesh):
            traced = jax.jit(step.run, donate_argnums=0).trace(*step.arguments)
            try:
                compiled = traced.lower().compile()
            except jax.errors.JaxRuntimeError as error:
                raise InputError(refusal(str(error))) from error
        seconds = time.perf_counter() - start
        counts = schedule.counts(Path(folder))
    memory: Any = compiled.memory_analysis()
    return Compiled(
        text=compiled.as_text() or "",
        arguments=step.bytes_a_chip(),
        peak=memory.peak_memory_in_bytes,
        flops=costs.flops(traced.jaxpr.jaxpr, causal),
        seconds=seconds,
        bytes=process_peak_bytes(),
        counts=counts,
    )
