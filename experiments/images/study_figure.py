"""Draws what regularizers gain by the number of images, and where dropout meets a norm."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..statistics import Estimate, estimate, rows
from ..task import Metric

Results = dict[str, Any]
PLACES = {"Dropout": "after the norm", "Dropout before norm": "before the norm"}


def draw(study: dict[str, Results]) -> Figure:
    """Draws gains over no dropout, by the number of images and by the place of dropout."""
    canvas = Figure(figsize=(12, 5), layout="constrained")
    left, right = canvas.subplots(1, 2, width_ratios=(1.3, 1))
    by_images = [of for of in study.values() if of["config"]["norm"] == "batch"]
    _gains(left, sorted(by_images, key=images))
    smallest = min(map(images, study.values()))
    _places(right, [of for of in study.values() if images(of) == smallest])
    return canvas


def images(results: Results) -> int:
    """Returns the number of training images."""
    count: int = results["data"]["train"]
    return count


def _gains(ax: Axes, study: list[Results]) -> None:
    """Draws the difference of each regularizer to none at its chosen rate, a color a size."""
    names = list(dict.fromkeys(row.name for of in study for row in rows(of) if row.compared_to))
    height = 0.7 / max(1, len(study))
    for index, results in enumerate(study):
        metric = Metric(**results["metric"])
        for row in rows(results):
            if row.difference:
                place = names.index(row.name) + (index - (len(study) - 1) / 2) * height
                _bar(ax, row.difference, metric.scale, place, f"C{index}")
        ax.plot([], "o", color=f"C{index}", label=f"{images(results):,} training images")
    ax.axvline(0, color="0.4", linestyle="--")
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set(
        xlabel="points of accuracy over none, at the rate chosen by validation",
        title="Gain of each regularizer\n(batch norm; mean and 95 % interval)",
    )
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False)


def _bar(ax: Axes, value: Estimate, scale: float, place: float, color: str) -> None:
    half = None if value.half_width is None else scale * value.half_width
    ax.errorbar(scale * value.mean, place, xerr=half, fmt="o", color=color, capsize=3)


def _places(ax: Axes, study: list[Results]) -> None:
    """Draws the difference to none at each rate: a color a norm, a line style a place."""
    for index, results in enumerate(study):
        plain, norm = _by_rate(results, "none").get(0.0), results["config"]["norm"]
        for name, style in zip(PLACES, ("-", "--"), strict=True):
            if plain and (found := _by_rate(results, name)):
                shift = 0.004 * (2 * index + (style == "--") - 1.5)  # so that bars stay apart
                gains = {
                    rate: estimate(np.subtract(scores, plain).tolist())
                    for rate, scores in found.items()
                }
                ax.errorbar(
                    [rate + shift for rate in gains],
                    [100 * gain.mean for gain in gains.values()],
                    [100 * (gain.half_width or 0) for gain in gains.values()],
                    linestyle=style,
                    marker="o",
                    capsize=3,
                    color=f"C{index}",
                    label=f"{norm} norm, Dropout {PLACES[name]}",
                )
    ax.axhline(0, color="0.4", linestyle=":")
    ax.set(
        xlabel="rate",
        ylabel="points of accuracy over none",
        title=f"Where dropout meets a norm\n({images(study[0]):,} images; mean and 95 % interval)",
    )
    lines, _ = ax.get_legend_handles_labels()  # given, since legend() warns if there are none
    ax.legend(handles=lines, loc="upper center", bbox_to_anchor=(0.5, -0.13), frameon=False)


def _by_rate(results: Results, name: str) -> dict[float, list[float]]:
    """Returns the test scores at each rate, by seed, but for rates with a diverged run."""
    runs = results["regularizers"].get(name, {"runs": []})["runs"]
    runs = sorted(runs, key=lambda run: (run["rate"], run["seed"]))
    scores: dict[float, list[float]] = {}
    for run in runs:
        scores.setdefault(run["rate"], []).append(run["test_score"])
    return {rate: values for rate, values in scores.items() if None not in values}
