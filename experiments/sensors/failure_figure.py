"""Draws the accuracy after each failure, and that of modality dropout at each of its rates."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..figure import intervals, scaled
from ..statistics import by_rate, estimate, rows
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
    for index, of_tables in enumerate(zip(*tables, strict=True)):
        row, color = of_tables[0], f"C{index}"
        estimates = [row.test for row in of_tables if row.test]
        if len(estimates) < len(tables):
            ax.plot([], label=f"{row.name}: diverged", color=color)
            continue
        places = np.arange(len(tables)) + 0.8 * ((index + 0.5) / len(tables[0]) - 0.5)
        style: dict[str, Any] = {"fmt": MARKERS[index % len(MARKERS)], "color": color}
        intervals(ax, places, estimates, metric.scale, along="y", label=row.name, **style)
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
    finished = [results["regularizers"].get(name) for name in ("none", MODALITY)]
    fields = {"nothing failed": ("test_score",)}
    fields |= {name: ("measures", name) for name in results["measures"]}
    for name, field in fields.items():
        scores = [pair for result in finished if result for pair in by_rate(result, *field).items()]
        if not scores:
            return
        rates, values = zip(*scores, strict=True)
        means, halves = scaled([estimate(each) for each in values], metric.scale)
        (line,) = ax.plot(rates, means, "o-", label=name)
        if halves is not None:
            band = means - halves, means + halves
            ax.fill_between(rates, *band, color=line.get_color(), alpha=0.12)
    ax.set(xlabel="probability to drop each sensor in training", title=f"{MODALITY}\nby its rate")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)
