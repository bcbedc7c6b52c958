"""The report of an experiment, for the terminal and in Markdown."""

import datetime
import os
import platform
from typing import Any

import flax
import jax
from ml_collections import ConfigDict

import flax_spatialdrop

from . import devices
from .output import Console
from .runs import out_of_patience
from .statistics import Estimate, Row, over_baseline, rows, sentence
from .tables import Table
from .task import Metric, Task
from .tasks import TASKS

SMOKE = "This is a smoke run: it only tests that all parts work, and its numbers show nothing."

COLUMNS = ("regularizer", "rate", "validation", "test", "difference", "seconds")


def header(config: ConfigDict) -> dict[str, Any]:
    """Returns the config, date, device and versions of a run, and how its task writes numbers."""
    task = TASKS[config.task]
    return {
        **origin(config, devices.describe(config.mesh, task.most_runs(config))),
        "metric": task.metric._asdict(),
        "measures": {name: metric._asdict() for name, metric in task.measures.items()},
    }


def origin(config: ConfigDict, device: str) -> dict[str, Any]:
    """Returns where results are from: their config, date, device and versions."""
    return {
        "config": config.to_dict(),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "device": f"{device}, {os.cpu_count()} CPU cores",
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "flax": flax.__version__,
            "flax_spatialdrop": flax_spatialdrop.__version__,
        },
    }


def start(task: Task) -> dict[str, Any]:
    """Returns the results of a run before there are any."""
    return {
        **header(task.config),
        "description": task.data.description,
        "data": task.data.record,
        "baseline_test_score": task.data.baseline,
        "folds": len(task.data.folds),
        "starts": 1,
        "regularizers": {},
        "missing": list(task.config.regularizers),
        "unfinished": [],  # the records of the first missing regularizer
    }


