"""Draws what dropout adds by the number of chips, and the memory of a chip by part."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .results import PARTS, Plan, Row
from .table import MIB, baseline, ordered


def draw(plans: list[Plan]) -> Figure:
    """Returns a figure with two panels."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.suptitle("A training step on slices of TPUs: compiled, not run")
    _added(left, plans)
    _memory(right, plans)
    return figure


def _added(ax: Axes, plans: list[Plan]) -> None:
    lines: dict[str, list[tuple[int, float]]] = {}
    for plan in plans:
        for row in ordered(plan.rows):
            plain = baseline(plan, row)
            if plain is not None and not row.failure:
                name = f"{row.config} on {row.topology.partition(':')[0]}: {row.arm}"
                added = 100 * (row.cycles / plain.cycles - 1)
                lines.setdefault(name, []).append((row.chips, added))
    for name, points in lines.items():
        dashes = "--" if ": Flax " in name else "-"
        ax.plot(*zip(*points, strict=True), dashes, marker="o", label=name)
    ax.set_xscale("log", base=2)
    chips = sorted({row.chips for plan in plans for row in plan.rows})
    ax.set_xticks(chips, [f"{count:,}" for count in chips])
    ax.axhline(0, color="k", linewidth=0.8)
    ax.set_xlabel("chips (the batch of a chip stays the same)")
    ax.set_ylabel("cycles added to a step in %")
    ax.set_title("What dropout adds")
    if ax.lines[1:]:
        ax.legend(fontsize="small")


def _memory(ax: Axes, plans: list[Plan]) -> None:
    rows = [row for plan in plans for row in _largest(plan)]
    names = [f"{row.config}\n{row.arm}" for row in rows]
    bottom = [0.0] * len(rows)
    for part in PARTS:
        heights = [row.memory[part] / MIB for row in rows]
        ax.bar(names, heights, bottom=bottom, label=part)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    ax.set_ylabel("memory of a chip in MiB")
    ax.set_title("Peak memory")
    ax.tick_params(axis="x", labelsize="small", rotation=30)
    if rows:
        ax.legend(fontsize="small")


def _largest(plan: Plan) -> list[Row]:
    """Returns the rows of the slice with most programs."""
    found: dict[str, list[Row]] = {}
    for row in ordered(plan.rows):
        if not row.failure:
            found.setdefault(row.topology, []).append(row)
    return max(found.values(), key=len, default=[])
