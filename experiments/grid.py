"""Every (rate, seed) of a regularizer, through one compiled program."""

import itertools
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from .data import Corpus, batches
from .models import MODELS
from .train import (
    Metrics,
    RunState,
    evaluate,
    make_epoch,
    make_init,
    out_of_patience,
    steps_per_epoch,
)

TRIED_MODES = ("one_by_one", "vmapped")
MODES = ("auto", *TRIED_MODES)
VMAPPED_WAITS = 2.0
"""About how much longer the longest run is than the mean one: side by side, all wait for it."""
EVALUATION_BATCH = 256

OnEpoch = Callable[[float, float, float], None]
"""Called with the share of the work done, the training loss and the validation accuracy."""


class Run(NamedTuple):
    """What tells a run of a regularizer from its others."""

    rate: float
    seed: int


class Program(NamedTuple):
    """An epoch compiled for a number of runs side by side: all of them, or one at a time."""

    lanes: int
    call: Callable[[RunState, jax.Array], tuple[RunState, Metrics]]
    compile_seconds: float


class Finished(NamedTuple):
    """A run at its end, and the metrics [epoch] of the epochs that it trained."""

    run: Run
    state: RunState
    history: Metrics


class Grid:
    """Trains regularizers, each over all rates and seeds.

    `mode` is how: "vmapped" or "one_by_one"; None while "auto" has not tried both, which happens
    before the first training. What it measured then is in `trials`.
    """

    def __init__(self, config: ConfigDict, corpus: Corpus):
        self.config = config
        self.mode: str | None = None if config.grid_mode == "auto" else config.grid_mode
        self.trials: dict[str, dict[str, Any]] = {}
        self._programs: dict[tuple[str, str], Program] = {}
        self._optimizer = optax.adam(config.learning_rate)
        self._size = len(corpus.vocabulary.words), len(corpus.vocabulary.tags)
        self._train = jax.device_put(corpus.train)
        self._validation = jax.device_put(batches(corpus.validation, EVALUATION_BATCH))
        self._test = jax.device_put(batches(corpus.test, EVALUATION_BATCH))
        plain = self._model("none")
        self._init = jax.jit(make_init(plain, self._optimizer, corpus.train))
        self._accuracy = jax.jit(partial(evaluate, plain))
        self._steps = steps_per_epoch(len(corpus.train.lengths), config.batch_size)

    def train(self, regularizer: str, on_epoch: OnEpoch) -> dict[str, Any]:
        """Trains all runs of a regularizer and tests those of the rate that validation chooses."""
        if self.mode is None:
            self.mode = self._faster_mode()
        start = time.perf_counter()
        runs = self._runs(regularizer)
        program = self._program(regularizer, self.mode)
        begin = time.perf_counter()
        finished = self._train_all(program, runs, on_epoch)
        training_seconds = time.perf_counter() - begin
        chosen = choose_rate(finished)
        records = [_record(one, self._test_accuracy(one, chosen)) for one in finished]
        steps = self._steps * sum(record["epochs"] for record in records)
        return {
            "chosen_rate": chosen,
            "compiles": sum(name == regularizer for name, _ in self._programs),
            "compile_seconds": program.compile_seconds,
            "seconds_per_step": training_seconds / steps,
            "seconds": time.perf_counter() - start,
            "runs": records,
        }

    def _runs(self, regularizer: str) -> list[Run]:
        rates = self.config.rates if regularizer != "none" else (0.0,)
        return list(itertools.starmap(Run, itertools.product(rates, range(self.config.seeds))))

    def _model(self, regularizer: str) -> Any:
        config = self.config
        return MODELS[config.model](
            *self._size,
            config.features,
            config.hidden,
            regularizer,
            config.dropout,
            config.recurrent_dropout,
        )

    def _faster_mode(self) -> str:
        """Times an epoch in both modes, on a regularizer that has the whole grid if there is one.

        `none` has no rates, so its few lanes would tell little about the others' many.
        """
        full = (name for name in self.config.regularizers if name != "none")
        regularizer = next(full, "none")
        runs = self._runs(regularizer)
        for mode in TRIED_MODES:
            program = self._program(regularizer, mode)
            self.trials[mode] = {
                "regularizer": regularizer,
                "lanes": program.lanes,
                "compile_seconds": program.compile_seconds,
                "seconds_per_step": min(self._time_step(program, runs) for _ in range(3)),
            }
        one_by_one, vmapped = (self.trials[mode]["seconds_per_step"] for mode in TRIED_MODES)
        return "vmapped" if VMAPPED_WAITS * vmapped < one_by_one else "one_by_one"

    def _time_step(self, program: Program, runs: list[Run]) -> float:
        inputs = self._start(runs[: program.lanes])
        begin = time.perf_counter()
        jax.block_until_ready(program.call(*inputs))
        return (time.perf_counter() - begin) / self._steps / program.lanes

    def _program(self, regularizer: str, mode: str) -> Program:
        """Compiles an epoch, unless the trial has done so already."""
        if (regularizer, mode) not in self._programs:
            self._programs[regularizer, mode] = self._compile(regularizer, mode)
        return self._programs[regularizer, mode]

    def _compile(self, regularizer: str, mode: str) -> Program:
        model = self._model(regularizer)
        config = self.config
        epoch = make_epoch(model, self._optimizer, config.batch_size, config.patience)
        runs = self._runs(regularizer)
        lanes = len(runs) if mode == "vmapped" else 1
        side_by_side = jax.vmap(epoch, in_axes=(0, 0, None, None))
        epoch = side_by_side if mode == "vmapped" else _one_lane(epoch)
        inputs = jax.eval_shape(lambda: self._start(runs[:lanes]))
        data = self._train, self._validation
        begin = time.perf_counter()
        # Compiled ahead of time, so that no later call can compile a second time unnoticed.
        compiled = jax.jit(epoch).lower(*inputs, *data).compile()
        seconds = time.perf_counter() - begin
        return Program(lanes, lambda state, rate: compiled(state, rate, *data), seconds)

    def _start(self, runs: list[Run]) -> tuple[RunState, jax.Array]:
        """Returns the states and the rates that runs start with, stacked: [lane, ...]."""
        states = [self._init(jax.random.key(run.seed)) for run in runs]
        rates = jnp.array([run.rate for run in runs], jnp.float32)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states), rates

    def _train_all(self, program: Program, runs: list[Run], on_epoch: OnEpoch) -> list[Finished]:
        finished = []
        for first in range(0, len(runs), program.lanes):
            group = runs[first : first + program.lanes]

            def progress(epoch: int, metrics: Metrics, done: int = first, size: int = len(group)):
                share = (done + size * epoch / self.config.epochs) / len(runs)
                on_epoch(share, float(metrics.loss.mean()), float(metrics.accuracy.mean()))

            state, history = self._train_group(program, group, progress)
            finished += _unstack(group, state, history)
        return finished

    def _train_group(
        self, program: Program, runs: list[Run], progress: Callable[[int, Metrics], None]
    ) -> tuple[RunState, list[Metrics]]:
        """Trains runs side by side until the last is out of patience."""
        state, rates = self._start(runs)
        history: list[Metrics] = []
        while len(history) < self.config.epochs:
            state, metrics = program.call(state, rates)
            history.append(metrics)
            progress(len(history), metrics)
            if np.all(out_of_patience(state, self.config.patience)):
                break
        return state, history

    def _test_accuracy(self, one: Finished, chosen: float) -> float | None:
        """Tests a run with its best parameters; None for one of a rate that was not chosen."""
        if one.run.rate != chosen:
            return None
        return float(self._accuracy(one.state.best_params, self._test))


