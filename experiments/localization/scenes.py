"""Composes scenes: a dressed figure among clutter on a part of a photo, and partly hidden."""

from functools import cache
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_sample_image

from ..images.sources import Images
from .figures import PARTS, Placement, pose

CLASSES = 10
COLUMNS = {"train": (0.0, 0.5), "validation": (0.5, 0.75), "test": (0.75, 1.0)}
"""The parts of the data, and the columns of the photos that each takes its backgrounds from."""
WIDEST = 160
"""The number of these columns in the test part, which bounds the side of a scene."""
DIMMED = 0.5
"""The brightness of the photos. Without it, even 1,000 scenes teach a small network little."""
TORSO = (0.26, 0.36)
"""The smallest and the largest torso, in sides of the scene."""
CLUTTER, HIDDEN = 3, 2
"""The most garments behind the figure, and the most rectangles in front of it."""


class Scene(NamedTuple):
    """A scene and its figure.

    Attributes:
      pixels: [row, column], standardized by `standardized`.
      keypoints: [keypoint, 2], rows and columns of pixels.
      torso: the size of the figure's torso in pixels.
    """

    pixels: np.ndarray
    keypoints: np.ndarray
    torso: float


class Wardrobe(NamedTuple):
    """The garments of a part of the data.

    Attributes:
      part: the part, one of COLUMNS, which also has backgrounds of its own.
      images: uint8 [garment, row, column].
      of_class: the indices of each class.
    """

    part: str
    images: np.ndarray
    of_class: tuple[np.ndarray, ...]

    def paste(
        self, rng: np.random.Generator, pixels: np.ndarray, place: Placement, classes: tuple
    ) -> None:
        """Adds a garment of one of the classes to a scene."""
        garment = self.images[rng.choice(self.of_class[rng.choice(classes)])]
        place.paste(pixels, garment / np.float32(255), rng.uniform(0.6, 1.0))

    def background(self, rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
        """Cuts a background out of a photo."""
        photo = photos()[rng.integers(2)]
        first, last = (round(share * photo.shape[1]) for share in COLUMNS[self.part])
        most = min(photo.shape[0] // rows, (last - first) // columns)
        step = rng.integers(1, most + 1)  # a larger step makes the photo smaller
        top = rng.integers(photo.shape[0] - step * rows + 1)
        left = rng.integers(first, last - step * columns + 1)
        cut = photo[top : top + step * rows : step, left : left + step * columns : step]
        return DIMMED * (cut[:, ::-1] if rng.integers(2) else cut)


def wardrobes(images: Images) -> dict[str, Wardrobe]:
    """Divides garments among the parts of the data. A sixth of those for training validates."""
    train, test = images.train, images.test
    sixth = np.arange(len(train.labels)) % 6 == 0
    parts = {
        "train": (train.images[~sixth], train.labels[~sixth]),
        "validation": (train.images[sixth], train.labels[sixth]),
        "test": (test.images, test.labels),
    }
    return {
        part: Wardrobe(
            part, pixels, tuple(np.flatnonzero(labels == k) for k in tuple(range(CLASSES)))
        )
        for part, (pixels, labels) in parts.items()
    }


@cache
def photos() -> tuple[np.ndarray, ...]:
    """Returns two photos in gray, from 0 to 1."""
    names = ("china.jpg", "flower.jpg")
    return tuple(load_sample_image(name).mean(-1, dtype=np.float32) / 255 for name in names)


def compose(rng: np.random.Generator, wardrobe: Wardrobe, side: int) -> Scene:
    """Composes a scene of side x side pixels."""
    pixels = wardrobe.background(rng, side, side)
    torso = side * rng.uniform(*TORSO)
    for _ in range(rng.integers(CLUTTER + 1)):
        center, size, angle = rng.uniform(0, side, 2), rng.uniform(0.5, 1.2), rng.uniform(-2, 2)
        wardrobe.paste(rng, pixels, Placement(center, torso * size, angle), tuple(range(CLASSES)))
    figure = pose(rng, torso, side)
    for part, placement in zip(PARTS, figure.parts, strict=True):
        wardrobe.paste(rng, pixels, placement, part.classes)
    for _ in range(rng.integers(HIDDEN + 1)):
        sides = np.ceil(torso * rng.uniform(0.2, 0.6, 2)).astype(int)
        corner = figure.keypoints.mean(0) + torso * rng.uniform(-1, 1, 2)
        top, left = np.clip(np.round(corner).astype(int), 0, side - sides)
        pixels[top : top + sides[0], left : left + sides[1]] = wardrobe.background(rng, *sides)
    return Scene(standardized(pixels), figure.keypoints, torso)


def standardized(pixels: np.ndarray) -> np.ndarray:
    """Shifts and scales an image to mean 0 and deviation 1. Dark images stay nearly flat."""
    return ((pixels - pixels.mean()) / (pixels.std() + 0.05)).astype(np.float32)
