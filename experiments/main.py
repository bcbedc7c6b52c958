"""Trains with each regularizer and reports which ones help.

    python -m experiments.main --config=configs/pos_tagging.py
    python -m experiments.main --config=configs/weather_forecast.py
    python -m experiments.main --config=configs/language_model.py

`--config.FIELD=VALUE` overrides a field of the config. `--workdir` is the folder for results; the
default is runs/NAME_OF_THE_CONFIG. If a config has conditions, each trains in a folder of its own
there, and a report compares them. `--resume` continues a run that was stopped or killed, and gives
the same results as without the break. `--profile` writes a trace of `config.steps_per_call` steps,
or of an epoch if that is 0. A config is a Python file that this program runs, so use only files
that you trust.

`--distributed` trains with other processes, which run the same command. Slurm, Cloud TPU and other
clusters that JAX knows need no more; elsewhere, `--coordinator=HOST:PORT`, `--num_processes` and
`--process_id` describe the processes. The first one writes and prints.
"""

import sys
import traceback

from .interrupt import INTERRUPTED, deferred_interrupt, leave, leave_at_ctrl_c

if __name__ == "__main__":
    leave_at_ctrl_c("Interrupted while nothing was training.")  # the imports below take seconds

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from . import figure, processes, report, settings, study
from .errors import InputError, say
from .files import replace_figure
from .grid import Grid
from .output import Console
from .progress import Display
from .runs import Progress
from .task import Task
from .tasks import TASKS
from .workdir import Workdir


def main(argv: list[str]) -> int:
    """Runs an experiment and returns the exit code: 0, 1 for an error, 130 for Ctrl-C."""
    try:
        console = Console()
        if "--help" in argv:
            console.print(__doc__)
            return 0
        config, options = settings.parse(argv)
        if options.cluster is not None:
            processes.connect(options.cluster)
            console.quiet = not processes.is_first()
        workdir = Workdir(options.workdir)
        with workdir.locked():
            code = run(config, options, workdir, console)
        if code == 0:
            processes.disconnect()
        return code
    except (InputError, OSError) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("Interrupted while nothing was training.")
        return INTERRUPTED


def run_and_leave(argv: list[str]) -> NoReturn:
    """Runs an experiment and ends the program, also after an exception that is a fault of ours.

    Python's own end would wait there for the other processes, and they for this one.
    """
    try:
        code = main(argv)
    except Exception:
        traceback.print_exc()
        code = 1
    leave(code)


def run(config: ConfigDict, options: settings.Options, workdir: Workdir, console: Console) -> int:
    """Runs the experiment, or a study of its conditions, and returns the exit code."""
    conditions = settings.conditions(config)
    if not conditions:
        return run_experiment(config, options, workdir, console)[0]
    task = TASKS[config.task]
    results = workdir.begin(study.start(config, list(conditions)), options.resume)
    code = 0
    for name, of_condition in conditions.items():
        console.print(f"Condition {name}.")
        folder = Workdir(workdir.path / name)
        with folder.locked():
            code, found = run_experiment(of_condition, options, folder, console)
        if found["regularizers"]:
            study.add(results, name, found)
            workdir.save(results, study.markdown(results))
            save_figures(workdir, task.study_figures, results["conditions"])
        if code:
            break
    study.show(results, console)
    say_where(workdir, results, console)
    return code


def run_experiment(
    config: ConfigDict, options: settings.Options, workdir: Workdir, console: Console
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
            display.update(share, float(loss), task.metric.text(float(score)))

        for name in list(results["missing"]):
            display.begin(name)
            result = grid.train(name, results["unfinished"], on_epoch)
            report.add(results, name, result)
            save_report(workdir, results)
            display.end(result["seconds"])


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


if __name__ == "__main__":
    run_and_leave(sys.argv)
