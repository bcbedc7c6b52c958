"""Draws detection rates, and what the regularizers add to them, over the number of scenes."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..figure import intervals
from ..statistics import Row, rows
from ..task import Metric

SPACING = 0.04
"""Of regularizers beside each other, as a share of the number of scenes."""


def draw(study: Mapping[str, dict[str, Any]]) -> Figure:
    """Draws test scores on the left and differences to no dropout on the right."""
    canvas = Figure(figsize=(12, 4.6), layout="constrained")
    left, right = canvas.subplots(1, 2)
    tables = {results["data"]["train_scenes"]: rows(results) for results in study.values()}
    metric = Metric(**next(iter(study.values()))["metric"])
    for index, name in enumerate(dict.fromkeys(row.name for t in tables.values() for row in t)):
        shift = 1 + SPACING * (index - 2)
        by_scenes = {
            shift * scenes: row
            for scenes, table in sorted(tables.items())
            for row in table
            if row.name == name and row.test
        }
        _line(left, by_scenes, "test", metric, label=name, color=f"C{index}")
        gains = {scenes: row for scenes, row in by_scenes.items() if row.difference}
        if gains:
            _line(right, gains, "difference", metric, color=f"C{index}")
    right.axhline(0, color="0.4", linestyle="--", linewidth=1)
    for ax in (left, right):
        ax.set_xscale("log")
        ax.set_xticks(list(tables), [f"{scenes:,}" for scenes in tables])
        ax.minorticks_off()
        ax.set_xlabel("training scenes")
    left.set(ylabel=metric.unit, title=f"Test {metric.name} (mean, 95 % interval)")
    right.set(
        ylabel=metric.difference_unit,
        title="Gain over no dropout, seed by seed (mean, 95 % interval)",
    )
    left.legend(frameon=False)
    return canvas


def _line(ax: Axes, by_scenes: dict[float, Row], field: str, metric: Metric, **style: Any) -> None:
    values = [getattr(row, field) for row in by_scenes.values()]
    intervals(ax, list(by_scenes), values, metric.scale, along="y", marker="o", **style)
