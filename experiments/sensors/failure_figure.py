"""Draws the accuracy after each failure, and that of modality dropout at each of its rates."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..statistics import Estimate, estimate, rows
from ..task import Metric

MARKERS = "osD^vP"
MODALITY = "ModalityDropout"


def draw(results: dict[str, Any]) -> Figure:
    """Draws the accuracy of all trainings after each failure, and of one of them by its rate."""
    metric = Metric(**results["metric"])
    canvas = Figure(figsize=(13, 5), layout="constrained")
    left, right = canvas.subplots(1, 2, width_ratios=(2.2, 1), sharey=True)
    _failures(left, results, metric)
    _rates(right, results, metric)
    chance = metric.scale / len(results["data"]["exercises"])
    for ax in (left, right):
        ax.axhline(chance, color="0.4", linestyle=":", linewidth=1)
    left.text(-0.48, chance, "chance", va="bottom", fontsize="small")
    left.set(ylim=(0, 102), ylabel=f"test {metric.name} in {metric.unit}")
    return canvas


def _failures(ax: Axes, results: dict[str, Any], metric: Metric) -> None:
    """Draws a group of points for the whole input and for each failure: mean and interval."""
    failures = list(results["measures"])
    tables = [rows(results), *(rows(results, "measures", name) for name in failures)]
    names = [row.name for row in tables[0]]
    for index, name in enumerate(names):
        estimates = [row.test for table in tables for row in table if row.name == name and row.test]
        if len(estimates) < len(tables):
            ax.plot([], label=f"{name}: diverged", color=f"C{index}")
            continue
        places = np.arange(len(tables)) + 0.8 * ((index + 0.5) / len(names) - 0.5)
        marker = MARKERS[index % len(MARKERS)]
        ax.errorbar(
            places,
            *_scaled(estimates, metric),
            fmt=marker,
            capsize=3,
            color=f"C{index}",
            label=name,
        )
    for border in np.arange(len(failures)) + 0.5:
        ax.axvline(border, color="0.85", linewidth=1)
    ax.set_xticks(range(len(tables)), ["nothing failed", *failures])
    ax.tick_params(axis="x", length=0)
    people = results["config"]["seeds"]
    ax.set(
        xlim=(-0.5, len(failures) + 0.5),
        title=f"A failure after each training\n(mean and 95 % interval over {people} people)",
    )
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3, frameon=False)


def _rates(ax: Axes, results: dict[str, Any], metric: Metric) -> None:
    """Draws the accuracy of modality dropout over its rate. A rate of 0 is no dropout."""
    finished = results["regularizers"]
    runs = [
        run for name in ("none", MODALITY) if name in finished for run in finished[name]["runs"]
    ]
    runs = [run for run in runs if not run["diverged"]]
    rates = sorted({run["rate"] for run in runs})
    if not rates:
        return
    for name in (None, *results["measures"]):
        of_rates = [
            [
                run["measures"][name] if name else run["test_score"]
                for run in runs
                if run["rate"] == rate
            ]
            for rate in rates
        ]
        means, halves = _scaled([estimate(values) for values in of_rates], metric)
        (line,) = ax.plot(rates, means, "o-", label=name or "nothing failed")
        ax.fill_between(rates, means - halves, means + halves, color=line.get_color(), alpha=0.12)
    ax.set(xlabel="probability to drop each sensor in training", title=f"{MODALITY}\nby its rate")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)


def _scaled(estimates: list[Estimate], metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Returns the means, and half the widths of the intervals, in the unit of the metric."""
    means, halves = zip(
        *((value.mean, value.half_width or 0.0) for value in estimates), strict=True
    )
    return metric.scale * np.array(means), metric.scale * np.array(halves)
