"""Draws the perplexities of an LSTM by regularizer, and the published order beside ours."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
            _interval(ax, tests, index - 0.13, ONE_PASS)
            if is_plain:
                ax.axvline(estimate(tests).mean, color="0.6", linestyle="--", zorder=0)
            else:
                _interval(ax, chosen(result, "measures", "monte_carlo"), index + 0.13, MONTE_CARLO)
        names.append(name if tests else f"{name}: diverged")
    ax.plot([], label="one pass, nothing dropped", **ONE_PASS)
    ax.plot([], label="Monte Carlo", **MONTE_CARLO)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set(xlabel="words  (less is better)", title="Test perplexity\n(mean, 95 % interval)")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False)


def _interval(ax: Axes, values: list[float], place: float, style: dict[str, Any]) -> None:
    mean, half_width = estimate(values)
    ax.errorbar(mean, place, xerr=half_width, capsize=3, **style)


def _published(ax: Axes, results: dict[str, Any]) -> None:
    first, *_ = PUBLISHED.values()
    published = [100 * (value / first - 1) for value in PUBLISHED.values()]
    ours = [
        chosen(results["regularizers"].get(name, {"runs": []}), *fields)
        for name, *fields in PUBLISHED
    ]
    places = np.arange(len(LABELS))
    ax.bar(places - 0.2, published, 0.36, color="0.75", label="published, Penn Treebank")
    if all(ours):
        start = np.asarray(ours[0])
        changes = [estimate(list(100 * (np.asarray(values) / start - 1))) for values in ours]
        means, halves = zip(*changes, strict=True)
        bounds = None if None in halves else halves
        ax.bar(places + 0.2, means, 0.36, yerr=bounds, capsize=3, color="C0", label="here")
    ax.axhline(0, color="k", linewidth=0.8)
    ax.set_xticks(places, LABELS)
    ax.set(ylabel="% over element-wise dropout", title="The published order\n(less is better)")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False)
