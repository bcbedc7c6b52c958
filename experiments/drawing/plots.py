"""Draws the README's picture of the values that each kind of dropout drops.

python -m experiments.drawing.plots
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure
from matplotlib.patches import Patch

import flax_spatialdrop as fsd

SHAPE = (2, 3, 4)
SEED = 335  # every panel has kept and dropped cells, and the samples differ


class Kind(NamedTuple):
    """A panel: a function of the library, its noise shape, and its effect in plain words."""

    draw: Callable[..., jax.Array]
    noise_shape: tuple[int, int, int]
    drops: str


KINDS = (
    Kind(fsd.dropout, (2, 3, 4), "single values,\neach on its own"),
    Kind(fsd.spatial_dropout_1d, (2, 1, 4), "whole channels\nof a sample"),
    Kind(fsd.timestep_dropout, (2, 3, 1), "whole time steps\nof a sample"),
    Kind(fsd.feature_dropout, (1, 1, 4), "whole channels\nof all samples"),
    Kind(fsd.sample_dropout, (2, 1, 1), "whole\nsamples"),
)


def outputs(seed: int = SEED) -> list[jax.Array]:
    """Applies every kind of dropout once, at a rate of 0.5, with the same key."""
    return [kind.draw(jax.random.key(seed), jnp.ones(SHAPE), 0.5) for kind in KINDS]


def save_masks(path: Path) -> None:
    """Draws the same input [sample, time, channel] under each kind of dropout, side by side."""
    figure = Figure(figsize=(10, 2.75), layout="constrained")
    figure.suptitle(
        "2 samples of 3 time steps and 4 channels, under five kinds of dropout at rate 0.5"
    )
    axes = figure.subplots(1, len(KINDS))
    for ax, kind, output in zip(axes, KINDS, outputs(), strict=True):
        fsd.plot_mask(output, ax=ax, title=kind.drops)
        name = kind.draw.__name__
        ax.annotate(name, (0.5, 1.2), xycoords=ax.title, ha="center", weight="bold", size=11)
        flips = math.prod(kind.noise_shape)
        ax.set_xlabel(f"channel →\n\nnoise shape {kind.noise_shape}\n{flips} coin flips")
    colors = axes[0].collections[0].cmap
    cells = [Patch(color=colors(1.0), label="kept"), Patch(color=colors(0.0), label="dropped")]
    figure.legend(handles=cells, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=180)


if __name__ == "__main__":
    folder = Path(__file__).parents[1] / "results"
    folder.mkdir(exist_ok=True)
    save_masks(folder / "masks.png")
