"""Draws what dropout adds by the number of chips, and the memory of a chip by part."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .results import PARTS, Plan, Row
from .table import mib, on_slices, ordered


def draw(plans: list[Plan]) -> Figure:
    """Returns a figure with two panels."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.suptitle("A training step on slices of TPUs: compiled, not run")
    _added(left, plans)
    _memory(right, plans)
    return figure


def _added(ax: Axes, plans: list[Plan]) -> None:
    """Draws the programs that were compiled for several slices of one kind of chips."""
    found: dict[str, dict[int, float]] = {}
    for (config, arm, kind), costs in on_slices(plans).items():
        known = all(cost.millions for cost in costs.values())
        cycles = {
            chips: float(cost.millions if known else cost.estimated_millions)
            for chips, cost in costs.items()
        }
        if min(cycles.values()) > 0:
            found[f"{config} on {kind}:\n{arm}" + ("" if known else " (estimate)")] = cycles
    sizes = sorted({chips for cycles in found.values() for chips in cycles})
    height = 0.8 / max(1, len(sizes))
    blues = colormaps["Blues"](np.linspace(0.4, 0.9, len(sizes)))
    for place, size in enumerate(sizes):
        at = [i for i, cycles in enumerate(found.values()) if size in cycles]
        widths = [cycles[size] for cycles in found.values() if size in cycles]
        offset = (place - (len(sizes) - 1) / 2) * height
        bars = ax.barh([i + offset for i in at], widths, 0.9 * height, color=blues[place])
        bars.set_label(f"{size:,} chips")
        ax.bar_label(bars, [f"{width:.3g}" for width in widths], padding=3, size=8)
    ax.set_yticks(range(len(found)), list(found))
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.margins(x=0.15)
    ax.minorticks_off()
    ax.set_xlabel("cycles in millions (log scale)")
    ax.set_title("What dropout adds to a step of one chip")
    if sizes:
        ax.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.3, -0.12), ncols=3)


def _memory(ax: Axes, plans: list[Plan]) -> None:
    """Draws each network without and with the dropout of the left panel, if it has a part there."""
    arms = {(config, arm) for config, arm, _ in on_slices(plans)}
    rows = [row for plan in plans for row in _pair(plan, arms)]
    names = [f"{row.config} on {row.topology}: {row.arm}" for row in rows]
    left = [0.0] * len(rows)
    for part in PARTS:
        shares = [100 * row.memory[part] / row.peak for row in rows]
        bars = ax.barh(names, shares, left=left, label=part)
        left = [low + share for low, share in zip(left, shares, strict=True)]
    if rows:
        ax.bar_label(bars, [f"{mib(row.peak)} MiB" for row in rows], padding=3, size=8)
        ax.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.3, -0.12), ncols=3)
    ax.invert_yaxis()
    ax.set_xlim(0, 130)
    ax.set_xticks(range(0, 101, 25))
    ax.set_xlabel("share of the peak in %")
    ax.set_title("Peak memory of a chip")


def _pair(plan: Plan, arms: set[tuple[str, str]]) -> list[Row]:
    """Returns a row with dropout, and the one it is compared to before it.

    They are of the slice with most programs. A row of `arms` is preferred.
    """
    slices: dict[str, dict[str, Row]] = {}
    for row in ordered(plan.rows):
        if not row.failure and not row.arm.startswith("Flax"):
            slices.setdefault(row.topology, {})[row.arm] = row
    rows = max(slices.values(), key=len, default={})
    pairs = [[rows[row.compared_to], row] for row in rows.values() if row.compared_to is not None]
    return min(pairs, key=lambda pair: (pair[1].config, pair[1].arm) not in arms, default=[])
