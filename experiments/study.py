"""The report of a study: one experiment under several conditions."""

from typing import Any

from ml_collections import ConfigDict

from . import report
from .output import Console
from .statistics import rows
from .tables import Table
from .task import Metric


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
    lines = [*report.heading(study), *dict.fromkeys(map(report.legend, conditions.values())), ""]
    for table in differences(study):
        lines += [f"{table.title}:", "", *table.markdown(), ""]
    lines += [line for sentence in _missing(study) for line in (f"- {sentence}", "")]
    for name, results in conditions.items():
        lines += [f"## {name}", "", report.data(results), "", *report.body(results)]
    return "\n".join(lines)


def _missing(study: dict[str, Any]) -> list[str]:
    missing = study["missing"]
    return [f"Results are missing for {', '.join(missing)}."] if missing else []
