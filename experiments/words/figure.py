"""Draws the perplexities of an LSTM by regularizer, and the published order beside ours."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..figure import intervals, scaled
from ..statistics import chosen, estimate

PUBLISHED = {
    ("element-wise", "test_score"): 82.7,  # Zaremba et al., 2014
    ("variational", "test_score"): 79.7,  # Gal and Ghahramani, 2016, and the next
    ("variational", "measures", "monte_carlo"): 78.6,
}
"""Test perplexities of the medium LSTM on the Penn Treebank."""
ONE_PASS: dict[str, Any] = {"color": "C0", "marker": "o", "linestyle": ""}
MONTE_CARLO: dict[str, Any] = {"color": "C3", "marker": "D", "mfc": "w", "linestyle": ""}
LABELS = ("element-wise", "variational", "variational,\nMonte Carlo")


def draw(results: dict[str, Any]) -> Figure:
    """Draws the test perplexity of each regularizer, and the published order beside ours."""
    height = max(3.6, 1.6 + 0.4 * len(results["regularizers"]))
    canvas = Figure(figsize=(12, height), layout="constrained")
    left, right = canvas.subplots(1, 2, width_ratios=(1.3, 1))
    _perplexities(left, results)
    _published(right, results)
    return canvas


def _perplexities(ax: Axes, results: dict[str, Any]) -> None:
    names = []
    for index, (name, result) in enumerate(results["regularizers"].items()):
        is_plain = result["compared_to"] is None
        if tests := chosen(result, "test_score"):
            intervals(ax, [index - 0.13], [estimate(tests)], along="x", **ONE_PASS)
            if is_plain:
                ax.axvline(estimate(tests).mean, color="0.6", linestyle="--", zorder=0)
            else:
                passes = estimate(chosen(result, "measures", "monte_carlo"))
                intervals(ax, [index + 0.13], [passes], along="x", **MONTE_CARLO)
        names.append(name if tests else f"{name}: diverged")
    ax.plot([], label="one pass, nothing dropped", **ONE_PASS)
    ax.plot([], label="Monte Carlo", **MONTE_CARLO)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set(xlabel="words  (less is better)", title="Test perplexity\n(mean, 95 % interval)")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False)


def _published(ax: Axes, results: dict[str, Any]) -> None:
    first, *_ = PUBLISHED.values()
    published = [100 * (value / first - 1) for value in PUBLISHED.values()]
    finished = results["regularizers"]
    ours = [
        chosen(finished[name], *field) if name in finished else [] for name, *field in PUBLISHED
    ]
    places = np.arange(len(LABELS))
    ax.bar(places - 0.2, published, 0.36, color="0.75", label="published, Penn Treebank")
    if all(ours):
        start = np.asarray(ours[0])
        changes = [estimate(list(100 * (np.asarray(values) / start - 1))) for values in ours]
        means, halves = scaled(changes)
        ax.bar(places + 0.2, means, 0.36, yerr=halves, capsize=3, color="C0", label="here")
    ax.axhline(0, color="k", linewidth=0.8)
    ax.set_xticks(places, LABELS)
    ax.set(ylabel="% over element-wise dropout", title="The published order\n(less is better)")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False)
