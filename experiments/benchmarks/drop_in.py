"""Does the import, or one `with drop_in():`, change anything but speed and memory?

The rows train two models.
"""

import argparse
import contextlib
import inspect
import itertools
import re
import time
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import flax_spatialdrop.linen as fsl

from . import timing
from .architectures import ResNet, TransformerLM
from .libraries import FLAX, FLAX_AGAIN, OURS
from .results import Record, timed

SECTION = "training"
STEPS = 50
DROP_IN = "Flax in drop_in()"
LAYERS = {FLAX: nn.Dropout, FLAX_AGAIN: nn.Dropout, OURS: fsl.Dropout, DROP_IN: nn.Dropout}
DIFFERENCE = "largest difference of a loss to Flax's"


def measure(only: re.Pattern[str]) -> Iterator[Record]:
    """Trains each model with both libraries' dropout, with the same weights and batches."""
    if only.search(f"{SECTION}: transformer language model"):
        yield from _train("transformer language model", TransformerLM, text_batches())
    if only.search(f"{SECTION}: ResNet"):
        yield from _train("ResNet", ResNet, image_batches())


def text_batches() -> Iterator[tuple[jax.Array, jax.Array]]:
    """Yields bytes of the source of argparse, a text on every machine, and the next bytes."""
    text = np.frombuffer(inspect.getsource(argparse).encode(), np.uint8).astype(np.int32)
    rng = np.random.default_rng(0)
    while True:
        starts = rng.integers(0, len(text) - 129, 16)
        rows = text[starts[:, None] + np.arange(129)]
        yield jnp.asarray(rows[:, :-1]), jnp.asarray(rows[:, 1:])


def image_batches() -> Iterator[tuple[jax.Array, jax.Array]]:
    """Yields images of noise. The label is the brightest of ten rows."""
    rng = np.random.default_rng(0)
    while True:
        labels = rng.integers(0, 10, 32)
        images = rng.normal(size=(32, 32, 32, 3)).astype(np.float32)
        images[np.arange(32), 3 * labels] += 1
        yield jnp.asarray(images), jnp.asarray(labels)


def _train(row: str, model_class: Any, batches: Iterator[Any]) -> Iterator[Record]:
    data = list(itertools.islice(batches, STEPS))
    runs = {}
    for name, layer in LAYERS.items():
        with fsl.drop_in() if name == DROP_IN else contextlib.nullcontext():
            runs[name] = _Run(model_class(dropout=layer), data[0])
    rng = np.random.default_rng(0)
    for turn, batch in enumerate(data):
        for name in rng.permutation(list(runs)):
            runs[name].step(turn, batch)
    row = f"{row}, {STEPS} steps"
    times = {name: timing.summary(run.seconds[1:]) for name, run in runs.items()}
    yield timed(SECTION, row, "time of a step in ms", times)
    yield Record(SECTION, row, "scratch memory in MiB", {n: r.scratch for n, r in runs.items()})
    differences = {
        name: float(np.abs(np.subtract(run.losses, runs[FLAX].losses)).max())
        for name, run in runs.items()
    }
    losses = {
        DIFFERENCE: differences,
        "first loss": {name: run.losses[0] for name, run in runs.items()},
        "last loss": {name: run.losses[-1] for name, run in runs.items()},
    }
    for quantity, values in losses.items():
        yield Record(SECTION, row, quantity, values, is_cost=False)


class _Run:
    """A model in training, with the time, memory and losses of its steps."""

    def __init__(self, model: nn.Module, batch: Any):
        key = jax.random.key(0)
        variables = model.init({"params": key, "dropout": key}, batch[0])
        optimizer = optax.adamw(1e-3)
        self._state = variables["params"], optimizer.init(variables["params"])
        statistics = {k: v for k, v in variables.items() if k != "params"}

        def loss(params, turn, inputs, labels):
            rngs = {"dropout": jax.random.fold_in(jax.random.key(1), turn)}
            logits, _ = model.apply(
                {"params": params, **statistics}, inputs, rngs=rngs, mutable=list(statistics)
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        def step(state, turn, inputs, labels):
            params, moments = state
            value, gradient = jax.value_and_grad(loss)(params, turn, inputs, labels)
            updates, moments = optimizer.update(gradient, moments, params)
            return (optax.apply_updates(params, updates), moments), value

        self._step = jax.jit(step).lower(self._state, np.int32(0), *batch).compile()
        self.scratch = timing.scratch_bytes(self._step) / 2**20
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def step(self, turn: int, batch: Any) -> None:
        """Takes one step of the optimizer."""
        start = time.perf_counter()
        self._state, loss = self._step(self._state, np.int32(turn), *batch)
        self.losses.append(float(loss))
        self.seconds.append(time.perf_counter() - start)
