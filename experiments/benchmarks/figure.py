"""The figure: every library's layer as a bar over the copy of x, which no layer can beat."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .cases import COPY, DTYPES, PASSES, describe
from .libraries import FLAX_AGAIN, OURS
from .pytorch import PYTORCH, PYTORCH_COPY
from .results import Record, Results
from .table import SHORT_SHAPE
from .tpu import CYCLES


def save(results: Results, path: Path) -> bool:
    """Writes the figure as a picture; False if no row that it shows was measured."""
    quantity = CYCLES if any(r.quantity == CYCLES for r in results.records) else "time in ms"
    found = {r.row: r for r in results.records if r.section == "layers" and r.quantity == quantity}
    canvas = Figure(figsize=(11, 5.2), layout="constrained")
    panels = canvas.subplots(1, 2, sharey=False)
    drawn = 0
    for ax, kind in zip(panels, ("spatial", "element-wise"), strict=True):
        rows = [
            found[row]
            for dtype in DTYPES
            for direction in PASSES
            if (row := f"{kind} {describe(dtype, SHORT_SHAPE)} {direction}") in found
        ]
        if rows:
            _bars(ax, rows)
            drawn += len(rows)
        ax.set_title(f"{kind} dropout")
    if not drawn:
        return False
    what = "estimated cycles" if quantity == CYCLES else "time"
    canvas.suptitle(f"{what.capitalize()} over that of a copy of x = {list(SHORT_SHAPE)}")
    canvas.supxlabel(f"{results.device}, {results.date} (log scale; shorter is better)", size=9)
    canvas.savefig(path, dpi=150)
    return True


def _bars(ax: Axes, rows: list[Record]) -> None:
    hidden = {COPY, FLAX_AGAIN, PYTORCH_COPY}
    names = [n for n in dict.fromkeys(n for r in rows for n in r.values) if n not in hidden]
    height = 0.8 / len(names)
    for place, name in enumerate(names):
        at = [i for i, row in enumerate(rows) if name in row.values]
        ratios = [_ratio(rows[i], name) for i in at]
        color = "C3" if name == OURS else f"{0.35 + 0.1 * place:.2f}"
        bars = ax.barh(np.array(at) + (place - len(names) / 2 + 0.5) * height, ratios, height)
        for bar in bars:
            bar.set_color(color)
        bars.set_label(name)
        ax.bar_label(bars, fmt="%.2g", padding=2, size=7)
    ax.axvline(1, color="k", linewidth=1, label="copy")
    ax.set_xscale("log")
    ax.margins(x=0.12)
    ax.set_yticks(range(len(rows)), [_label(row.row) for row in rows])
    ax.invert_yaxis()
    ax.legend(fontsize=8)


def _label(row: str) -> str:
    _, _, rest = row.partition(" ")
    return f"{rest.partition('[')[0]}\n{rest.rpartition(' ')[2]}"


def _ratio(row: Record, name: str) -> float:
    return row.values[name] / row.values[PYTORCH_COPY if name == PYTORCH else COPY]
