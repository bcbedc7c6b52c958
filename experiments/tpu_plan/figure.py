"""Draws what dropout adds by the number of chips, and the memory of a chip by part."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .results import PARTS, Plan, Row
from .table import baseline, mib, ordered


def draw(plans: list[Plan]) -> Figure:
    """Returns a figure with two panels."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.suptitle("A training step on slices of TPUs: compiled, not run")
    _added(left, plans)
    _memory(right, plans)
    return figure


def _added(ax: Axes, plans: list[Plan]) -> None:
    """Draws the programs that were compiled for several slices of one kind of chips."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for plan in plans:
        for row in ordered(plan.rows):
            plain = baseline(plan, row)
            if plain is not None and not row.failure:
                name = f"{row.config} on {row.topology.partition(':')[0]}: {row.arm}"
                lines.setdefault(name, []).append((row.chips, row.cycles - plain.cycles))
    sizes: set[int] = set()
    for name, points in lines.items():
        chips, cycles = zip(*points, strict=True)
        if len(points) > 1 and cycles[0] > 0:
            sizes.update(chips)
            dashes = "--" if ": Flax " in name else "-"
            ax.plot(chips, [each / cycles[0] for each in cycles], dashes, marker="o", label=name)
    ax.set_xscale("log", base=2)
    ax.set_xticks(sorted(sizes), [f"{size:,}" for size in sorted(sizes)])
    ax.minorticks_off()
    ax.set_ylim(0, 2)
    ax.set_xlabel("chips (the batch of a chip stays the same)")
    ax.set_ylabel("added cycles, over the smallest slice's")
    ax.set_title("What dropout adds to a step of one chip")
    if ax.lines:
        ax.legend(fontsize="small")


def _memory(ax: Axes, plans: list[Plan]) -> None:
    """Draws each network without dropout, and with its last regularizer."""
    rows = [row for plan in plans for row in _shown(plan)]
    names = [f"{row.config}: {row.arm}" for row in rows]
    left = [0.0] * len(rows)
    for part in PARTS:
        shares = [100 * row.memory[part] / row.peak for row in rows]
        bars = ax.barh(names, shares, left=left, label=part)
        left = [low + share for low, share in zip(left, shares, strict=True)]
    if rows:
        ax.bar_label(bars, [f"{mib(row.peak)} MiB" for row in rows], padding=3, size=8)
        ax.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)
    ax.invert_yaxis()
    ax.set_xlim(0, 124)
    ax.set_xticks(range(0, 101, 25))
    ax.set_xlabel("share of the peak in %")
    ax.set_title("Peak memory of a chip")


def _shown(plan: Plan) -> list[Row]:
    """Returns two rows of the slice with most programs."""
    slices: dict[str, list[Row]] = {}
    for row in ordered(plan.rows):
        if not row.failure and not row.arm.startswith("Flax"):
            slices.setdefault(row.topology, []).append(row)
    rows = max(slices.values(), key=len, default=[])
    return [rows[0], rows[-1]] if len(rows) > 1 else rows
