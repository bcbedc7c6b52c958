"""Trains every (rate, seed) of a regularizer with the same compiled programs."""

import contextlib
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from . import processes
from .checkpoints import Checkpoints
from .loop import Loop
from .metrics import Profiler, Writer
from .programs import Builder, Programs
from .runs import Progress, Record, Run, choose_rate
from .task import Task
from .train import Best, TrainState

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
        self._builder = Builder(task)
        self._folder = folder
        self._metrics = metrics
        self.profiler = Profiler(profile)
        self._resume = resume
        self._save = save
        self._check = check

    def train(self, regularizer: str, records: list[Record], on_epoch: OnEpoch) -> dict[str, Any]:
        """Trains and tests the runs of a regularizer that have no record, and adds their records.

        The rate is chosen by validation scores alone. It is None if a run diverged at every rate.
        """
        seeds = range(self._config.seeds)
        rates = self._task.rates(self._config, regularizer)
        runs = list(itertools.starmap(Run, itertools.product(rates, seeds)))
        done = [(kept["rate"], kept["seed"]) for kept in records]
        left = [run for run in runs if run not in done]
        size = self._builder.side_by_side
        groups = [
            # Copies of the last run fill the last group.
            [left[min(first + lane, len(left) - 1)] for lane in range(size)]
            for first in range(0, len(left), size)
        ]
        compiling = 0.0
        if groups:
            self._check("compiling")
            begin = time.perf_counter()
            programs = self._builder.compile(regularizer, groups[0])
            compiling = time.perf_counter() - begin
            self._save()  # moves an earlier run aside first
        for group in groups:

            def report(progress: Progress, ended: int = len(records)) -> None:
                share = len(set(progress.runs)) * len(progress.scores) / self._config.epochs
                on_epoch((ended + share) / len(runs), progress)

            trained = self._train(
                programs, Progress(regularizer, group, compile_seconds=compiling), report
            )
            records += trained[: len(set(group))]
            compiling = 0.0  # it is in the first records
            self._save()
        seconds, compile_seconds = (
            sum(kept[name] for kept in records) for name in ("seconds", "compile_seconds")
        )
        steps = self._builder.steps * sum(kept["epochs"] for kept in records)
        chosen = choose_rate(records, self._task.metric.higher_is_better)
        for kept in records:
            if kept["rate"] != chosen:  # figures show the chosen rate alone
                numbers = {n: v for n, v in kept["measures"].items() if not isinstance(v, list)}
                kept["measures"] = numbers
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
        """Trains runs side by side, and writes their checkpoints and metrics on the way."""
        runs = dict.fromkeys(progress.runs)
        names = [f"{progress.regularizer}-{run.rate}-{run.seed}" for run in runs]
        with contextlib.ExitStack() as stack:
            checkpoints = Checkpoints(self._folder / names[0], self._config.checkpoint_every)
            stack.callback(checkpoints.close)
            loop = Loop(self._config, self._builder, programs, *self._begin(checkpoints, progress))
            writers = []
            if self._metrics:
                folders = [self._metrics / name for name in names]
                if self._resume and loop.progress.step == 0 and folders[0].exists():
                    processes.say(f"{loop.progress.name} has no checkpoint and starts again.")
                writers = [stack.enter_context(Writer(to, loop.progress.step)) for to in folders]

            def save() -> None:
                self._save()
                checkpoints.save(*loop.snapshot())

            while not loop.has_ended:
                try:
                    self._check("these steps" if self._config.steps_per_call else "this epoch")
                except KeyboardInterrupt:
                    if jax.process_count() == 1:  # several may stop at different steps
                        save()
                        _say_what_is_saved(loop.progress.name, checkpoints.last())
                    raise
                waits, rows = loop.waits, loop.call(self.profiler)
                if loop.at_end_of_epoch:
                    report(loop.progress)
                # There may be no writers, and copies of a run have none.
                for writer, row, wait in zip(writers, rows, waits, strict=False):
                    if not wait:
                        writer.write(loop.progress.step, row)
                if checkpoints.due(loop.progress.step):
                    save()
            records = loop.test()
            checkpoints.finish(*loop.snapshot())
        return records

    def _begin(
        self, checkpoints: Checkpoints, progress: Progress
    ) -> tuple[tuple[TrainState, Best], Progress]:
        """Returns the arrays and the progress of the newest checkpoint, or those of a start."""
        arrays = self._builder.start(progress.regularizer, progress.runs)
        if not self._resume:
            return arrays, progress
        arrays, reached = checkpoints.restore(arrays, progress)
        if reached.step:
            reached.compile_seconds += progress.compile_seconds
            processes.say(
                f"{reached.name} goes on after step {reached.step}, with {len(reached.scores)} of "
                f"{self._config.epochs} epochs done."
            )
        return arrays, reached


def _say_what_is_saved(name: str, step: int) -> None:
    if step:
        processes.say(f"A checkpoint of {name} is saved at step {step}.")
    else:
        processes.say(f"{name} has no checkpoint: --resume starts it again.")
