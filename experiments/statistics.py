"""Statistics over a few seeds: means, intervals and differences, in numbers and sentences."""

import functools
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from .task import Metric


class Estimate(NamedTuple):
    """A mean over seeds and half the width of its 95 % t-interval, None for one seed."""

    mean: float
    half_width: float | None


class Row(NamedTuple):
    """A regularizer's line of the report, from the runs at its chosen rate.

    The test and the difference may also be of a measure. If the regularizer diverged at every rate,
    only its name and seconds are known.
    """

    name: str
    compared_to: str | None
    seconds: float
    rate: float | None = None
    validation: Estimate | None = None
    test: Estimate | None = None
    difference: Estimate | None = None


def estimate(values: Sequence[float]) -> Estimate:
    """Returns mean and interval, mean +- t(.975, n - 1) * s / sqrt(n)."""
    if len(values) < 2:
        return Estimate(float(np.mean(values)), None)
    half_width = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return Estimate(float(np.mean(values)), float(half_width))


def rows(results: dict[str, Any], *field: str) -> list[Row]:
    """Summarizes every finished regularizer. Differences are paired by seed.

    They are by default of the test score, or of another field of the runs.
    """
    field = field or ("test_score",)
    finished = results["regularizers"]
    table = []
    for name, result in finished.items():
        test, plain = chosen(result, *field), finished.get(result["compared_to"])
        row = Row(name, result["compared_to"], result["seconds"])
        if test:
            row = row._replace(
                rate=result["chosen_rate"],
                validation=estimate(chosen(result, "validation_score")),
                test=estimate(test),
            )
        if test and plain and (plain_test := chosen(plain, *field)):
            row = row._replace(difference=estimate(np.subtract(test, plain_test).tolist()))
        table.append(row)
    return table


def chosen(result: dict[str, Any], *field: str) -> list[Any]:
    """Returns a field of the runs at the chosen rate, by seed; [] if one of them diverged.

    A field in a field has several names, as in `chosen(result, "measures", "loss")`.
    """
    return at_rate(result, result["chosen_rate"], *field)


def by_rate(result: dict[str, Any], *field: str) -> dict[float, list[Any]]:
    """Returns a field of the runs at each rate, by seed, but for rates with a diverged run."""
    rates = sorted({run["rate"] for run in result["runs"]})
    return {rate: values for rate in rates if (values := at_rate(result, rate, *field))}


def at_rate(result: dict[str, Any], rate: float | None, *field: str) -> list[Any]:
    """Returns a field of the runs at a rate, by seed; [] if one of them diverged."""
    runs = sorted(result["runs"], key=lambda run: run["seed"])
    runs = [run for run in runs if run["rate"] == rate]
    values = [functools.reduce(operator.getitem, field, run) for run in runs]
    return [] if None in values or any(run["diverged"] for run in runs) else values


def sentence(row: Row, seeds: int, metric: Metric) -> str:
    """Describes in words what a comparison shows.

    A regularizer is compared to its plain network, and a plain network to the baseline.
    """
    if row.test is None:
        return f"{row.name}: diverged, so there is nothing to compare."
    if row.difference is None:
        return f"{row.name}: nothing to compare it to."
    unit, mean = metric.difference_unit, metric.scale * row.difference.mean
    digits, plain = metric.difference_digits, row.compared_to
    if row.difference.half_width is None:
        return f"{row.name}: {mean:+.{digits}f} {unit} over {plain}; one seed gives no interval."
    half = metric.scale * row.difference.half_width
    interval = f"95 % interval {mean - half:+.{digits}f} to {mean + half:+.{digits}f}"
    if abs(mean) <= half:
        return (
            f"{row.name}: no difference to {plain} that {seeds} seeds can show "
            f"({mean:+.{digits}f} {unit}, {interval})."
        )
    side = "over" if mean > 0 else "below"
    worth = "better" if (mean > 0) == metric.higher_is_better else "worse"
    return (
        f"{row.name}: {abs(mean):.{digits}f} {unit} {side} {plain}, which is {worth} ({interval})."
    )


def over_baseline(row: Row, results: dict[str, Any]) -> Row:
    """Compares a row to the baseline, whose score is the same for all seeds."""
    if row.test is None:
        return row
    baseline = results["metric"]["baseline"]
    mean, half_width = row.test
    difference = Estimate(mean - results["baseline_test_score"], half_width)
    return row._replace(compared_to=baseline, difference=difference)
