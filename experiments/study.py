"""A study: one experiment under several conditions, and the report of all."""

from typing import Any

from ml_collections import ConfigDict

from . import experiment, report
from .output import Console
from .settings import Options
from .statistics import rows
from .tables import Table
from .task import Metric
from .tasks import TASKS
from .workdir import Workdir


def run(
    config: ConfigDict,
    conditions: dict[str, ConfigDict],
    options: Options,
    workdir: Workdir,
    console: Console,
) -> int:
    """Runs the experiment under each condition, and returns the exit code."""
    task = TASKS[config.task]
    results = workdir.begin(start(config, list(conditions)), options.resume)
    code = 0
    for name, of_condition in conditions.items():
        console.print(f"Condition {name}.")
        folder = Workdir(workdir.path / name)
        with folder.locked():
            code, found = experiment.run(of_condition, options, folder, console)
        if found["regularizers"]:
            add(results, name, found)
            workdir.save(results, markdown(results))
            experiment.save_figures(workdir, task.study_figures, results["conditions"])
        if code:
            break
    show(results, console)
    experiment.say_where(workdir, results, console)
    return code


def start(config: ConfigDict, conditions: list[str]) -> dict[str, Any]:
    """Returns the results of a study before its first condition has any."""
    return {**report.header(config), "data": {}, "conditions": {}, "missing": conditions}


def add(study: dict[str, Any], condition: str, results: dict[str, Any]) -> None:
    """Adds the results of a condition, which may be unfinished."""
    study["conditions"][condition] = results
    study["missing"] = [
        name
        for name in dict.fromkeys([*study["conditions"], *study["missing"]])
        if name not in study["conditions"] or study["conditions"][name]["missing"]
    ]


def differences(study: dict[str, Any]) -> list[Table]:
    """Returns tables of differences of the score and of each measure: regularizers x conditions."""
    measures = ((("measures", name), fields) for name, fields in study["measures"].items())
    tables = [
        _differences(study["conditions"], path, Metric(**fields))
        for path, fields in ((("test_score",), study["metric"]), *measures)
    ]
    return [table for table in tables if table.rows]


def _differences(conditions: dict[str, Any], path: tuple[str, ...], metric: Metric) -> Table:
    by_name: dict[str, dict[str, str]] = {}
    for condition, results in conditions.items():
        for row in rows(results, *path):
            if row.compared_to:
                by_name.setdefault(row.name, {})[condition] = report.difference(row, metric)
    unit = metric.difference_unit and f" in {metric.difference_unit}"
    title = f"Differences of {metric.name}{unit} ({metric.direction})"
    cells = [(name, *(of.get(each, "") for each in conditions)) for name, of in by_name.items()]
    return Table(title, ("regularizer", *conditions), cells)


def show(study: dict[str, Any], console: Console) -> None:
    """Prints the differences, and what is missing."""
    for table in differences(study):
        table.show(console)
    for line in _missing(study):
        console.print(line)


def markdown(study: dict[str, Any]) -> str:
    """Returns the report as Markdown: the differences, then each condition."""
    conditions = study["conditions"]
    compared = [results for results in conditions.values() if report.has_differences(results)]
    legends = dict.fromkeys(map(report.legend, compared or conditions.values()))
    lines = [*report.heading(study), *legends, ""]
    for table in differences(study):
        lines += [f"{table.title}:", "", *table.markdown(), ""]
    lines += [line for sentence in _missing(study) for line in (f"- {sentence}", "")]
    for name, results in conditions.items():
        lines += [f"## {name}", "", report.data(results), "", *report.body(results)]
    return "\n".join(lines)


def _missing(study: dict[str, Any]) -> list[str]:
    missing = study["missing"]
    return [f"Results are missing for {', '.join(missing)}."] if missing else []
