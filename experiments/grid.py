"""Trains every (rate, seed) of a regularizer with the same compiled programs."""

import contextlib
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .checkpoints import Checkpoints
from .metrics import Profiler, Writer, memory, throughput
from .programs import Compiler, Programs, rates_of
from .runs import Progress, Record, Run, choose_rate, record
from .task import Task
from .train import Best

OnEpoch = Callable[[float, Progress], None]
"""Called after an epoch with the finished share of the regularizer's work, and the progress."""


class Grid:
    """Trains regularizers, each over all rates and seeds.

    Args:
      task: what to train.
      folder: the folder for checkpoints.
      metrics: the folder for metrics, or None to write none.
      profile: the folder for a trace of the second call of the steps, or None to trace nothing.
      resume: whether runs continue from the checkpoints that are there.
      save: called when runs have ended, and before a checkpoint is written.
      check: called with a name before each piece of work. It may raise KeyboardInterrupt.
    """

    def __init__(
        self,
        task: Task,
        folder: Path,
        *,
        metrics: Path | None = None,
        profile: Path | None = None,
        resume: bool = False,
        save: Callable[[], None] = lambda: None,
        check: Callable[[str], None] = lambda work: None,
    ):
        self._task = task
        self._config = task.config
        self._compiler = Compiler(task)
        self._folder = folder
        self._metrics = metrics
        self.profiler = Profiler(profile)
        self._resume = resume
        self._save = save
        self._check = check

    def train(self, regularizer: str, records: list[Record], on_epoch: OnEpoch) -> dict[str, Any]:
        """Trains and tests the runs of a regularizer that have no record, and adds their records.

        The rate is chosen by validation scores alone. It is None if a run diverged at every rate.
        After a resume, the time to compile is that of the last start.
        """
        rates = self._config.rates if self._task.regularizers[regularizer] else (0.0,)
        runs = list(itertools.starmap(Run, itertools.product(rates, range(self._config.seeds))))
        done = [(kept["rate"], kept["seed"]) for kept in records]
        left = [run for run in runs if run not in done]
        size, begin = self._compiler.side_by_side, time.perf_counter()
        groups = [
            # Copies of the last run fill the last group.
            [left[min(first + lane, len(left) - 1)] for lane in range(size)]
            for first in range(0, len(left), size)
        ]
        if groups:
            self._check("compiling")
            programs = self._compiler.compile(regularizer, groups[0])
            self._save()  # moves an earlier run aside first
        compile_seconds = time.perf_counter() - begin
        for group in groups:

            def report(progress: Progress, ended: int = len(records)) -> None:
                share = len(set(progress.runs)) * len(progress.scores) / self._config.epochs
                on_epoch((ended + share) / len(runs), progress)

            trained = self._train(programs, Progress(regularizer, group), report)
            records += trained[: len(set(group))]
            self._save()
        seconds = sum(kept["seconds"] for kept in records)
        steps = self._compiler.steps * sum(kept["epochs"] for kept in records)
        chosen = choose_rate(records, self._task.metric.higher_is_better)
        for kept in records:
            if kept["rate"] != chosen:
                kept.pop("shown", None)  # figures show the chosen rate alone
        return {
            "compared_to": self._task.regularizers[regularizer],
            "chosen_rate": chosen,
            "compile_seconds": compile_seconds,
            "side_by_side": min(size, len(runs)),
            "seconds_per_step": seconds / steps,
            "seconds": compile_seconds + seconds,
            "runs": records,
        }

    def _train(
        self, programs: Programs, progress: Progress, report: Callable[[Progress], None]
    ) -> list[Record]:
        """Trains runs side by side until all have ended, and tests them."""
        config, compiler, runs = self._config, self._compiler, progress.runs
        names = [f"{progress.regularizer}-{run.rate}-{run.seed}" for run in dict.fromkeys(runs)]
        with contextlib.ExitStack() as stack:
            checkpoints = Checkpoints(self._folder / names[0], config.checkpoint_every)
            stack.callback(checkpoints.close)
            state, best = compiler.start(progress.regularizer, runs)
            if self._resume:
                (state, best), progress = checkpoints.restore((state, best), progress)
            writers = []
            if self._metrics:
                folders = [self._metrics / name for name in names]
                writers = [stack.enter_context(Writer(to, progress.step)) for to in folders]
            begin = time.perf_counter() - progress.seconds

            def save() -> None:
                progress.seconds = time.perf_counter() - begin
                self._save()
                checkpoints.save((state, best), progress)

            rates, feed = rates_of(runs), compiler.feed(runs, progress.step)
            batches, keys, counted = next(feed)
            while not self._ended(progress, best):
                try:
                    self._check("these steps" if config.steps_per_call else "this epoch")
                except KeyboardInterrupt:
                    if jax.process_count() == 1:  # several may stop at different steps
                        save()
                    raise
                start, tokens = time.perf_counter(), counted
                with self.profiler(keys.shape[1]):
                    state, outputs = programs.steps[keys.shape[1]](state, rates, batches, keys)
                    batches, keys, counted = next(feed)  # while the device trains
                    losses = np.asarray(outputs)
                cost = {**throughput(time.perf_counter() - start, tokens), **memory()}
                rows = [{"loss": loss, **cost} for loss in losses.mean(1)]
                progress.add(losses)
                if progress.step % compiler.steps == 0:
                    epoch = np.full(len(runs), len(progress.scores) + 1, np.int32)
                    now = compiler.rates(runs, progress.step)
                    best, scores = programs.validate(state.params, best, now, epoch)
                    progress.end_epoch(compiler.steps, np.asarray(scores))
                    progress.seconds = time.perf_counter() - begin
                    for row, last in zip(rows, progress.last_epoch(), strict=True):
                        row.update(last)
                    report(progress)
                waits = self._waits((progress.step - 1) // compiler.steps, progress, best)
                # There may be no writers, and copies of a run have none.
                for writer, row, wait in zip(writers, rows, waits, strict=False):
                    if not wait:
                        writer.write(progress.step, row)
                if checkpoints.due(progress.step):
                    save()
            then = compiler.rates(runs, compiler.steps * np.asarray(best.epoch))
            scores, shown = jax.device_get(programs.test(best.params, then))
            progress.seconds = time.perf_counter() - begin
            checkpoints.finish((state, best), progress)
        epochs = np.asarray(best.epoch)
        ends = progress.ends(epochs, config.patience)
        ended = ends, epochs, scores, [None] * len(runs) if shown is None else shown
        return [
            record(progress, lane, int(end), int(epoch), score, outputs)
            for lane, (end, epoch, score, outputs) in enumerate(zip(*ended, strict=True))
        ]

    def _ended(self, progress: Progress, best: Best) -> bool:
        """Returns whether all runs have ended, or all epochs are over."""
        epoch = len(progress.scores)
        return epoch == self._config.epochs or bool(np.all(self._waits(epoch, progress, best)))

    def _waits(self, epoch: int, progress: Progress, best: Best) -> np.ndarray:
        """Returns whether each run had ended after this epoch, and waits for others."""
        return epoch >= progress.ends(np.asarray(best.epoch), self._config.patience)
