"""Overheads of a layer: eager calls, tracing, lowering, compiling and the import."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import flax_spatialdrop as fs
import flax_spatialdrop.linen as fsl
import flax_spatialdrop.nnx as fsx

from . import timing
from .libraries import CORE, ELEMENT_WISE, FLAX, FLAX_AGAIN, OURS, SPATIAL, Kind, layers
from .results import Record, timed

SECTION = "overheads"
SHAPE = (8, 16, 32)
DEPTH = 24
STAGES = ("tracing", "lowering", "compiling")
ROUNDS = 7
FUNCTION = "flax_spatialdrop's function"
IMPORT = """
import time, jax, chex
start = time.perf_counter()
import flax_spatialdrop
print(time.perf_counter() - start)
"""


def measure(only: re.Pattern[str], seconds: float) -> Iterator[Record]:
    """Yields every matching row, in the order of the report."""

    def wanted(row: str) -> bool:
        return bool(only.search(f"{SECTION}: {row}"))

    for kind in (ELEMENT_WISE, SPATIAL):
        if wanted(f"eager call, {kind.name}"):
            yield eager_calls(kind, seconds)
        if wanted(f"eager NNX call, {kind.name}"):
            yield eager_nnx_calls(kind, seconds)
    if wanted("eager call at a new rate"):
        yield new_rates()
    for kind in (ELEMENT_WISE, SPATIAL):
        if wanted(f"tracing, lowering, compiling, {kind.name}"):
            yield from stages(kind)
    if wanted("import"):
        yield import_time()


def eager_calls(kind: Kind, seconds: float) -> Record:
    """Times a layer outside jit, on a small array, so that the call takes most of the time."""
    key, x = jax.random.key(0), jnp.ones(SHAPE)
    functions: dict[str, Callable] = dict(layers(kind, len(SHAPE), CORE))
    axes = kind.shared_axes(len(SHAPE))
    functions[FUNCTION] = lambda key, x: fs.dropout(key, x, 0.1, broadcast_dims=axes)
    calls: dict[str, timing.Call] = {n: partial(f, key, x) for n, f in functions.items()}
    times = timing.times(calls, seconds)
    return timed(SECTION, f"eager call, {kind.name}, f32{list(SHAPE)}", "time in ms", times)


def eager_nnx_calls(kind: Kind, seconds: float) -> Record:
    """Times the same for NNX modules, which hold a stream and count its keys."""
    x, axes = jnp.ones(SHAPE), kind.shared_axes(len(SHAPE))
    classes = {OURS: fsx.Dropout, FLAX: nnx.Dropout, FLAX_AGAIN: nnx.Dropout}
    calls: dict[str, timing.Call] = {
        name: partial(cls(0.1, broadcast_dims=axes, rngs=nnx.Rngs(0)), x)
        for name, cls in classes.items()
    }
    times = timing.times(calls, seconds)
    return timed(SECTION, f"eager NNX call, {kind.name}, f32{list(SHAPE)}", "time in ms", times)


def new_rates() -> Record:
    """Times the first eager call at a new rate, to see which libraries compile again."""
    x, key = jnp.ones(SHAPE), jax.random.key(0)
    samples: dict[str, list[float]] = {}
    for turn in range(ROUNDS):
        for name, module in _modules(0.1 + 0.01 * turn, ELEMENT_WISE).items():
            if name == FLAX_AGAIN:  # the rate is not new for it
                continue
            start = time.perf_counter()
            jax.block_until_ready(module.apply({}, x, rngs={"dropout": key}))
            samples.setdefault(name, []).append(time.perf_counter() - start)
    # Every library compiles for the first rate, so it does not count.
    return _record("eager call at a new rate", {n: values[1:] for n, values in samples.items()})


def stages(kind: Kind) -> Iterator[Record]:
    """Times tracing, lowering and compiling the gradient of 24 layers, from empty caches."""
    samples: dict[str, dict[str, list[float]]] = {stage: {} for stage in STAGES}
    for _ in range(ROUNDS):
        for name, module in _modules(0.1, kind).items():
            jax.clear_caches()
            for stage, seconds in zip(STAGES, _stages(module), strict=True):
                samples[stage].setdefault(name, []).append(seconds)
    for stage, found in samples.items():
        yield _record(f"{stage} the gradient of {DEPTH} layers, {kind.name}", found)


def _modules(rate: float, kind: Kind) -> dict[str, nn.Module]:
    axes = kind.shared_axes(len(SHAPE))
    theirs = nn.Dropout(rate, broadcast_dims=axes, deterministic=False)
    return {
        OURS: fsl.Dropout(rate, broadcast_dims=axes, deterministic=False),
        FLAX: theirs,
        FLAX_AGAIN: theirs,
    }


def _stages(module: nn.Module) -> tuple[float, ...]:
    def loss(x, key):
        for k in jax.random.split(key, DEPTH):
            x = module.apply({}, jnp.tanh(x), rngs={"dropout": k})
        return x.sum()

    times = [time.perf_counter()]
    traced = jax.jit(jax.grad(loss)).trace(jnp.ones(SHAPE), jax.random.key(0))
    times.append(time.perf_counter())
    lowered = traced.lower()
    times.append(time.perf_counter())
    lowered.compile()
    times.append(time.perf_counter())
    return tuple(np.diff(times))


def import_time() -> Record:
    """Times `import flax_spatialdrop` after JAX and chex, in fresh processes."""
    samples = []
    for _ in range(ROUNDS):
        done = subprocess.run(
            [sys.executable, "-c", IMPORT],
            capture_output=True,
            text=True,
            check=True,
            start_new_session=True,  # Ctrl-C must reach only this program
        )
        samples.append(float(done.stdout))
    return _record("import, beyond jax and chex", {OURS: samples})


def _record(row: str, samples: dict[str, list[float]]) -> Record:
    times = {name: timing.summary(values) for name, values in samples.items()}
    return timed(SECTION, row, "time in ms", times)