def choose_rate(finished: list[Finished]) -> float:
    """Returns the rate whose runs have the best mean validation accuracy; the lower of equals."""
    accuracies = defaultdict(list)
    for one in finished:
        accuracies[one.run.rate].append(float(one.state.best_accuracy))
    return max(sorted(accuracies), key=lambda rate: np.mean(accuracies[rate]))


def _one_lane(epoch: Callable[..., Any]) -> Callable[..., Any]:
    """Gives an epoch the axis that vmap would, of length 1, and spares it vmap's slower code."""

    def call(state: RunState, rate: jax.Array, train: Any, validation: Any) -> Any:
        state, rate = jax.tree.map(lambda leaf: leaf[0], (state, rate))
        return jax.tree.map(lambda leaf: leaf[None], epoch(state, rate, train, validation))

    return call


def _unstack(runs: list[Run], states: RunState, history: list[Metrics]) -> list[Finished]:
    """Takes runs trained side by side apart; the epochs that a run sat out frozen are left out."""
    losses, accuracies = (np.stack(values) for values in zip(*history, strict=True))
    finished = []
    for lane, run in enumerate(runs):
        state = jax.tree.map(lambda leaf, lane=lane: leaf[lane], states)
        epochs = int(state.epoch)
        metrics = Metrics(losses[:epochs, lane], accuracies[:epochs, lane])
        finished.append(Finished(run, state, metrics))
    return finished


def _record(one: Finished, test_accuracy: float | None) -> dict[str, Any]:
    return {
        "rate": one.run.rate,
        "seed": one.run.seed,
        "epochs": int(one.state.epoch),
        "best_epoch": int(one.state.best_epoch),
        "validation_accuracy": float(one.state.best_accuracy),
        "validation_curve": one.history.accuracy.tolist(),
        "train_loss": one.history.loss.tolist(),
        "test_accuracy": test_accuracy,
    }
