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
from .train import Metrics, RunState, evaluate, make_epoch, make_init, out_of_patience

MODES = ("auto", "vmapped", "one_by_one")
EVALUATION_BATCH = 256

OnEpoch = Callable[[float, float, float], None]
"""Called with the share of the work done, the training loss and the validation accuracy."""


class Program(NamedTuple):
    """An epoch compiled for a group of runs: for one, or for all side by side."""

    mode: str
    call: Callable[[RunState, jax.Array], tuple[RunState, Metrics]]
    compile_seconds: float


class Grid:
    """Trains regularizers, each over all rates and seeds, and remembers which mode is faster."""

    def __init__(self, config: ConfigDict, corpus: Corpus):
        self.config = config
        self.mode = config.grid
        self.trials: dict[str, dict[str, float]] = {}
        self._optimizer = optax.adam(config.learning_rate)
        self._size = len(corpus.vocabulary.words), len(corpus.vocabulary.tags)
        self._train = jax.device_put(corpus.train)
        self._validation = jax.device_put(batches(corpus.validation, EVALUATION_BATCH))
        self._test = jax.device_put(batches(corpus.test, EVALUATION_BATCH))
        plain = self._model("none")
        self._init = jax.jit(make_init(plain, self._optimizer, corpus.train))
        self._accuracy = jax.jit(partial(evaluate, plain))
        self._steps = max(1, len(corpus.train.lengths) // config.batch_size)

    def train(self, regularizer: str, on_epoch: OnEpoch) -> dict[str, Any]:
        """Trains all runs of a regularizer and tests those of the rate that validation chooses."""
        start = time.perf_counter()
        rates = self.config.rates if regularizer != "none" else (0.0,)
        runs = list(itertools.product(map(float, rates), range(self.config.seeds)))
        programs = [self._compile(regularizer, mode, runs) for mode in self._candidates()]
        if len(programs) > 1:
            self._choose(programs, runs)
        program = next(p for p in programs if p.mode == self.mode)

        begin = time.perf_counter()
        finished: list[dict[str, Any]] = []
        best_params: list[Any] = []
        groups = self._groups(program.mode, runs)
        run_steps = 0
        for index, (state, rate) in enumerate(groups):
            progress = partial(_report, on_epoch, index, len(groups), self.config.epochs)
            state, history = self._train_group(program, state, rate, progress)
            run_steps += history.loss.size * self._steps
            for lane in range(history.loss.shape[1]):
                one = state if rate.ndim == 0 else jax.tree.map(lambda a, i=lane: a[i], state)
                finished.append(_run(*runs[len(finished)], one, history, lane))
                best_params.append(one.best_params)
        seconds = time.perf_counter() - begin

        chosen = choose_rate(finished)
        for run, params in zip(finished, best_params, strict=True):
            if run["rate"] == chosen:
                run["test_accuracy"] = float(self._accuracy(params, self._test))
        return {
            "chosen_rate": chosen,
            "mode": program.mode,
            "compiles": len(programs),
            "compile_seconds": program.compile_seconds,
            "seconds_per_step": seconds / run_steps,
            "seconds": time.perf_counter() - start,
            "runs": finished,
        }

    def _model(self, regularizer):
        model = MODELS[self.config.model]
        return model(*self._size, self.config.features, self.config.hidden, regularizer)

    def _candidates(self):
        return ("one_by_one", "vmapped") if self.mode == "auto" else (self.mode,)

    def _groups(self, mode, runs):
        keys = [jax.random.key(seed) for _, seed in runs]
        rates = [jnp.float32(rate) for rate, _ in runs]
        states = [self._init(key) for key in keys]
        if mode == "one_by_one":
            return list(zip(states, rates, strict=True))
        return [(jax.tree.map(lambda *leaves: jnp.stack(leaves), *states), jnp.stack(rates))]

    def _compile(self, regularizer, mode, runs):
        epoch = make_epoch(
            self._model(regularizer),
            self._optimizer,
            self.config.batch_size,
            self.config.patience,
        )
        if mode == "vmapped":
            epoch = jax.vmap(epoch, in_axes=(0, 0, None, None))
        data = self._train, self._validation
        state, rate = self._groups(mode, runs)[0]
        start = time.perf_counter()
        # Compiled ahead of time, so that no later call can compile a second time unnoticed.
        compiled = jax.jit(epoch).lower(state, rate, *data).compile()
        return Program(
            mode, lambda state, rate: compiled(state, rate, *data), time.perf_counter() - start
        )

    def _choose(self, programs, runs):
        for program in programs:
            state, rate = self._groups(program.mode, runs)[0]
            jax.block_until_ready(program.call(state, rate))
            start = time.perf_counter()
            jax.block_until_ready(program.call(state, rate))
            self.trials[program.mode] = {
                "compile_seconds": program.compile_seconds,
                "seconds_per_step": (time.perf_counter() - start) / self._steps / max(1, rate.size),
            }
        self.mode = min(self.trials, key=lambda mode: self.trials[mode]["seconds_per_step"])

    def _train_group(self, program, state, rate, progress):
        history = []
        for epoch in range(self.config.epochs):
            state, metrics = program.call(state, rate)
            history.append(jax.tree.map(np.atleast_1d, metrics))
            progress(epoch, history[-1])
            if np.all(out_of_patience(state, self.config.patience)):
                break
        return state, jax.tree.map(lambda *epochs: np.stack(epochs), *history)


def choose_rate(runs: list[dict[str, Any]]) -> float:
    """Returns the rate whose runs have the best mean validation accuracy; the lower of equals."""
    accuracies = defaultdict(list)
    for run in runs:
        accuracies[run["rate"]].append(run["validation_accuracy"])
    return max(sorted(accuracies), key=lambda rate: np.mean(accuracies[rate]))


def _report(on_epoch, group, groups, epochs, epoch, metrics):
    share = (group + (epoch + 1) / epochs) / groups
    on_epoch(share, float(metrics.loss.mean()), float(metrics.accuracy.mean()))


def _run(rate, seed, state, history, lane):
    epochs = int(state.epoch)
    return {
        "rate": rate,
        "seed": seed,
        "epochs": epochs,
        "best_epoch": int(state.best_epoch),
        "validation_accuracy": float(state.best_accuracy),
        "validation_curve": history.accuracy[:epochs, lane].tolist(),
        "train_loss": history.loss[:epochs, lane].tolist(),
        "test_accuracy": None,
    }
