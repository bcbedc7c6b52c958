"""How much time does stochastic depth save if it skips branches that are dropped for a batch?

The rows are the gradient for the weights and x of 24 blocks x + tanh(x @ w1) @ w2 at a rate of .4.
The time of a step depends on how many blocks its key keeps. So each time is the mean over two keys,
which keep 14 and 15 blocks. The expected number is 14.4.

The rows whose names begin with "subset" ask the same for a branch that runs on a subset of the
rows: 38 of 64.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flax_spatialdrop import residual_drop_path, sample_mask

from . import timing
from .cases import describe
from .libraries import FLAX, FLAX_AGAIN, OURS
from .results import Record, timed

SECTION = "drop path"
DEPTH, RATE = 24, 0.4
KEPT = (14, 15)
SIZES = ((2048, 512, 2048), (2048, 512, 512), (256, 1024, 1024))
"""The sizes of x [batch, features], and the width inside a block."""
SIZES_OF_SUBSETS = ((64, 64, 512, 512),)
"""The sizes of x [batch, time, features], and the width inside a block."""
WITHOUT, ROWS, SUBSET = "without drop path", "rows", "subset of rows"

Block = Callable[[jax.Array, jax.Array, Callable[[jax.Array], jax.Array]], jax.Array]
"""f(key, x, branch)."""


def without(key: jax.Array, x: jax.Array, branch: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """A plain residual block."""
    return x + branch(x)


def ours(
    key: jax.Array, x: jax.Array, branch: Callable[[jax.Array], jax.Array], mode: Any = "batch"
) -> jax.Array:
    """A block that is skipped for the whole batch, dropped per row, or run on some rows."""
    return residual_drop_path(key, x, branch, RATE, mode=mode)


def flax(key: jax.Array, x: jax.Array, branch: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """A block as in Flax models: dropout whose mask has an entry for each row."""
    shared = tuple(range(1, x.ndim))
    layer = nn.Dropout(RATE, broadcast_dims=shared, deterministic=False)
    dropped: Any = layer.apply({}, branch(x), rngs={"dropout": key})
    return x + dropped


BLOCKS: dict[str, Block] = {
    OURS: ours,
    WITHOUT: without,
    ROWS: partial(ours, mode="row"),
    FLAX: flax,
    FLAX_AGAIN: flax,
}


BLOCKS_OF_SUBSETS: dict[str, Block] = {
    WITHOUT: without,
    ROWS: partial(ours, mode="row"),
    SUBSET: partial(ours, mode="subset"),
}


def measure(only: re.Pattern[str], seconds: float) -> Iterator[Record]:
    """Yields time and memory of every matching size and form."""
    forms = {"chain": chain_loss, "scan": scan_loss}
    cases: list[tuple[str, Sequence[int], dict[str, Block]]]
    cases = [("", size, BLOCKS) for size in SIZES]
    cases += [("subset, ", size, BLOCKS_OF_SUBSETS) for size in SIZES_OF_SUBSETS]
    for (kind, size, blocks), (form, build) in itertools.product(cases, forms.items()):
        *shape, width = size
        x = describe("float32", tuple(shape))
        row = f"{kind}{form} of {DEPTH}, {x}, {width} inside"
        if only.search(f"{SECTION}: {row}"):
            yield from _row(row, build, size, blocks, seconds)


def _row(
    row: str,
    build: Callable[[Block], Any],
    size: Sequence[int],
    blocks: dict[str, Block],
    seconds: float,
) -> Iterator[Record]:
    *shape, width = size
    features = shape[-1]
    a, b, c = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(a, shape)
    stacked = (
        jax.random.normal(b, (DEPTH, features, width)) / features**0.5,
        jax.random.normal(c, (DEPTH, width, features)) / width**0.5,
    )
    # A chain has separate weights for each block. Slicing them out of one array would cost time.
    weights: Any = stacked if build is scan_loss else list(zip(*map(list, stacked), strict=True))
    keys = [first_key(kept) for kept in KEPT]
    gradients = {name: jax.grad(build(block), argnums=(1, 2)) for name, block in blocks.items()}
    programs = timing.compiled(gradients, keys[0], x, weights)
    calls: dict[str, timing.Call] = {
        name: partial(_with_each, program, keys, x, weights) for name, program in programs.items()
    }
    times = {
        name: timing.Time(*(t / len(keys) for t in time))
        for name, time in timing.times(calls, seconds).items()
    }
    yield timed(SECTION, row, "time in ms", times, baseline=WITHOUT)
    scratch = {name: timing.scratch_bytes(program) / 2**20 for name, program in programs.items()}
    yield Record(SECTION, row, "scratch memory in MiB", scratch)


def _with_each(program: Any, keys: list[jax.Array], *arrays: Any) -> None:
    for key in keys:
        jax.block_until_ready(program(key, *arrays))


def first_key(kept: int) -> jax.Array:
    """Returns the first key that keeps `kept` blocks."""

    def count(key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, DEPTH)
        return jax.vmap(lambda k: sample_mask(k, RATE, (1, 1)))(keys).sum()

    keys = jax.vmap(jax.random.key)(jnp.arange(1000))
    return keys[int(jnp.argmax(jax.vmap(count)(keys) == kept))]


def branch_of(w1: jax.Array, w2: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Returns the branch of a block."""
    return lambda x: jnp.tanh(x @ w1) @ w2


def chain_loss(block: Block) -> Callable[..., jax.Array]:
    """Returns the loss of unrolled blocks."""

    def loss(key: jax.Array, x: jax.Array, weights: Any) -> jax.Array:
        for k, (w1, w2) in zip(jax.random.split(key, len(weights)), weights, strict=True):
            x = block(k, x, branch_of(w1, w2))
        return (x**2).sum()

    return loss


def scan_loss(block: Block) -> Callable[..., jax.Array]:
    """Returns the same loss as a scan over stacked weights."""

    def loss(key: jax.Array, x: jax.Array, weights: Any) -> jax.Array:
        def step(x, now):
            k, w1, w2 = now
            return block(k, x, branch_of(w1, w2)), None

        x, _ = jax.lax.scan(step, x, (jax.random.split(key, len(weights[0])), *weights))
        return (x**2).sum()

    return loss
