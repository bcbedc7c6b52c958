"""The figure of every experiment: learning curves, test scores, differences to no dropout.

The figures of tasks also use `intervals`, `label` and `over_plain`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .statistics import Estimate, Row, chosen, rows
from .task import Metric


def draw(results: dict[str, Any]) -> Figure:
    """Draws validation scores over epochs, test scores, and differences to the plain networks."""
    table, metric = rows(results), Metric(**results["metric"])
    canvas = Figure(figsize=(12, max(4.4, 1.6 + 0.4 * len(table))), layout="constrained")
    left, middle, right = canvas.subplots(1, 3, width_ratios=(1.3, 1, 1))
    _curves(left, results, table, metric)
    _tests(middle, results, table, metric)
    _differences(right, results, table, metric)
    return canvas


def intervals(
    ax: Axes,
    places: Sequence[float] | np.ndarray,
    estimates: Sequence[Estimate],
    scale: float = 1.0,
    *,
    along: str,
    capsize: float = 3,
    **style: Any,
) -> None:
    """Draws means and 95 % intervals along "x" or "y", each at its place on the other axis."""
    means, halves = scaled(estimates, scale)
    if along == "x":
        ax.errorbar(means, places, xerr=halves, capsize=capsize, **style)
    else:
        ax.errorbar(places, means, yerr=halves, capsize=capsize, **style)


def scaled(
    estimates: Sequence[Estimate], scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the means and half the widths of the intervals, or None if one has no interval."""
    means, halves = [each.mean for each in estimates], [each.half_width for each in estimates]
    return scale * np.array(means), None if None in halves else scale * np.array(halves)


def label(row: Row) -> str:
    """Returns the name of a regularizer and its chosen rate, or says that it diverged."""
    if row.test is None:
        return f"{row.name}: diverged"
    return f"{row.name} {row.rate:g}" if row.compared_to else row.name


def over_plain(table: list[Row], metric: Metric) -> str:
    """Describes an axis of differences: the unit, the plain networks, and which side is better."""
    names = " or ".join(dict.fromkeys(row.compared_to for row in table if row.compared_to))
    better = "right" if metric.higher_is_better else "left"
    return f"{metric.difference_unit} over {names}  (better is {better})"


def _curves(ax: Axes, results: dict[str, Any], table: list[Row], metric: Metric) -> None:
    means = []
    for index, row in enumerate(table):
        curves = chosen(results["regularizers"][row.name], "validation_curve")
        if not curves:
            ax.plot([], label=label(row), color=f"C{index}")
            continue
        mean, spread = _over_seeds(curves, metric)
        means.append(mean)
        epochs = np.arange(1, len(mean) + 1)
        ax.plot(epochs, mean, label=label(row), color=f"C{index}")
        ax.fill_between(epochs, mean - spread, mean + spread, color=f"C{index}", alpha=0.15)
    # The first epochs are far worse. With them in view, the other epochs would look flat.
    if not means:
        pass
    elif metric.higher_is_better:
        ax.set_ylim(bottom=np.percentile(np.concatenate(means), 10))
    else:
        ax.set_ylim(top=np.percentile(np.concatenate(means), 90))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    title = f"Validation {metric.name}\n(mean and s.d. over seeds)"
    ax.set(xlabel="epoch", ylabel=metric.unit, title=title)
    # The legend is below the axes because the curves leave no free corner.
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3, fontsize="small")


def _tests(ax: Axes, results: dict[str, Any], table: list[Row], metric: Metric) -> None:
    for index, row in enumerate(table):
        scores = chosen(results["regularizers"][row.name], "test_score")
        if row.test:
            _dots(ax, index, scores, row.test, metric.scale)
    # The baseline is in words. It is far from the dots, so a line would squeeze them together.
    baseline = metric.scale * results["baseline_test_score"]
    unit = f"{metric.unit}  ({metric.baseline}: {baseline:.{metric.digits}f})"
    _names(ax, table)
    ax.set(xlabel=unit, title=f"Test {metric.name}\n(each seed, mean, 95 % interval)")


def _differences(ax: Axes, results: dict[str, Any], table: list[Row], metric: Metric) -> None:
    for index, row in enumerate(table):
        if row.difference:
            test = chosen(results["regularizers"][row.name], "test_score")
            plain = chosen(results["regularizers"][row.compared_to], "test_score")
            _dots(ax, index, np.subtract(test, plain), row.difference, metric.scale)
    ax.axvline(0, color="0.4", linestyle="--")
    _names(ax, table)
    ax.set_yticklabels([])
    ax.set(
        xlabel=over_plain(table, metric),
        title="Difference, seed by seed\n(mean, 95 % interval)",
    )


def _dots(ax: Axes, index: int, values: Any, value: Estimate, scale: float) -> None:
    ax.plot(
        scale * np.asarray(values), np.full(len(values), index), "o", color=f"C{index}", alpha=0.5
    )
    intervals(ax, [index + 0.25], [value], scale, along="x", fmt="|k", markersize=9)


def _names(ax: Axes, table: list[Row]) -> None:
    names = [row.name if row.test else f"{row.name}: diverged" for row in table]
    ax.set_yticks(range(len(table)), names)
    ax.set_ylim(len(table) - 0.4, -0.6)


def _over_seeds(curves: list[list[float]], metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation per epoch. A stopped run keeps its last value."""
    longest = max(map(len, curves))
    table = np.array([curve + curve[-1:] * (longest - len(curve)) for curve in curves])
    return metric.scale * table.mean(0), metric.scale * table.std(0)
