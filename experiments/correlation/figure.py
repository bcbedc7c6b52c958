"""The figure: a map that is dropped and given back, the law, effective rates, and the noise."""

import itertools

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..statistics import Estimate
from . import report
from .masks import FORMS, NEIGHBORS
from .report import Results

COLORS = dict(zip(FORMS, ("C0", "C1", "C2"), strict=True))
DROPS = {"Dropout": "single values", "DropBlock": "blocks", "SpatialDropout": "whole channels"}

MARKERS = "os*D^vPX<>"
APART = 0.14
"""The distance of two forms of dropout at the same place."""


def draw(results: Results) -> Figure:
    """Draws all results. Without a network, there is no noise and perhaps no picture."""
    canvas = Figure(figsize=(13, 7.6), layout="constrained")
    panels = [_law, _effective_rates, *([_noise] if report.in_networks(results) else [])]
    if results["shown"]:
        (above,), (below,) = canvas.subfigures(2, 1, squeeze=False, height_ratios=(1, 2.4))
        _pictures(above.subplots(1, 1 + 2 * len(FORMS)), results)
        axes = below.subplots(1, len(panels))
    else:
        axes = canvas.subplots(1, len(panels))
    for ax, draw_panel in zip(axes, panels, strict=True):
        draw_panel(ax, results)
    canvas.legend(
        *axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=len(FORMS)
    )
    return canvas


def _pictures(axes: np.ndarray, results: Results) -> None:
    shown = results["shown"]
    values = np.array(shown["map"])
    pictures = [(f"{results['config']['shown']}: a feature map", values)]
    for form, drops in DROPS.items():
        visible = np.where(shown[form]["visible"], values, np.nan)
        pictures += [
            (f"{form}: {drops}", visible),
            ("given back", np.array(shown[form]["given back"])),
        ]
    for ax, (title, picture) in zip(axes, pictures, strict=True):
        ax.imshow(picture, cmap="gray", vmin=values.min(), vmax=np.percentile(values, 99.5))
        ax.set_facecolor("#b03a2e")
        ax.set_title(title, fontsize="small")
        ax.set_xticks([])
        ax.set_yticks([])


def _law(ax: Axes, results: Results) -> None:
    law, rate = results["law"], results["config"]["rate"]
    for form in NEIGHBORS:
        ax.plot(law["correlation"], law[form], color=COLORS[form], alpha=0.5, label=f"law: {form}")
    for place, marker in zip(results["places"], itertools.cycle(MARKERS), strict=False):
        x = report.correlation(results, place).mean
        for form in NEIGHBORS:
            y = report.neighbors(results, place, form)
            ax.errorbar(x, y.mean, y.half_width, fmt=marker, color=COLORS[form])
        ax.plot([], marker, color="0.3", label=place)
    ax.set_ylim(-0.05, 1.05)
    ax.set_xlabel("correlation of adjacent values")
    ax.set_ylabel("share given back by neighbors")
    ax.set_title(f"What neighbors give back of a dropped value (rate {rate:g})", fontsize="medium")
    ax.legend(fontsize="x-small", loc="upper left")


def _effective_rates(ax: Axes, results: Results) -> None:
    rate = f"{results['config']['rate']:g}"
    ax.axvline(float(rate), color="0.6", ls="--", lw=1)
    for form in FORMS:
        _dots(
            ax,
            [report.effective_rate(results, place, form, rate) for place in results["places"]],
            form,
        )
    _names(ax, list(results["places"]))
    ax.set_xlim(0, 1.1 * float(rate))
    ax.set_xlabel("effective drop rate")
    ax.set_title(f"What a rate of {rate} really removes", fontsize="medium")


def _noise(ax: Axes, results: Results) -> None:
    places = report.in_networks(results)
    for form in FORMS:
        _dots(ax, [report.noise(results, place, form) for place in places], form)
    _names(ax, places)
    ax.set_xscale("log")
    ax.set_xlabel("variance / squared mean")
    ax.set_title("Noise of the first layer's gradient", fontsize="medium")


def _dots(ax: Axes, estimates: list[Estimate], form: str) -> None:
    ax.errorbar(
        [each.mean for each in estimates],
        np.arange(len(estimates)) + APART * (list(FORMS).index(form) - 1),
        xerr=[each.half_width or 0 for each in estimates],
        fmt="o",
        color=COLORS[form],
        label=f"{form}: {DROPS[form]}",
    )


def _names(ax: Axes, places: list[str]) -> None:
    ax.set_yticks(range(len(places)), places, fontsize="small")
    ax.invert_yaxis()
    ax.grid(axis="y", alpha=0.3)
