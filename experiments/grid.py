"""Trains every (rate, seed) of a regularizer with one compiled program."""

import itertools
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import optimizer
from .runs import Finished, Run, choose_rate, record, unstack
from .task import Task, batches
from .train import (
    Metrics,
    RunState,
    evaluate,
    make_epoch,
    make_init,
    out_of_patience,
    predict,
    steps_per_epoch,
)

TRIED_MODES = ("one_by_one", "vmapped")
MODES = ("auto", *TRIED_MODES)
VMAPPED_WAITS = 2.0
"""About how many times longer the longest run is than the mean. Vmapped runs wait for it."""
EVALUATION_BATCH = 256

Check = Callable[[str], None]
"""Called with a name before each piece of work. It may raise KeyboardInterrupt."""
OnEpoch = Callable[[float, float, float], None]
"""Called with the finished share of the work, the training loss and the validation score."""


class Program(NamedTuple):
    """An epoch compiled for `lanes` runs side by side: all of them, or one."""

    start: Callable[[list[Run]], tuple[RunState, jax.Array]]
    lanes: int
    call: Callable[[RunState, jax.Array], tuple[RunState, Metrics]]
    compile_seconds: float


class Grid:
    """Trains regularizers, each over all rates and seeds.

    `mode` is "vmapped" or "one_by_one". With "auto" it is None until the first training, which
    tries both modes and keeps the measurements in `trials`.
    """

    def __init__(self, task: Task, check: Check = lambda work: None):
        self.task = task
        self.check = check
        self.config = config = task.config
        self.mode: str | None = None if config.grid_mode == "auto" else config.grid_mode
        self.trials: dict[str, dict[str, Any]] = {}
        self._programs: dict[tuple[str, str], Program] = {}
        self._inits: dict[str, Callable[[jax.Array], RunState]] = {}
        self._train = jax.device_put(task.data.train)
        self._validation = jax.device_put(batches(task.data.validation, EVALUATION_BATCH))
        self._test = jax.device_put(batches(task.data.test, EVALUATION_BATCH))
        self._steps = steps_per_epoch(len(task.data.train.targets), config.batch_size)
        self._optimizer = optimizer.make(config.optimizer, config.epochs * self._steps)

    def train(self, regularizer: str, on_epoch: OnEpoch) -> dict[str, Any]:
        """Trains all runs of a regularizer, and tests those at the rate that validates best.

        A rate with a diverged run cannot be chosen. If no rate is left, the chosen rate is None.
        """
        if self.mode is None:
            self.mode = self._faster_mode()
        start = time.perf_counter()
        runs = self._runs(regularizer)
        program = self._program(regularizer, self.mode)
        begin = time.perf_counter()
        finished = self._train_all(program, runs, on_epoch)
        training_seconds = time.perf_counter() - begin
        diverged = {one.run.rate for one in finished if one.diverged}
        sound = [one for one in finished if one.run.rate not in diverged]
        chosen = choose_rate(sound, self.task.metric.higher_is_better) if sound else None
        self.check("the test")
        test = self._test_program(regularizer)
        tests = {
            one.run: jax.device_get(test(one.state.best_params, chosen))
            for one in finished
            if one.run.rate == chosen
        }
        records = [record(one, tests.get(one.run)) for one in finished]
        steps = self._steps * sum(run["epochs"] for run in records)
        return {
            "compared_to": self.task.regularizers[regularizer],
            "chosen_rate": chosen,
            "compiles": sum(name == regularizer for name, _ in self._programs),
            "compile_seconds": program.compile_seconds,
            "seconds_per_step": training_seconds / steps,
            "seconds": time.perf_counter() - start,
            "runs": records,
        }

    def _runs(self, regularizer: str) -> list[Run]:
        rates = self.config.rates if self.task.regularizers[regularizer] else (0.0,)
        return list(itertools.starmap(Run, itertools.product(rates, range(self.config.seeds))))

    def _init(self, regularizer: str) -> Callable[[jax.Array], RunState]:
        """Returns `init(key)`. A regularizer shares it with its plain network."""
        plain = self.task.plain(regularizer)
        if plain not in self._inits:
            self._inits[plain] = jax.jit(make_init(self.task, plain, self._optimizer))
        return self._inits[plain]

    def _test_program(self, regularizer: str) -> Callable[[Any, float], tuple[jax.Array, Any]]:
        """Returns `test(params, rate)`, which gives a score and the outputs to show in figures."""
        network, shown = self.task.network(regularizer), self.task.data.shown

        def test(params: Any, rate: jax.Array) -> tuple[jax.Array, Any]:
            score = evaluate(params, self.task, network, self._test, rate)
            return score, shown and predict(params, network, shown, rate)

        return jax.jit(test)

    def _faster_mode(self) -> str:
        """Times an epoch in both modes, with a regularizer that has rates, if there is one.

        A plain network has no rates, so it has fewer lanes than the others.
        """
        names = self.config.regularizers
        regularizer = next(filter(self.task.regularizers.get, names), names[0])
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
        inputs = program.start(runs[: program.lanes])
        self.check("a trial")
        begin = time.perf_counter()
        jax.block_until_ready(program.call(*inputs))
        return (time.perf_counter() - begin) / self._steps / program.lanes

    def _program(self, regularizer: str, mode: str) -> Program:
        """Compiles an epoch, unless a trial already has."""
        if (regularizer, mode) not in self._programs:
            self._programs[regularizer, mode] = self._compile(regularizer, mode)
        return self._programs[regularizer, mode]

    def _compile(self, regularizer: str, mode: str) -> Program:
        epoch = make_epoch(self.task, regularizer, self._optimizer)
        runs = self._runs(regularizer)
        lanes = len(runs) if mode == "vmapped" else 1
        side_by_side = jax.vmap(epoch, in_axes=(0, 0, None, None))
        epoch = side_by_side if mode == "vmapped" else _one_lane(epoch)
        start = partial(_start, self._init(regularizer))
        inputs = jax.eval_shape(lambda: start(runs[:lanes]))
        data = self._train, self._validation
        self.check("compiling")
        begin = time.perf_counter()
        # Ahead-of-time compilation makes sure that no later call compiles again.
        compiled = jax.jit(epoch).lower(*inputs, *data).compile()
        seconds = time.perf_counter() - begin
        return Program(start, lanes, lambda state, rate: compiled(state, rate, *data), seconds)

    def _train_all(self, program: Program, runs: list[Run], on_epoch: OnEpoch) -> list[Finished]:
        finished = []
        for first in range(0, len(runs), program.lanes):
            group = runs[first : first + program.lanes]

            def progress(
                epoch: int, metrics: Metrics, done: int = first, size: int = len(group)
            ) -> None:
                share = (done + size * epoch / self.config.epochs) / len(runs)
                on_epoch(share, float(metrics.loss.mean()), float(metrics.score.mean()))

            state, history = self._train_group(program, group, progress)
            finished += unstack(group, state, history)
        return finished

    def _train_group(
        self, program: Program, runs: list[Run], progress: Callable[[int, Metrics], None]
    ) -> tuple[RunState, list[Metrics]]:
        """Trains runs side by side until all are out of patience."""
        state, rates = program.start(runs)
        history: list[Metrics] = []
        self.check("this epoch")
        while len(history) < self.config.epochs:
            state, metrics = program.call(state, rates)
            history.append(metrics)
            progress(len(history), metrics)
            if np.all(out_of_patience(state, self.config.patience)):
                break
        return state, history


def _start(init: Callable[[jax.Array], RunState], runs: list[Run]) -> tuple[RunState, jax.Array]:
    """Returns the first states and the rates of runs, stacked: [lane, ...]."""
    states = [init(jax.random.key(run.seed)) for run in runs]
    rates = jnp.array([run.rate for run in runs], jnp.float32)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states), rates


def _one_lane(epoch: Callable[..., Any]) -> Callable[..., Any]:
    """Adds a lane axis of length 1 to an epoch, without the slower code of vmap."""

    def call(state: RunState, rate: jax.Array, train: Any, validation: Any) -> Any:
        state, rate = jax.tree.map(lambda leaf: leaf[0], (state, rate))
        return jax.tree.map(lambda leaf: leaf[None], epoch(state, rate, train, validation))

    return call
