"""An experiment: trains every regularizer of a config, saves and reports."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from . import figure, processes, report
from .files import replace_figure
from .grid import Grid
from .interrupt import INTERRUPTED, deferred_interrupt
from .output import Console
from .progress import Display
from .runs import Progress
from .settings import Options
from .task import Task
from .tasks import TASKS
from .workdir import Workdir


def run(
    config: ConfigDict, options: Options, workdir: Workdir, console: Console
) -> tuple[int, dict[str, Any]]:
    """Trains every regularizer, reports, and returns the exit code and the results."""
    task = TASKS[config.task](config)
    results = workdir.begin(report.start(task), options.resume)
    code = 0
    with deferred_interrupt() as check:
        first = processes.is_first()
        grid = Grid(
            task,
            workdir.checkpoints,
            metrics=workdir.metrics if first else None,
            profile=workdir.profile if first and options.profile else None,
            resume=workdir.resumes,
            save=lambda: save_report(workdir, results),
            check=check,
        )
        if workdir.resumes:
            console.print(report.skipped(results))
        console.print(report.data(results))
        try:
            train(grid, task, results, workdir, console)
            check("saving")
            grid.profiler.say_if_nothing_was_traced()
        except KeyboardInterrupt:
            code = INTERRUPTED
        finally:  # save and show finished results, however the training ended
            finish(task, results, workdir, console)
    return code, results


def train(
    grid: Grid, task: Task, results: dict[str, Any], workdir: Workdir, console: Console
) -> None:
    """Trains every regularizer that is missing, and saves after each."""
    with Display(console) as display:

        def on_epoch(share: float, progress: Progress) -> None:
            loss, score = np.mean(progress.losses[-1]), np.mean(progress.scores[-1])
            validation = task.metric.text(float(score))
            display.update(share, progress.rates_and_seeds, float(loss), validation)

        for name in list(results["missing"]):
            display.begin(name)
            result = grid.train(name, results["unfinished"], on_epoch)
            report.add(results, name, result)
            save_report(workdir, results)
            display.end(result["seconds"], result["compile_seconds"])


def finish(task: Task, results: dict[str, Any], workdir: Workdir, console: Console) -> None:
    """Saves and shows all finished results."""
    try:
        if results["regularizers"] and processes.is_first():
            save_report(workdir, results)
            save_figures(workdir, {"results.png": figure.draw, **task.figures}, results)
    finally:
        report.show(results, console)
        say_where(workdir, results, console)


def save_report(workdir: Workdir, results: dict[str, Any]) -> None:
    """Saves results and their report."""
    workdir.save(results, report.markdown(results))


def save_figures(
    workdir: Workdir, figures: Mapping[str, Callable[[Any], Figure]], results: dict[str, Any]
) -> None:
    """Draws figures from results into files of these names."""
    if processes.is_first():
        for name, draw in figures.items():
            replace_figure(workdir.path / name, draw(results))


def say_where(workdir: Workdir, results: dict[str, Any], console: Console) -> None:
    """Says where results are, and whether more can be trained."""
    if workdir.is_ours:
        console.print(f"Results are in {workdir.path}.")
        if results["missing"]:
            console.print("--resume continues this run.")
