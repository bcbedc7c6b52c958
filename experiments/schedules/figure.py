"""Draws what each schedule of a rate is worth in each condition."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..statistics import rows
from ..task import Metric

Results = dict[str, Any]


def draw(conditions: dict[str, Results]) -> Figure:
    """Draws, for each condition, the difference of each schedule's test score to no dropout."""
    canvas = Figure(figsize=(10, 3.6), layout="constrained")
    panels = canvas.subplots(1, len(conditions), squeeze=False)[0]
    for ax, (name, results) in zip(panels, conditions.items(), strict=True):
        _differences(ax, results)
        ax.set_title(f"{name}\n(mean and 95 % interval)")
    return canvas


def _differences(ax: Axes, results: Results) -> None:
    metric = Metric(**results["metric"])
    table = [row for row in rows(results) if row.compared_to]
    for index, row in enumerate(table):
        if row.difference is not None:
            mean, half_width = row.difference
            half = None if half_width is None else metric.scale * half_width
            ax.errorbar(metric.scale * mean, index, xerr=half, fmt="o", capsize=4, color="C0")
    ax.axvline(0, color="0.4", linestyle="--")
    ax.set_yticks(range(len(table)), [_label(row.name, row.rate) for row in table])
    ax.set_ylim(len(table) - 0.5, -0.5)
    better = "right" if metric.higher_is_better else "left"
    ax.set_xlabel(f"{metric.name}, {metric.difference_unit} over none  (better is {better})")


def _label(name: str, rate: float | None) -> str:
    return f"{name}: diverged" if rate is None else f"{name} {rate:g}"
