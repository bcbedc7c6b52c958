"""Draws the gallery of the book: a photo and a feature map of it, under dropout in space.

python -m experiments.drawing.gallery
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import flax_spatialdrop as fsd

RATE = 0.3
SEED = 3
STEP = 2  # every second pixel of the photo
POOLED = 8  # one position of the feature map covers POOLED x POOLED pixels
BLOCK = 25
FEATURE_BLOCK = 5

Regularizer = Callable[[jax.Array, jax.Array], jax.Array]


class Panel(NamedTuple):
    """A picture: its title, what is dropped in plain words, and the function that is applied."""

    title: str
    drops: str
    apply: Regularizer


PHOTO_PANELS = (
    Panel("the photo", "height, width and 3 channels", lambda key, x: x),
    Panel("dropout", "single values", lambda key, x: fsd.dropout(key, x, RATE)),
    Panel(
        "dropout, broadcast_dims=(-1,)",
        "single pixels",
        lambda key, x: fsd.dropout(key, x, RATE, broadcast_dims=(-1,)),
    ),
    Panel(
        "spatial_dropout_2d",
        "whole channels, here green",
        lambda key, x: fsd.spatial_dropout_2d(key, x, RATE),
    ),
    Panel(
        "drop_block",
        "blocks, of each channel its own (unscaled)",
        lambda key, x: fsd.drop_block(key, x, RATE, block_size=BLOCK, normalize=None),
    ),
    Panel(
        "drop_block, per_channel=False",
        "blocks of all channels (unscaled)",
        lambda key, x: fsd.drop_block(
            key, x, RATE, block_size=BLOCK, per_channel=False, normalize=None
        ),
    ),
    Panel(
        'cutout, fill="mean"',
        "a rectangle of each input",
        lambda key, x: fsd.cutout(key, x, 1.0, block_size=(90, 120), fill="mean"),
    ),
    Panel(
        "gaussian_dropout",
        "nothing: multiplies single values by noise",
        lambda key, x: fsd.gaussian_dropout(key, x, RATE),
    ),
)
FEATURE_PANELS = (
    Panel("the feature map", "4 channels: edges of 4 directions", lambda key, x: x),
    Panel("dropout", "single values", lambda key, x: fsd.dropout(key, x, RATE)),
    Panel(
        "spatial_dropout_2d",
        "whole channels",
        lambda key, x: fsd.spatial_dropout_2d(key, x, RATE),
    ),
    Panel(
        "drop_block",
        f"blocks of {FEATURE_BLOCK} x {FEATURE_BLOCK}",
        lambda key, x: fsd.drop_block(key, x, RATE, block_size=FEATURE_BLOCK),
    ),
)


def photo() -> jax.Array:
    """Returns the photo china.jpg of scikit-learn, [1, height, width, 3] in [0, 1]."""
    from sklearn.datasets import load_sample_image

    return jnp.asarray(load_sample_image("china.jpg")[None, ::STEP, ::STEP] / np.float32(255))


def feature_map(image: jax.Array) -> jax.Array:
    """Returns pooled edges of four directions, like the first layers of a vision network."""
    across = jnp.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], jnp.float32)
    filters = jnp.stack([across, across.T, -across, -across.T], axis=-1)[:, :, None]
    layout = ("NHWC", "HWIO", "NHWC")
    grey = image.mean(-1, keepdims=True)
    edges = jax.lax.conv_general_dilated(grey, filters, (1, 1), "VALID", dimension_numbers=layout)
    window = (1, POOLED, POOLED, 1)
    found = jax.lax.reduce_window(jax.nn.relu(edges), 0.0, jax.lax.max, window, window, "VALID")
    return found / found.max()


def save_gallery(path: Path, dpi: int = 130) -> None:
    """Draws the photo in two rows of panels, and the feature map in a third row."""
    image = photo()
    features = feature_map(image)
    figure = Figure(figsize=(12, 8.6), layout="constrained")
    figure.suptitle(
        f"A photo and a feature map of it at a rate of {RATE}; kept values scaled up, then clipped"
    )
    axes = figure.subplots(3, 4)
    keys = iter(jax.random.split(jax.random.key(SEED), 3 * 4))
    for ax, panel in zip(axes[:2].flat, PHOTO_PANELS, strict=True):
        _title(ax, panel)
        ax.imshow(np.clip(panel.apply(next(keys), image)[0], 0, 1))
    for ax, panel in zip(axes[2], FEATURE_PANELS, strict=True):
        _title(ax, panel)
        ax.imshow(_tiles(panel.apply(next(keys), features)[0]), cmap="magma", vmin=0, vmax=1)
    figure.savefig(path, dpi=dpi)


def _title(ax: Axes, panel: Panel) -> None:
    ax.set_title(panel.title, fontsize=10, family="monospace")
    ax.set_xlabel(panel.drops)
    ax.set_xticks([])
    ax.set_yticks([])


def _tiles(features: jax.Array) -> np.ndarray:
    """Arranges four channels in two rows of two, with a light line between them."""
    tiles = [np.pad(features[..., c], 1, constant_values=1) for c in range(4)]
    return np.block([tiles[:2], tiles[2:]])


if __name__ == "__main__":
    folder = Path(__file__).parents[1] / "results"
    folder.mkdir(exist_ok=True)
    save_gallery(folder / "gallery.png")
