"""Draws what each schedule of a rate is worth in each condition."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..figure import intervals, label, over_plain
from ..statistics import rows
from ..task import Metric

Results = dict[str, Any]


def draw(conditions: dict[str, Results]) -> Figure:
    """Draws, for each condition, the difference of each schedule's test score to no dropout.

    All have one scale.
    """
    canvas = Figure(figsize=(10, 3.6), layout="constrained")
    panels = canvas.subplots(1, len(conditions), sharex=True, squeeze=False)[0]
    for ax, (name, results) in zip(panels, conditions.items(), strict=True):
        _differences(ax, results)
        ax.set_title(f"{name}\n(mean and 95 % interval)")
    return canvas


def _differences(ax: Axes, results: Results) -> None:
    metric = Metric(**results["metric"])
    table = [row for row in rows(results) if row.compared_to]
    for index, row in enumerate(table):
        if row.difference:
            style: dict[str, Any] = {"fmt": "o", "capsize": 4, "color": "C0"}
            intervals(ax, [index], [row.difference], metric.scale, along="x", **style)
    ax.axvline(0, color="0.4", linestyle="--")
    ax.set_yticks(range(len(table)), [label(row) for row in table])
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlabel(f"{metric.name}, {over_plain(table, metric)}")
