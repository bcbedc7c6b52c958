"""The figure of an experiment: learning curves, test accuracies, differences to no dropout."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .statistics import Estimate, Row, chosen, rows


def save(results: dict[str, Any], path: Path) -> None:
    """Writes the figure as a picture."""
    draw(results).savefig(path, dpi=150)


def draw(results: dict[str, Any]) -> Figure:
    """Draws validation accuracy over epochs, test accuracy, and what each adds to none."""
    table = rows(results)
    canvas = Figure(figsize=(12, 3.8), layout="constrained")
    left, middle, right = canvas.subplots(1, 3, width_ratios=(1.3, 1, 1))
    _curves(left, results, table)
    _tests(middle, results, table)
    _differences(right, results, table)
    return canvas


def _curves(ax: Axes, results: dict[str, Any], table: list[Row]) -> None:
    means = []
    for index, row in enumerate(table):
        curves = chosen(results["regularizers"][row.name], "validation_curve")
        label = row.name if row.name == "none" else f"{row.name} {row.rate:g}"
        mean, spread = _over_seeds(curves)
        means.append(mean)
        epochs = np.arange(1, len(mean) + 1)
        ax.plot(epochs, mean, label=label, color=f"C{index}")
        ax.fill_between(epochs, mean - spread, mean + spread, color=f"C{index}", alpha=0.15)
    # The first epochs lie far below; showing them would press the rest into one line.
    ax.set_ylim(bottom=np.percentile(np.concatenate(means), 10))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="epoch", ylabel="%", title="Validation accuracy\n(mean and s.d. over seeds)")
    ax.legend(loc="lower right")


def _tests(ax: Axes, results: dict[str, Any], table: list[Row]) -> None:
    for index, row in enumerate(table):
        accuracies = chosen(results["regularizers"][row.name], "test_accuracy")
        _dots(ax, index, accuracies, row.test)
    # In words: so far below the dots, a line would press them together.
    baseline = f"most frequent tag: {100 * results['baseline_test_accuracy']:.1f}"
    _names(ax, table)
    ax.set(xlabel=f"%  ({baseline})", title="Test accuracy\n(each seed, mean, 95 % interval)")


def _differences(ax: Axes, results: dict[str, Any], table: list[Row]) -> None:
    for index, row in enumerate(table):
        if row.difference:
            test = chosen(results["regularizers"][row.name], "test_accuracy")
            plain = chosen(results["regularizers"]["none"], "test_accuracy")
            _dots(ax, index, np.subtract(test, plain), row.difference)
    ax.axvline(0, color="0.4", linestyle="--")
    _names(ax, table)
    ax.set_yticklabels([])
    ax.set(xlabel="points", title="Over none, seed by seed\n(mean, 95 % interval)")


def _dots(ax: Axes, index: int, values: Any, value: Estimate) -> None:
    ax.plot(
        100 * np.asarray(values), np.full(len(values), index), "o", color=f"C{index}", alpha=0.5
    )
    half = None if value.half_width is None else 100 * value.half_width
    ax.errorbar(100 * value.mean, index + 0.25, xerr=half, fmt="|k", capsize=3, markersize=9)


def _names(ax: Axes, table: list[Row]) -> None:
    ax.set_yticks(range(len(table)), [row.name for row in table])
    ax.set_ylim(len(table) - 0.4, -0.6)


def _over_seeds(curves: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per epoch, in percent; a stopped run keeps its last value."""
    longest = max(map(len, curves))
    table = 100 * np.array([curve + curve[-1:] * (longest - len(curve)) for curve in curves])
    return table.mean(0), table.std(0)
