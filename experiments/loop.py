"""The loop of training: calls of the compiled steps, validation after each epoch, then the test."""

import time
from operator import itemgetter

import jax
import numpy as np
from ml_collections import ConfigDict

from .metrics import Profiler, memory, throughput
from .programs import Builder, Programs, rates_of, seeds_of
from .runs import Progress, Record, record
from .train import Best, TrainState

Numbers = dict[str, float]


class Loop:
    """Trains runs side by side, from their first step or from a checkpoint.

    Attributes:
      progress: how far the runs are.
    """

    def __init__(
        self,
        config: ConfigDict,
        builder: Builder,
        programs: Programs,
        arrays: tuple[TrainState, Best],
        progress: Progress,
    ):
        """`arrays` and `progress` are those that `snapshot` returns, or those of a start."""
        self.progress = progress
        self._config = config
        self._builder = builder
        self._programs = programs
        self._state, self._best = arrays
        self._begin = time.perf_counter() - progress.seconds
        self._rates = rates_of(progress.runs)
        self._validation, self._test = builder.evaluation(progress.runs)
        self._feed = builder.feed(progress.runs, progress.step)
        self._next = next(self._feed)

    @property
    def waits(self) -> np.ndarray:
        """Whether each run has ended, and waits for others."""
        ends = self.progress.ends(np.asarray(self._best.epoch), self._config.patience)
        return len(self.progress.scores) >= ends

    @property
    def has_ended(self) -> bool:
        """Whether all runs have ended, or all epochs are over."""
        return len(self.progress.scores) == self._config.epochs or bool(np.all(self.waits))

    @property
    def at_end_of_epoch(self) -> bool:
        """Whether the last step was the last one of an epoch."""
        return self.progress.step % self._builder.steps == 0

    def call(self, profiler: Profiler) -> list[Numbers]:
        """Takes the steps of a call, which may end an epoch. Returns the numbers of each run."""
        rows = self._take_steps(profiler)
        if self.at_end_of_epoch:
            rows = [row | last for row, last in zip(rows, self._validate(), strict=True)]
        return rows

    def _take_steps(self, profiler: Profiler) -> list[Numbers]:
        progress, (batches, keys, counted) = self.progress, self._next
        begin, steps = time.perf_counter(), keys.shape[1]
        with profiler(steps):
            self._state, measured = self._programs.steps[steps](
                self._state, self._rates, batches, keys
            )
            # This is done while the device trains.
            self._next = next(self._feed)
            last = progress.step + steps - 1
            rates = self._builder.rates(progress.regularizer, progress.runs, last)
            shared = {"learning_rate": self._builder.learning_rate(last)}
            losses, norms = map(np.asarray, measured)
        shared |= {**throughput(time.perf_counter() - begin, counted), **memory()}
        progress.add(losses)
        of_runs = zip(losses.mean(1), norms.mean(1), rates, strict=True)
        return [
            {"loss": loss, "gradient_norm": norm, "dropout_rate": rate, **shared}
            for loss, norm, rate in of_runs
        ]

    def _validate(self) -> list[Numbers]:
        """Validates the runs after an epoch. Returns the numbers of the epoch of each run."""
        progress = self.progress
        epoch = np.full(len(progress.runs), len(progress.scores) + 1, np.int32)
        rates = self._builder.rates(progress.regularizer, progress.runs, progress.step)
        variables = self._state.variables
        self._best, scores = self._programs.validate(
            variables, self._best, rates, epoch, self._validation
        )
        progress.end_epoch(self._builder.steps, np.asarray(scores))
        progress.seconds = time.perf_counter() - self._begin
        return progress.last_epoch()

    def snapshot(self) -> tuple[tuple[TrainState, Best], Progress]:
        """Returns the arrays and the progress, from which another loop can go on."""
        self.progress.seconds = time.perf_counter() - self._begin
        return (self._state, self._best), self.progress

    def test(self) -> list[Record]:
        """Tests the best variables of each run. Returns the records of the runs."""
        progress, epochs = self.progress, np.asarray(self._best.epoch)
        steps = self._builder.steps * epochs
        rates = self._builder.rates(progress.regularizer, progress.runs, steps)
        seeds = seeds_of(progress.runs)
        tested = jax.device_get(self._programs.test(self._best.variables, rates, seeds, self._test))
        progress.seconds = time.perf_counter() - self._begin
        ends = progress.ends(epochs, self._config.patience)
        return [
            record(progress, lane, end, best, *jax.tree.map(itemgetter(lane), tested))
            for lane, (end, best) in enumerate(zip(ends.tolist(), epochs.tolist(), strict=True))
        ]
