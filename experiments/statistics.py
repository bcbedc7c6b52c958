"""What a handful of seeds can and cannot tell."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats


class Estimate(NamedTuple):
    """A mean over seeds and half the width of its 95 % t-interval (None for one seed)."""

    mean: float
    half_width: float | None


class Row(NamedTuple):
    """A regularizer's line of the report, from the runs at its chosen rate."""

    name: str
    rate: float
    validation: Estimate
    test: Estimate
    difference: Estimate | None
    seconds: float


def estimate(values: Sequence[float]) -> Estimate:
    """Returns mean and interval, mean +- t(.975, n - 1) * s / sqrt(n)."""
    if len(values) < 2:
        return Estimate(float(np.mean(values)), None)
    half_width = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return Estimate(float(np.mean(values)), float(half_width))


def rows(results: dict[str, Any]) -> list[Row]:
    """Summarizes every finished regularizer; differences to `none` are paired by seed."""
    finished = results["regularizers"]
    plain = chosen(finished["none"], "test_accuracy") if "none" in finished else None
    table = []
    for name, result in finished.items():
        test = chosen(result, "test_accuracy")
        difference = None
        if plain and name != "none":
            difference = estimate(np.subtract(test, plain).tolist())
        validation = estimate(chosen(result, "validation_accuracy"))
        table.append(
            Row(
                name,
                result["chosen_rate"],
                validation,
                estimate(test),
                difference,
                result["seconds"],
            )
        )
    return table


def chosen(result: dict[str, Any], field: str) -> list[Any]:
    """Returns a field of the runs at the chosen rate, in the order of their seeds."""
    runs = sorted(result["runs"], key=lambda run: run["seed"])
    return [run[field] for run in runs if run["rate"] == result["chosen_rate"]]


def sentence(row: Row, seeds: int) -> str:
    """Says in plain words what the comparison to `none` shows, and no more than that."""
    if row.difference is None:
        return f"{row.name}: nothing to compare it to."
    mean, half = row.difference
    points = f"{100 * mean:+.2f} points"
    if half is None:
        return f"{row.name}: {points} over none; one seed gives no interval."
    interval = f"95 % interval {100 * (mean - half):+.2f} to {100 * (mean + half):+.2f}"
    if abs(mean) <= half:
        return (
            f"{row.name}: no difference to none that {seeds} seeds can show ({points}, {interval})."
        )
    side = "over" if mean > 0 else "below"
    points = f"{100 * abs(mean):.2f} points"
    return f"{row.name}: {points} {side} none ({interval})."
