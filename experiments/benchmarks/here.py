"""Measures the rows on this machine: times, scratch memory and residuals."""

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from . import timing
from .cases import Case
from .results import Record, Results, timed

TIME, TIME_PAGES_KEPT = "time in ms", "time in ms, pages kept"
SCRATCH = "scratch memory in MiB"
KEPT = "kept for backward beyond no dropout, in bytes"
FAULTS_FROM = 32 * 2**20
"""The least bytes of an array for which glibc requests new pages at every call."""


def measure(case: Case, seconds: float, quantity: str = TIME) -> Iterator[Record]:
    """Yields every quantity of a row. `quantity` is the name of the times."""
    key = jax.random.key(0)
    compiled = timing.compiled(case.programs, key, *case.shapes)
    arrays = [jnp.full(s.shape, 0.05, s.dtype) for s in case.shapes]
    calls = {name: partial(program, key, *arrays) for name, program in compiled.items()}
    times = timing.times(calls | case.eager(), seconds)
    yield timed(case.section, case.row, quantity, times, baseline=case.baseline)
    if case.backward:
        scratch = {
            name: timing.scratch_bytes(program) / 2**20 for name, program in compiled.items()
        }
        yield Record(case.section, case.row, SCRATCH, scratch)
        kept = {n: residual_bytes(case.backward(n), case.shapes) for n in case.programs}
        beyond = {n: float(size - kept[case.baseline]) for n, size in kept.items()}
        yield Record(case.section, case.row, KEPT, beyond)


def measure_pages_kept(only: str, seconds: float) -> list[Record]:
    """Measures the layers of at least 32 MiB in a second process that keeps its pages."""
    command = [sys.executable, "-m", __package__, "--pages_kept", f"--only={only}"]
    with tempfile.TemporaryDirectory() as folder:
        command += [f"--seconds={seconds}", f"--workdir={folder}"]
        # If the process fails, its earlier rows stay, and this program continues with other rows.
        subprocess.run(command, env=os.environ | timing.PAGES_KEPT, check=False)
        path = Path(folder) / "cpu.json"
        return Results.load(path).records if path.exists() else []


def is_large(case: Case) -> bool:
    """Returns whether a copy of the row is mostly page faults on a CPU."""
    return case.section == "layers" and nbytes(case.shapes[0]) >= FAULTS_FROM


def residual_bytes(loss: Any, shapes: tuple[jax.ShapeDtypeStruct, ...]) -> int:
    """Returns the bytes of residuals, which the forward pass keeps for the backward pass."""

    def residuals(key, *arrays):
        return jax.vjp(lambda *a: loss(key, *a), *arrays)[1]

    kept = jax.eval_shape(residuals, jax.random.key(0), *shapes)
    return sum(nbytes(leaf) for leaf in jax.tree.leaves(kept))


def nbytes(array: jax.ShapeDtypeStruct) -> int:
    """Returns the bytes of an array, or of the words of a key."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.eval_shape(jax.random.key_data, array)
    return math.prod(array.shape) * array.dtype.itemsize
