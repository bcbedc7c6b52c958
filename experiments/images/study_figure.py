"""Draws what regularizers gain by the number of images, and where dropout meets a norm."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..figure import intervals
from ..statistics import by_rate, estimate, rows
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
                style: dict[str, Any] = {"fmt": "o", "color": f"C{index}"}
                intervals(ax, [place], [row.difference], metric.scale, along="x", **style)
        ax.plot([], "o", color=f"C{index}", label=f"{images(results):,} training images")
    ax.axvline(0, color="0.4", linestyle="--")
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set(
        xlabel="points of accuracy over none, at the rate chosen by validation",
        title="Gain of each regularizer\n(batch norm; mean and 95 % interval)",
    )
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False)


def _places(ax: Axes, study: list[Results]) -> None:
    """Draws the difference to none at each rate: a color a norm, a line style a place."""
    for index, results in enumerate(study):
        metric, norm = Metric(**results["metric"]), results["config"]["norm"]
        scores = {
            name: by_rate(result, "test_score") for name, result in results["regularizers"].items()
        }
        plain = scores.get("none", {}).get(0.0)
        for name, style in zip(PLACES, ("-", "--"), strict=True):
            if plain and (found := scores.get(name)):
                shift = 0.004 * (2 * index + (style == "--") - 1.5)  # so that bars stay apart
                intervals(
                    ax,
                    [rate + shift for rate in found],
                    [estimate(np.subtract(of, plain).tolist()) for of in found.values()],
                    metric.scale,
                    along="y",
                    linestyle=style,
                    marker="o",
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
