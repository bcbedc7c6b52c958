"""Compiles the programs that train a regularizer, and makes the arrays that they take."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from . import optimizer, rate_schedule
from .devices import Layout
from .runs import Run
from .task import Array, Split, Task, batches
from .train import (
    Best,
    Measured,
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
      steps: maps a number of steps to `(state, rates, batches, keys) -> state, measured`.
      validate: `(variables, best, rates, epoch, batches) -> best, scores`.
      test: `(variables, rates, seeds, batches) -> scores, measures`.
    """

    steps: dict[int, Callable[..., tuple[TrainState, Measured]]]
    validate: Callable[..., tuple[Best, jax.Array]]
    test: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]


class Builder:
    """Builds the programs of a task, and the arrays that they take.

    All arrays of runs have a leading axis, the run. Runs that train side by side share it.

    Attributes:
      side_by_side: the number of runs that train side by side. All programs are for this number.
      steps: the number of steps of an epoch.
      call_steps: the largest number of steps of a program.
    """

    def __init__(self, task: Task):
        config = task.config
        examples = len(task.data.train.targets)
        batch_size = min(config.batch_size, examples)
        self._layout = Layout(config.mesh, batch_size, task.most_runs(config))
        self.side_by_side = self._layout.runs
        self.steps = steps_per_epoch(examples, config.batch_size)
        self.call_steps = min(config.steps_per_call or self.steps, self.steps)
        self._task = task
        self._all_steps = config.epochs * self.steps
        self._optimizer = optimizer.make(config.optimizer, self._all_steps)
        self._order = jax.jit(make_order(examples, config.batch_size))
        self._inits: dict[str, Callable[..., tuple[TrainState, Best]]] = {}

    def start(self, regularizer: str, runs: list[Run]) -> tuple[TrainState, Best]:
        """Returns the first states of runs. A regularizer shares them with its plain network."""
        plain = self._task.plain(regularizer)
        seeds = seeds_of(runs)
        if plain not in self._inits:
            init = make_init(self._task, plain, self._optimizer)
            self._inits[plain] = self._layout.compile(init, seeds, states=2)
        return self._inits[plain](seeds)

    def rates(self, regularizer: str, runs: list[Run], steps: Any) -> np.ndarray:
        """Returns the rates of runs, each after a number of steps: [run]."""
        return np.asarray(self._rate_at(regularizer)(rates_of(runs), steps))

    def learning_rate(self, step: int) -> float:
        """Returns the learning rate at a step, from 0."""
        return optimizer.learning_rate_at(self._task.config.optimizer, self._all_steps, step)

    def evaluation(self, runs: list[Run]) -> tuple[Split, Split]:
        """Returns the batches for validation and those for the test: [run, batch, example, ...]."""
        parts = [self._task.data.parts(run.seed) for run in runs]

        def put(splits: list[Split]) -> Split:
            size, multiple = EVALUATION_BATCH, self._layout.shards
            return self._layout.put_evaluation([batches(one, size, multiple) for one in splits])

        return put([one.validation for one in parts]), put([one.test for one in parts])

    def feed(
        self, runs: list[Run], step: int = 0
    ) -> Iterator[tuple[Split, np.ndarray, np.ndarray]]:
        """Yields (batches, key data, counted) for each call, from `step` on: [run, step, ...].

        A step gets the same batch and key wherever the feed starts. Of the batches, each process
        has the examples of its own devices. The others are on the host.
        """
        data = [self._task.data.parts(run.seed).train for run in runs]
        while True:
            epoch, first = divmod(step, self.steps)
            orders = [jax.device_get(self._order(run.seed, epoch + 1)) for run in runs]
            indices, keys = map(np.stack, zip(*orders, strict=True))
            for begin in range(first, self.steps, self.call_steps):
                part = slice(begin, begin + self.call_steps)
                batches = self._layout.put_batches(data, indices[:, part])
                counted = [
                    np.asarray(split.counted)[of_run[part]]
                    for split, of_run in zip(data, indices, strict=True)
                ]
                yield batches, keys[:, part], np.stack(counted)
            step = (epoch + 1) * self.steps

    def compile(self, regularizer: str, runs: list[Run]) -> Programs:
        """Compiles the programs for as many runs as these."""
        layout, task = self._layout, self._task
        loss = layout.gathered(make_loss(task.network(regularizer), task.losses))
        step = layout.spread(make_step(loss, self._optimizer, self._rate_at(regularizer)))
        score, test = map(layout.gathered, self._make_evaluations(regularizer))
        state, best = self.start(regularizer, runs)
        validation, test_batches = self.evaluation(runs)
        rates, calls = rates_of(runs), -(-self.steps // self.call_steps)
        inputs = itertools.islice(self.feed(runs), calls)  # the last call may have fewer steps
        by_size = {keys.shape[1]: (batches, keys) for batches, keys, _ in inputs}
        return Programs(
            {
                size: layout.compile(make_steps(step), state, rates, *of_size, states=1)
                for size, of_size in by_size.items()
            },
            layout.compile(
                make_validate(task, score),
                *(state.variables, best, rates, np.ones(len(runs), np.int32), validation),
                states=1,
            ),
            layout.compile(test, state.variables, rates, seeds_of(runs), test_batches),
        )

    def _rate_at(self, regularizer: str) -> Callable[[Any, Any], Any]:
        return partial(rate_schedule.scheduled, self._task.rate_schedule(regularizer))

    def _make_evaluations(self, regularizer: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Returns `score(variables, rate, batches)`, and `test`, which also takes measures."""
        task, network = self._task, self._task.network(regularizer)

        def score(variables: Any, rate: jax.Array, batches: Split) -> jax.Array:
            return evaluate(variables, task, network, batches, rate)

        def test(
            variables: Any, rate: jax.Array, seed: jax.Array, batches: Split
        ) -> tuple[jax.Array, dict[str, jax.Array]]:
            def predicted(inputs: tuple[Array, ...], *, key: jax.Array | None = None) -> Any:
                return predict(variables, network, inputs, rate, key)

            # Epochs are numbered from 1 to config.epochs, so no other key of the run is the same.
            key = jax.random.fold_in(jax.random.key(seed), task.config.epochs + 1)
            changed = task.changed_tests(batches)
            scores = {name: score(variables, rate, split) for name, split in changed.items()}
            measures = {**scores, **task.measure(predicted, rate, key)}
            return score(variables, rate, batches), measures

        return score, test


def rates_of(runs: list[Run]) -> np.ndarray:
    """Returns the rates of runs: [run]."""
    return np.array([run.rate for run in runs], np.float32)


def seeds_of(runs: list[Run]) -> np.ndarray:
    """Returns the seeds of runs: [run]."""
    return np.array([run.seed for run in runs], np.int32)
