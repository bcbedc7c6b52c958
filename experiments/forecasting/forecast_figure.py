"""Draws the forecast of some weeks and the truth."""

import datetime
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import ConciseDateFormatter
from matplotlib.figure import Figure

from ..statistics import chosen, rows

STYLES = {"color": "C0", "linewidth": 1.2}, {"color": "C3", "linewidth": 1.2}


def draw(results: dict[str, Any]) -> Figure:
    """Draws the first weeks of the test part: truth and forecasts above, errors below."""
    shown = results["data"]["shown"]
    hours = [datetime.datetime.fromisoformat(hour) for hour in shown["hours"]]
    truth, last = np.array(shown["truth"]), np.array(shown["last"])
    canvas = Figure(figsize=(12, 5.2), layout="constrained")
    upper, lower = canvas.subplots(2, 1, sharex=True, height_ratios=(1.6, 1))
    upper.plot(hours, truth, "k", linewidth=2, label="truth")
    lines = [("persistence", last, {"color": "0.6", "linewidth": 1})]
    for name, style in zip(drawn(results), STYLES, strict=False):
        of_seeds = chosen(results["regularizers"][name], "measures", "shown")
        lines.append((name, last + of_seeds[0], style))
    for row in rows(results):
        if not row.test:
            upper.plot([], "w", label=f"{row.name}: diverged")
    for label, forecast, style in lines:
        upper.plot(hours, forecast, label=label, **style)
        error = np.sqrt(np.mean((forecast - truth) ** 2))
        lower.plot(hours, forecast - truth, label=f"{label}: RMSE {error:.2f}", **style)
    lower.axhline(0, color="k", linewidth=2)
    ahead = results["config"]["data"]["ahead"]
    upper.set(ylabel="°F", title=f"Temperature at EWR, forecast {ahead} h ahead (seed 0)")
    lower.set(ylabel="error, °F", xlabel="UTC")
    lower.xaxis.set_major_formatter(ConciseDateFormatter(lower.xaxis.get_major_locator()))
    for ax in (upper, lower):
        _legend_above(ax)
    return canvas


def drawn(results: dict[str, Any]) -> list[str]:
    """Returns the networks to draw: the first plain one and the best regularizer on validation."""
    table = [(row.validation.mean, row) for row in rows(results) if row.validation]
    plain = [row.name for _, row in table if not row.compared_to]
    others = sorted((error, row.name) for error, row in table if row.compared_to)
    return plain[:1] + [name for _, name in others[:1]]


def _legend_above(ax: Axes) -> None:
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
