"""Draws the time of every library's layer, as a ratio to a copy of x."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..files import replace_figure
from .cases import COPY, DTYPES, PASSES, PEER_SHAPES, describe
from .here import TIME
from .libraries import FAST_KERNEL, LIBRARIES, OURS, OURS_FAST
from .pytorch import PYTORCH, PYTORCH_COPY
from .results import Record, Results
from .table import contenders
from .tpu import FLOOR, SCHEDULE

GREYS = {name: f"{0.3 + 0.08 * place:.2f}" for place, name in enumerate([*LIBRARIES, PYTORCH])}
COLORS = GREYS | {OURS: "C3", OURS_FAST: "C1", FAST_KERNEL: "C2"}
SHAPE = PEER_SHAPES[0]
TICKS = (0.5, 1, 2, 5, 10, 20, 50)


def save(results: Results, path: Path) -> bool:
    """Writes the figure. Returns False if none of its rows was measured."""
    quantity = SCHEDULE if any(r.quantity == SCHEDULE for r in results.records) else TIME
    found = {r.row: r for r in results.records if r.section == "layers" and r.quantity == quantity}
    rows_of = {
        kind: [
            found[row]
            for dtype in DTYPES
            for direction in PASSES
            if (row := f"{kind} {describe(dtype, SHAPE)} {direction}") in found
        ]
        for kind in ("spatial", "element-wise")
    }
    kinds = [kind for kind, rows in rows_of.items() if rows]
    if not kinds:
        return False
    canvas = Figure(figsize=(12 if len(kinds) > 1 else 8, 5.2), layout="constrained")
    panels = canvas.subplots(1, len(kinds), sharex=True, squeeze=False)[0]
    handles: dict[str, Any] = {}
    for ax, kind in zip(panels, kinds, strict=True):
        _bars(ax, rows_of[kind])
        ax.set_title(f"{kind} dropout")
        handles |= dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    shown = [row for kind in kinds for row in rows_of[kind]]
    labels = [name for name in contenders(shown) if name != FLOOR]
    canvas.legend([handles[name] for name in labels], labels, loc="outside right upper")
    what = "Cycles (schedule)" if quantity == SCHEDULE else "Time"
    canvas.suptitle(f"{what} of dropout on x = {list(SHAPE)}, over a copy's")
    note = "log scale, shorter is better"
    if any(PYTORCH in row.values for row in shown):
        note += "; PyTorch over its own copy, its pullback with the forward pass"
    canvas.supxlabel(f"{results.device}, {results.date} ({note})", size=9)
    replace_figure(path, canvas)
    return True


def _bars(ax: Axes, rows: list[Record]) -> None:
    names = [name for name in contenders(rows) if name not in (COPY, FLOOR)]
    height = 0.85 / max(1, len(names))
    for place, name in enumerate(names):
        at = [i for i, row in enumerate(rows) if name in row.values]
        ratios = [_ratio(rows[i], name) for i in at]
        bars = ax.barh(
            np.array(at) + (place - len(names) / 2 + 0.5) * height,
            ratios,
            0.9 * height,
            color=COLORS[name],
            label=name,
        )
        # White boxes keep the line of the copy from crossing the numbers.
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        labels = [f"{ratio:.2f}" for ratio in ratios]
        ax.bar_label(bars, labels, padding=2, size=7, bbox=paper, zorder=4)
    ax.axvline(1, color="k", linewidth=1, label=COPY)
    ax.set_xscale("log")
    ax.set_xlim(left=TICKS[0])
    ax.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    ax.minorticks_off()
    ax.margins(x=0.1)
    ax.set_yticks(range(len(rows)), [_label(row.row) for row in rows])
    ax.invert_yaxis()


def _label(row: str) -> str:
    _, _, rest = row.partition(" ")
    return f"{rest.partition('[')[0]}\n{rest.rpartition(' ')[2]}"


def _ratio(row: Record, name: str) -> float:
    return row.values[name] / row.values[PYTORCH_COPY if name == PYTORCH else COPY]
