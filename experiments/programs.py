"""Compiles the programs that train a regularizer, and makes the arrays that they take."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from . import optimizer, rate_schedule
from .runs import Run
from .task import Split, Task, batches
from .train import (
    Best,
    TrainState,
    evaluate,
    make_init,
    make_loss,
    make_order,
    make_step,
    make_steps,
    make_validate,
    predict,
    steps_per_epoch,
)

EVALUATION_BATCH = 256


class Programs(NamedTuple):
    """The compiled programs of a regularizer.

    Attributes:
      steps: maps a number of steps to `(state, rates, batches, keys) -> state, losses`.
      validate: `(params, best, rates, epoch) -> best, scores`.
      test: `(params, rates) -> scores, shown`, with the outputs to show in figures or None.
    """

    steps: dict[int, Callable[..., tuple[TrainState, jax.Array]]]
    validate: Callable[..., tuple[Best, jax.Array]]
    test: Callable[..., tuple[jax.Array, Any]]


class Compiler:
    """Makes the programs of a task and their arrays.

    All arrays of runs have a leading axis, the run. Runs that train side by side share it.

    Attributes:
      side_by_side: the number of runs that train side by side.
      steps: the number of steps of an epoch.
      call_steps: the largest number of steps of a program.
    """

    def __init__(self, task: Task):
        config = task.config
        examples = len(task.data.train.targets)
        self.side_by_side = 1
        self.steps = steps_per_epoch(examples, config.batch_size)
        self.call_steps = min(config.steps_per_call or self.steps, self.steps)
        self._task = task
        self._optimizer = optimizer.make(config.optimizer, config.epochs * self.steps)
        self._rate_at = partial(rate_schedule.scheduled, config.rate_schedule)
        self._order = jax.jit(make_order(examples, config.batch_size))
        self._inits: dict[str, Callable[..., tuple[TrainState, Best]]] = {}
        self._validation = jax.device_put(batches(task.data.validation, EVALUATION_BATCH))
        self._test = jax.device_put(batches(task.data.test, EVALUATION_BATCH))

    def start(self, regularizer: str, runs: list[Run]) -> tuple[TrainState, Best]:
        """Returns the first states of runs. A regularizer shares them with its plain network."""
        plain = self._task.plain(regularizer)
        if plain not in self._inits:
            init = make_init(self._task, plain, self._optimizer)
            self._inits[plain] = jax.jit(_per_run(init))
        return self._inits[plain](np.array([run.seed for run in runs], np.int32))

    def rates(self, runs: list[Run], steps: Any) -> np.ndarray:
        """Returns the rates of runs, each after a number of steps: [run]."""
        return np.asarray(self._rate_at(rates_of(runs), steps))

    def feed(self, runs: list[Run], step: int = 0) -> Iterator[tuple[Split, np.ndarray]]:
        """Yields the batches and the key data of every call, from a step on: [run, step, ...].

        Any step gets the same batch and key, wherever the feed starts.
        """
        while True:
            epoch, first = divmod(step, self.steps)
            orders = [jax.device_get(self._order(run.seed, epoch + 1)) for run in runs]
            indices, keys = map(np.stack, zip(*orders, strict=True))
            for begin in range(first, self.steps, self.call_steps):
                part = slice(begin, begin + self.call_steps)
                yield self._batches(indices[:, part]), keys[:, part]
            step = (epoch + 1) * self.steps

    def _batches(self, indices: np.ndarray) -> Split:
        """Returns the training examples of these indices. They stay on the host until a call."""
        return jax.tree.map(lambda array: np.asarray(array)[indices], self._task.data.train)

    def compile(self, regularizer: str, runs: list[Run]) -> Programs:
        """Compiles the programs for as many runs as these.

        Ahead-of-time compilation makes sure that no later call compiles again.
        """
        step = make_step(make_loss(self._task, regularizer), self._optimizer, self._rate_at)
        state, best = self.start(regularizer, runs)
        rates, calls = rates_of(runs), -(-self.steps // self.call_steps)
        inputs = itertools.islice(self.feed(runs), calls)  # the last call may have fewer steps
        by_size = {keys.shape[1]: (batches, keys) for batches, keys in inputs}
        return Programs(
            {
                size: _compile(make_steps(step), state, rates, *of_size)
                for size, of_size in by_size.items()
            },
            _compile(
                make_validate(self._task, regularizer),
                *(state.params, best, rates, np.ones(len(runs), np.int32)),
                data=self._validation,
            ),
            _compile(self._make_test(regularizer), state.params, rates, data=self._test),
        )

    def _make_test(self, regularizer: str) -> Callable[..., tuple[jax.Array, Any]]:
        network, shown = self._task.network(regularizer), self._task.data.shown

        def test(params: Any, rate: jax.Array, batches: Split) -> tuple[jax.Array, Any]:
            score = evaluate(params, self._task, network, batches, rate)
            return score, shown and predict(params, network, shown, rate)

        return test


def rates_of(runs: list[Run]) -> np.ndarray:
    """Returns the rates of runs: [run]."""
    return np.array([run.rate for run in runs], np.float32)


def _compile(function: Callable[..., Any], *arguments: Any, data: Split | None = None) -> Any:
    """Compiles a function of one run for a stack of runs, and fixes its data, if it has any."""
    shared = () if data is None else (data,)
    compiled = jax.jit(_per_run(function, len(shared))).lower(*arguments, *shared).compile()
    return lambda *arguments: compiled(*arguments, *shared)


def _per_run(function: Callable[..., Any], shared: int = 0) -> Callable[..., Any]:
    """Makes a function of one run one of a stack of one run, except for its last arguments."""

    def call(*arguments: Any) -> Any:
        of_runs = arguments[: len(arguments) - shared]
        of_run = jax.tree.map(lambda leaf: leaf[0], of_runs)
        outputs = function(*of_run, *arguments[len(of_runs) :])
        return jax.tree.map(lambda leaf: leaf[None], outputs)

    return call
