"""Trains with each regularizer and reports which ones help.

    python -m experiments.main --config=configs/pos_tagging.py
    python -m experiments.main --config=configs/weather_forecast.py
    python -m experiments.main --config=configs/language_model.py

`--config.FIELD=VALUE` overrides a field of the config. `--workdir` is the folder for results; the
default is runs/NAME_OF_THE_CONFIG. A config is a Python file that this program runs, so use only
files that you trust.
"""

import sys

from .interrupt import INTERRUPTED, deferred_interrupt, leave, leave_at_ctrl_c

if __name__ == "__main__":
    leave_at_ctrl_c("Interrupted before training began.")  # the imports below take seconds

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from . import figure, report, settings
from .errors import InputError, say
from .files import replace_figure
from .grid import Grid
from .output import Console
from .progress import Display
from .task import Task
from .tasks import TASKS

FILES = {*report.FILES, "results.png", *(name for task in TASKS.values() for name in task.figures)}
"""The names of all files that any task writes to a workdir."""


def main(argv: list[str]) -> int:
    """Runs an experiment and returns the exit code: 0, 1 for an error, 130 for Ctrl-C."""
    try:
        console = Console()
        if "--help" in argv:
            console.print(__doc__)
            return 0
        config, workdir = settings.parse(argv)
        settings.prepare(workdir)
        with settings.locked(workdir):
            return run(config, workdir, console)
    except (InputError, OSError) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("Interrupted before training began.")
        return INTERRUPTED


def run(config: ConfigDict, workdir: Path, console: Console) -> int:
    """Trains every regularizer, reports, and returns the exit code."""
    task = TASKS[config.task](config)
    results = report.start(task)
    console.print(report.data(results))
    with deferred_interrupt() as check:
        try:
            code = train(Grid(task, check), results, workdir, console)
        finally:  # save and show finished results, however the training ended
            finish(task, results, workdir, console)
    return code


def train(grid: Grid, results: dict[str, Any], workdir: Path, console: Console) -> int:
    """Trains every regularizer and saves after each. Ctrl-C keeps the finished ones."""
    try:
        with Display(console) as display:

            def on_epoch(share: float, loss: float, score: float) -> None:
                display.update(share, loss, grid.task.metric.text(score))
                grid.check("this epoch")

            for name in grid.config.regularizers:
                grid.check("compiling")
                display.begin(name)
                result = grid.train(name, on_epoch)
                report.add(results, name, result, grid)
                if len(results["regularizers"]) == 1:
                    report.set_aside(workdir, FILES)
                report.save(results, workdir)
                display.end(result["seconds"])
            grid.check("saving")
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def finish(task: Task, results: dict[str, Any], workdir: Path, console: Console) -> None:
    """Saves and shows all finished results."""
    try:
        if results["regularizers"]:
            report.save(results, workdir)
            for name, draw in {"results.png": figure.draw, **task.figures}.items():
                replace_figure(workdir / name, draw(results))
    finally:
        report.show(results, console)
    if results["regularizers"]:
        console.print(f"Results are in {workdir}.")


if __name__ == "__main__":
    leave(main(sys.argv))
