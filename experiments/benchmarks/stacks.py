"""How much time and memory does this library save in training stacks?

The rows are the gradient of the layers in `experiments.stacks`, with the dropout of the stack, with
that of this library, and without any.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax

from ..stacks import Example, axlearn, haiku, haliax, maxtext, pipeline, t5x
from . import timing
from .cases import NO_DROPOUT
from .libraries import FLAX, FLAX_AGAIN, OURS
from .results import Record, timed

SECTION = "stacks"
STACKS: dict[str, tuple[Callable[..., Example], Any, Any]] = {
    "MaxText, Linen": (maxtext.example, maxtext.THEIRS, maxtext.OURS),
    "MaxText, Linen, remat": (
        partial(maxtext.example, remat_policy="minimal"),
        maxtext.THEIRS,
        maxtext.OURS,
    ),
    "MaxText, NNX": (maxtext.nnx_example, maxtext.NNX_THEIRS, maxtext.NNX_OURS),
    "T5X": (t5x.example, t5x.THEIRS, t5x.OURS),
    "AXLearn": (axlearn.example, axlearn.THEIRS, axlearn.OURS),
    "Haiku": (haiku.example, haiku.THEIRS, haiku.OURS),
    "Haliax": (haliax.example, haliax.THEIRS, haliax.OURS),
    "pipeline": (pipeline.example, pipeline.THEIRS, pipeline.OURS),
}
"""For each row the example, the dropout of the stack, and ours."""


def measure(only: re.Pattern[str], seconds: float) -> Iterator[Record]:
    """Yields time and memory of every matching stack."""
    for row, (example, theirs, ours) in STACKS.items():
        if only.search(f"{SECTION}: {row}"):
            contenders = {OURS: ours, NO_DROPOUT: None, FLAX: theirs, FLAX_AGAIN: theirs}
            examples = {name: example(dropout) for name, dropout in contenders.items()}
            yield from _row(row, examples, seconds)


def _row(row: str, examples: dict[str, Example], seconds: float) -> Iterator[Record]:
    key = jax.random.key(0)
    arguments = {name: (e.params, key, e.batch) for name, e in examples.items()}
    programs = {
        name: jax.jit(jax.grad(e.loss)).lower(*arguments[name]).compile()
        for name, e in examples.items()
    }
    calls: dict[str, timing.Call] = {
        name: partial(program, *arguments[name]) for name, program in programs.items()
    }
    yield timed(SECTION, row, "time in ms", timing.times(calls, seconds), baseline=NO_DROPOUT)
    scratch = {name: timing.scratch_bytes(program) / 2**20 for name, program in programs.items()}
    yield Record(SECTION, row, "scratch memory in MiB", scratch)