def resumed(found: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """Returns results found in the workdir, to go on with the config and the devices of others."""
    used = found["device"].split("; then ")
    devices = dict.fromkeys([*used, results["device"]])
    starts = found.get("starts", 1) + bool(found["missing"])
    changed = {"config": results["config"], "device": "; then ".join(devices), "starts": starts}
    return {**found, **changed}


def skipped(results: dict[str, Any]) -> str:
    """Says which of the results found in the workdir are not trained again."""
    names, runs = [*results["regularizers"]], len(results["unfinished"])
    if runs:
        names.append(f"{runs} run{'s' * (runs > 1)} of {results['missing'][0]}")
    if not names:
        return "No run has ended yet: nothing is skipped."
    return f"--resume skips what has ended: {', '.join(names)}."


def add(results: dict[str, Any], name: str, result: dict[str, Any]) -> None:
    """Adds a finished regularizer to the results."""
    results["regularizers"][name] = result
    results["missing"].remove(name)
    results["unfinished"] = []


def show(results: dict[str, Any], console: Console) -> None:
    """Prints the tables and the sentences."""
    if is_smoke(results):
        console.print(SMOKE)
    if results["regularizers"]:
        for table in (scores(results), *measures(results)):
            table.show(console)
    for line in sentences(results):
        console.print(line)


def scores(results: dict[str, Any]) -> Table:
    """Returns the table of scores."""
    metric = Metric(**results["metric"])
    baseline = f"{metric.scale * results['baseline_test_score']:.{metric.digits}f}"
    cells = [
        (metric.baseline, "", "", baseline, "", ""),
        *(
            (
                *_name_and_rate(row),
                _text(row.validation, metric),
                _text(row.test, metric),
                difference(row, metric),
                f"{row.seconds:.0f}",
            )
            for row in rows(results)
        ),
    ]
    title = f"{results['config']['name']}: {metric.title}, mean and 95 % interval"
    return Table(title, COLUMNS, cells)


def measures(results: dict[str, Any]) -> list[Table]:
    """Returns a table for each measure of the runs at the chosen rates."""
    found = []
    for name, fields in results["measures"].items():
        metric = Metric(**fields)
        cells = [
            (
                *_name_and_rate(row),
                _text(row.test, metric) if row.test else "not finite",
                difference(row, metric),
            )
            for row in rows(results, "measures", name)
        ]
        columns = ("regularizer", "rate", metric.name, "difference")
        found.append(Table(f"{metric.title} ({metric.direction})", columns, cells))
    return found


def sentences(results: dict[str, Any]) -> list[str]:
    """Returns sentences on what the results show and what is missing.

    Smoke runs show nothing.
    """
    if not results["regularizers"]:
        return ["No regularizer is finished yet."]
    lines = [] if is_smoke(results) else _comparisons(results) + _at_an_edge(results)
    lines += _diverged(results)
    if capped := _capped(results):
        lines.append(capped)
    if results["missing"]:
        lines.append(f"No results for {', '.join(results['missing'])}.")
    return lines


def is_smoke(results: dict[str, Any]) -> bool:
    """Whether the results are of a smoke variant, by the name of its config."""
    name, *_ = results["config"]["name"].split(",")  # a condition follows the comma
    return bool(name.endswith("-smoke"))


def _comparisons(results: dict[str, Any]) -> list[str]:
    """Compares each regularizer to its plain network, and plain networks to the baseline."""
    seeds, metric = results["config"]["seeds"], Metric(**results["metric"])
    table = [row if row.compared_to else over_baseline(row, results) for row in rows(results)]
    return [sentence(row, seeds, metric) for row in table]


def _at_an_edge(results: dict[str, Any]) -> list[str]:
    """Names regularizers that chose the lowest or the highest of several rates."""
    offered = {
        name: {run["rate"] for run in result["runs"]}
        for name, result in results["regularizers"].items()
    }
    chosen = {row.name: row.rate for row in rows(results)}
    lines = []
    for edge, which, beyond in ((min, "lowest", "lower"), (max, "highest", "higher")):
        several = [name for name, rates in offered.items() if len(rates) > 1]
        names = [name for name in several if chosen[name] == edge(offered[name])]
        if names:
            lines.append(
                f"The {which} rate offered was chosen by {', '.join(names)}: "
                f"a {beyond} one may be better still."
            )
    return lines


def _diverged(results: dict[str, Any]) -> list[str]:
    """Names regularizers with diverged runs."""
    lines = []
    for name, result in results["regularizers"].items():
        rates = [run["rate"] for run in result["runs"] if run["diverged"]]
        if rates:
            of = ", ".join(f"{rate:g}" for rate in dict.fromkeys(rates))
            rule = f" (rate {of}); a rate with such a run is not chosen"
            lines.append(
                f"{name}: {len(rates)} of {len(result['runs'])} runs diverged"
                f"{rule if result['compared_to'] else ''}."
            )
    return lines


def _capped(results: dict[str, Any]) -> str:
    """Counts the runs that early stopping would have ended after the maximum number of epochs."""
    config = results["config"]
    if config["patience"] >= config["epochs"]:  # there is no early stopping
        return ""
    counts = []
    for name, result in results["regularizers"].items():
        capped = [
            run["epochs"] == config["epochs"]
            and not out_of_patience(run["epochs"], run["best_epoch"], config["patience"])
            and not run["diverged"]
            for run in result["runs"]
        ]
        if any(capped):
            counts.append(f"{name} {sum(capped)} of {len(capped)}")
    if not counts:
        return ""
    cap = f"the cap of {config['epochs']} epochs before they were out of patience"
    return f"Runs that reached {cap}: {', '.join(counts)}."


def data(results: dict[str, Any]) -> str:
    """Describes the data."""
    return f"Data: {results['description']}"


def markdown(results: dict[str, Any]) -> str:
    """Returns the report as Markdown."""
    return "\n".join(
        [*heading(results), data(results), "", legend(results), "", *body(results)],
    )


def heading(results: dict[str, Any]) -> list[str]:
    """Returns the title, the line that tells date, device and versions, and whether it is smoke."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    title = f"# {results['config']['name']}"
    smoke = [SMOKE, ""] if is_smoke(results) else []
    return [title, "", f"{results['date']}, {results['device']}, {versions}.", "", *smoke]


def body(results: dict[str, Any]) -> list[str]:
    """Returns the tables, with sentences on what they show."""
    lines = [*(f"- {line}" for line in sentences(results)), ""]
    if not results["regularizers"]:
        return lines
    lines = [*scores(results).markdown(), "", *lines]
    for table in measures(results):
        lines += [f"{table.title}:", "", *table.markdown(), ""]
    return lines + _cost(results)


def has_differences(results: dict[str, Any]) -> bool:
    """Whether a regularizer is compared to a network without it."""
    return any(one["compared_to"] for one in results["regularizers"].values())


def legend(results: dict[str, Any]) -> str:
    """Explains the numbers of the table."""
    metric = Metric(**results["metric"])
    finished = results["regularizers"].values()
    plain = dict.fromkeys(one["compared_to"] for one in finished if one["compared_to"])
    split = "seeds, each with a split of its own" if results.get("folds") else "seeds of one split"
    return (
        f"{metric.title} ({metric.direction}), mean and 95 % t-interval over "
        f"{results['config']['seeds']} {split}. Rates are chosen on validation data; "
        "validation scores are those of each run's best epoch at the rate chosen on the same "
        f"data, thus optimistic. Differences are to {' or '.join(plain) or 'nothing yet'}, in "
        f"{metric.difference_unit}, paired by seed; their intervals are not corrected for "
        "comparing several regularizers."
    )


def _cost(results: dict[str, Any]) -> list[str]:
    """Describes the cost of training."""
    finished = results["regularizers"].items()
    costs = [f"{name} {_seconds(result)}" for name, result in finished]
    starts = results.get("starts", 1)
    of = f" of {starts} starts together" if starts > 1 else ""
    return [f"Cost{of}, with all that surrounds a step: {'; '.join(costs)}.", ""] if costs else []


def _seconds(cost: dict[str, Any]) -> str:
    runs = cost.get("side_by_side", 1)
    shared = f" ({runs} runs side by side share the time of a step)" if runs > 1 else ""
    return (
        f"{cost['compile_seconds']:.1f} s to compile and "
        f"{1000 * cost['seconds_per_step']:.1f} ms a step of one run{shared}"
    )


def _name_and_rate(row: Row) -> tuple[str, str]:
    return row.name, f"{row.rate:g}" if row.compared_to and row.rate is not None else ""


def difference(row: Row, metric: Metric) -> str:
    """Writes the difference of a row, or nothing if there is none."""
    return _text(row.difference, metric, f"+.{metric.difference_digits}f") if row.difference else ""


def _text(value: Estimate | None, metric: Metric, form: str = "") -> str:
    if value is None:
        return "diverged"
    form = form or f".{metric.digits}f"
    mean = format(metric.scale * value.mean, form)
    if value.half_width is None:
        return mean
    return f"{mean} ± {format(metric.scale * value.half_width, form.lstrip('+'))}"
