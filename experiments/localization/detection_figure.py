"""Draws the detection rate over distance, and keypoints that networks found."""

import base64
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..figure import label
from ..statistics import chosen, rows
from .dataset import RADIUS

STYLES: tuple[dict[str, Any], ...] = {"marker": "x", "color": "C1"}, {"marker": "+", "color": "C0"}


def draw(results: dict[str, Any]) -> Figure:
    """Draws curves of all regularizers, and scenes with the keypoints of two of them."""
    canvas = Figure(figsize=(12, 4.6), layout="constrained")
    panels: Any = canvas.subfigures(1, 2, width_ratios=(1, 1.25))
    left, right = panels
    _curves(left.subplots(), results)
    scenes = results["data"]["shown"]
    names = drawn(results)
    axes = right.subplots(2, -(-len(scenes) // 2), squeeze=False).flat
    for index, (ax, scene) in enumerate(zip(axes, scenes, strict=False)):
        _scene(ax, results, scene, index, names)
    handles, labels = right.axes[0].get_legend_handles_labels()
    right.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    right.suptitle("Keypoints in test scenes (seed 0)")
    return canvas


def drawn(results: dict[str, Any]) -> list[str]:
    """Returns the plain network and the regularizer that is best on validation data."""
    table = [(row.validation.mean, row) for row in rows(results) if row.validation]
    plain = [row.name for _, row in table if not row.compared_to]
    others = sorted(((score, row.name) for score, row in table if row.compared_to), reverse=True)
    return plain + [name for _, name in others[:1]]


def _curves(ax: Axes, results: dict[str, Any]) -> None:
    for index, row in enumerate(rows(results)):
        curves = chosen(results["regularizers"][row.name], "measures", "curve")
        if not curves:
            ax.plot([], label=label(row), color=f"C{index}")
            continue
        distances = np.linspace(0, results["data"]["farthest"], len(curves[0]))
        ax.plot(distances, 100 * np.mean(curves, 0), label=label(row), color=f"C{index}")
    ax.axvline(RADIUS, color="0.6", linestyle="--", linewidth=1)
    ax.set(xlabel="distance in torsos", ylabel="keypoints found, %", title="Detection on test data")
    ax.set_xlim(0, results["data"]["farthest"])
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False)


def _scene(
    ax: Axes, results: dict[str, Any], scene: dict[str, Any], index: int, names: list[str]
) -> None:
    pixels = np.frombuffer(base64.b64decode(scene["pixels"]), np.uint8)
    ax.imshow(pixels.reshape(2 * [round(len(pixels) ** 0.5)]), cmap="gray")
    ax.set_axis_off()
    rings: dict[str, Any] = {"mfc": "none", "mec": "gold", "markersize": 9, "mew": 1.5}
    true = np.array(scene["keypoints"])
    ax.plot(true[:, 1], true[:, 0], "o", label="true", **rings)
    for name, style in zip(names, STYLES, strict=False):
        found = np.array(chosen(results["regularizers"][name], "measures", "keypoints")[0][index])
        options: dict[str, Any] = {"linestyle": "none", "markersize": 8, "mew": 2, **style}
        ax.plot(found[:, 1], found[:, 0], label=name, **options)
