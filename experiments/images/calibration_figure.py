"""Draws likelihood, calibration and risk of each regularizer on clean and on shifted images."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..figure import intervals, label
from ..statistics import chosen, estimate, rows
from ..task import Metric

COLORS = {"clean": "C0", "shifted": "C3"}
FACES = {"one pass": "none", "passes": None}
"""Of the markers: hollow and filled."""


def draw(results: dict[str, Any]) -> Figure:
    """Draws NLL, ECE, and the risk over coverage on shifted images."""
    canvas = Figure(figsize=(13, 4.8), layout="constrained")
    left, middle, right = canvas.subplots(1, 3, width_ratios=(1, 1, 1.1))
    _dots(left, results, "NLL")
    _dots(middle, results, "ECE")
    middle.set_yticklabels([])
    _curves(right, results)
    return canvas


def _dots(ax: Axes, results: dict[str, Any], quantity: str) -> None:
    """Draws a measure at the chosen rates.

    Clean and shifted images have colors of their own, and the markers of one pass are hollow.
    """
    table = [row for row in rows(results) if row.test]
    for images, color in COLORS.items():
        for index, (way, face) in enumerate(FACES.items()):
            name = f"{quantity}, {images}, {way}"
            metric = Metric(**results["measures"][name])
            for place, row in enumerate(table):
                if values := chosen(results["regularizers"][row.name], "measures", name):
                    intervals(
                        ax,
                        [place + 0.3 * index - 0.15],
                        [estimate(values)],
                        metric.scale,
                        along="x",
                        fmt="o",
                        color=color,
                        markerfacecolor=face or color,
                        capsize=2,
                    )
            ax.plot([], "o", color=color, markerfacecolor=face or color, label=f"{images}, {way}")
    ax.set_yticks(range(len(table)), [label(row) for row in table])
    ax.invert_yaxis()
    ax.set_xlim(left=0)
    ax.set(xlabel=metric.unit, title=f"{quantity}, lower is better\n(mean and 95 % interval)")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False)


def _curves(ax: Axes, results: dict[str, Any]) -> None:
    """Draws the error among the most confident shifted images, as the mean over seeds."""
    for index, row in enumerate(rows(results)):
        for way, style in (("one pass", ":"), ("passes", "-")):
            name = f"risk, shifted, {way}"
            curves = chosen(results["regularizers"][row.name], "measures", name)
            if curves and (way == "passes" or row.compared_to):
                mean = 100 * np.mean(curves, axis=0)
                coverage = 100 * np.arange(1, len(mean) + 1) / len(mean)
                name = row.name if way == "passes" else ""
                ax.plot(coverage, mean, style, color=f"C{index}", label=name)
    ax.set(
        xlabel="coverage: the most confident images, %",
        ylabel="error among them, %",
        title="Risk over coverage, shifted images\n(dotted: one pass)",
    )
    ax.legend(fontsize="small", frameon=False)
