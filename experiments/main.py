"""Trains with each regularizer and reports which one helps.

    python -m experiments.main --config=configs/pos_tagging.py
    python -m experiments.main --config=configs/weather_forecast.py
    python -m experiments.main --config=configs/language_model.py

`--config.FIELD=VALUE` overrides a field of the config; `--workdir` says where results go
(runs/NAME_OF_THE_CONFIG if not given).
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from ml_collections import ConfigDict
from rich.console import Console

from . import figure, report, settings
from .errors import InputError
from .grid import Grid
from .interrupt import deferred_interrupt
from .progress import Display
from .task import Task
from .tasks import TASKS

INTERRUPTED = 130


def main(argv: list[str]) -> int:
    """Runs an experiment and returns the exit code: 0, 1 for bad input, 130 for Ctrl-C."""
    if "--help" in argv:
        print(__doc__)
        return 0
    try:
        config, workdir = settings.parse(argv)
        settings.prepare(workdir)
        return run(config, workdir, Console())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted before training began.", file=sys.stderr)
        return INTERRUPTED


def run(config: ConfigDict, workdir: Path, console: Console) -> int:
    """Trains every regularizer and reports; returns the exit code."""
    task = TASKS[config.task](config)
    results = report.start(task)
    console.print(report.data(results), highlight=False, soft_wrap=True)
    for name in figures(task):
        (workdir / name).unlink(missing_ok=True)  # else an earlier run's could stay beside
    code = train(Grid(task), results, workdir, console)
    try:
        finish(task, results, workdir, console)
    except KeyboardInterrupt:
        print(f"Interrupted while saving: {workdir} may lack the figure.", file=sys.stderr)
        return INTERRUPTED
    return code


def train(grid: Grid, results: dict[str, Any], workdir: Path, console: Console) -> int:
    """Trains every regularizer and saves after each; Ctrl-C keeps what is finished."""
    try:
        with deferred_interrupt() as check, Display(console) as display:

            def on_epoch(share: float, loss: float, score: float) -> None:
                display.update(share, loss, grid.task.metric.text(score))
                check()

            for name in grid.config.regularizers:
                check()
                display.begin(name)
                result = grid.train(name, on_epoch)
                report.add(results, name, result, grid)
                report.save(results, workdir)
                display.end(result["seconds"])
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def figures(task: Task) -> dict[str, Callable[[dict[str, Any]], Figure]]:
    """File names of the figures, and what draws them."""
    return {"results.png": figure.draw, **task.figures}


def finish(task: Task, results: dict[str, Any], workdir: Path, console: Console) -> None:
    """Saves and shows all that is finished."""
    report.save(results, workdir)
    console.print(report.table(results))
    for line in report.sentences(results):
        console.print(line, highlight=False, soft_wrap=True)
    if results["regularizers"]:
        for name, draw in figures(task).items():
            draw(results).savefig(workdir / name, dpi=150)
    console.print(f"Results are in {workdir}.", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
