"""Tiles of scikit-learn's two photos, as maps."""

import numpy as np
from sklearn.datasets import load_sample_image

from ..errors import InputError
from .prediction import Maps

PHOTOS = ("china.jpg", "flower.jpg")
WIDTH = 320
"""The width of a half of a photo, which is less than its height."""


def check(size: int, step: int) -> None:
    """Raises InputError for tiles that are larger than a half of a photo."""
    if _extent(size, step) > WIDTH:
        raise InputError(
            f"a tile must fit into a half of a photo, so (config.photo_size - 1) * "
            f"config.photo_step must be less than {WIDTH}: got {size} and {step}"
        )


def tiles(count: int, size: int, step: int, rng: np.random.Generator) -> Maps:
    """Cuts `count` tiles of every `step`-th pixel, at random places of both photos.

    Predictors are fitted on the left halves of the photos, and tried on the right halves.
    """
    photos = [load_sample_image(name) / np.float32(255) for name in PHOTOS]
    parts = zip(*(np.array_split(photo, 2, axis=1) for photo in photos), strict=True)
    fitted, others = (
        np.stack([_tile(halves[index % len(halves)], size, step, rng) for index in range(count)])
        for halves in parts
    )
    return Maps(fitted, others)


def _tile(photo: np.ndarray, size: int, step: int, rng: np.random.Generator) -> np.ndarray:
    """Cuts a tile at a random place."""
    extent = _extent(size, step)
    row, column = (rng.integers(length - extent + 1) for length in photo.shape[:2])
    return photo[row : row + extent : step, column : column + extent : step]


def _extent(size: int, step: int) -> int:
    """Returns the pixels of a photo that a tile spans."""
    return (size - 1) * step + 1
