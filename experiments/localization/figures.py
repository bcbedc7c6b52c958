"""Dressed figures: garments, how they are placed in a scene, and their keypoints."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

KEYPOINTS = ("collar", "left shoulder", "right shoulder", "waist", "left foot", "right foot", "bag")
TOPS, TROUSERS, SHOES, BAGS = (0, 2, 4, 6), (1,), (5, 7, 9), (8,)
"""The classes of Fashion-MNIST. Digits of the same number take their place."""


class Placement(NamedTuple):
    """Where a garment lies: the square of its image has this center, size and angle.

    Attributes:
      center: row and column in pixels of the scene.
      size: the side of the square in pixels.
      angle: in radians.
      mirrored: whether left and right of the garment are exchanged.
    """

    center: np.ndarray
    size: float
    angle: float
    mirrored: bool = False

    @property
    def _axes(self) -> np.ndarray:
        """The garment's axes in the scene, as columns."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        mirror = np.diag((1.0, -1.0 if self.mirrored else 1.0))
        return self.size * np.array([[cos, -sin], [sin, cos]]) @ mirror

    def in_scene(self, places: np.ndarray) -> np.ndarray:
        """Maps places of the square, [..., 2] from -0.5 to 0.5, to pixels of the scene."""
        return self.center + places @ self._axes.T

    def paste(self, scene: np.ndarray, garment: np.ndarray, brightness: float) -> None:
        """Adds the garment to the scene. Its pixels of 0 let the scene through."""
        reach = self.size / np.sqrt(2)  # from the center to a corner of the square
        low = np.clip(np.floor(self.center - reach), 0, scene.shape).astype(int)
        high = np.clip(np.ceil(self.center + reach) + 1, 0, scene.shape).astype(int)
        window = scene[low[0] : high[0], low[1] : high[1]]
        matrix = len(garment) * np.linalg.inv(self._axes)
        offset = (len(garment) - 1) / 2 + matrix @ (low - self.center)
        covers, light = (
            ndimage.affine_transform(values, matrix, offset, window.shape, np.float32, order=1)
            for values in ((garment > 0).astype(np.float32), garment)
        )
        window *= 1 - covers
        window += brightness * light


class Part(NamedTuple):
    """A garment of a figure, in units of the torso.

    Attributes:
      classes: the classes that it may have.
      center: its center, as (row, column) from the center of the torso.
      size: the side of its square.
      keypoints: places of its square from -0.5 to 0.5, by keypoint.
      mirrored: whether left and right of the garment are exchanged.
    """

    classes: tuple[int, ...]
    center: tuple[float, float]
    size: float
    keypoints: dict[str, tuple[float, float]]
    mirrored: bool = False


PARTS = (  # from back to front
    Part(SHOES, (1.5, -0.22), 0.5, {"left foot": (0.0, 0.0)}),
    Part(SHOES, (1.5, 0.22), 0.5, {"right foot": (0.0, 0.0)}, mirrored=True),
    Part(TROUSERS, (0.9, 0.0), 1.1, {"waist": (-0.42, 0.0)}),
    Part(
        TOPS,
        (0.0, 0.0),
        1.0,
        {
            "collar": (-0.42, 0.0),
            "left shoulder": (-0.32, -0.28),
            "right shoulder": (-0.32, 0.28),
        },
    ),
    Part(BAGS, (0.4, 0.6), 0.5, {"bag": (0.0, 0.0)}),
)
LEAN, BEND, SHIFT, STRETCH = 0.2, 0.2, 0.06, 0.15
"""The most that a figure leans and a part bends, in radians; a part's shift in torsos; and the
share by which a part is larger or smaller."""


class Figure(NamedTuple):
    """A figure in a scene.

    Attributes:
      parts: placements, in the order of PARTS.
      keypoints: pixels of the scene, [keypoint, 2].
    """

    parts: list[Placement]
    keypoints: np.ndarray


def pose(rng: np.random.Generator, torso: float, side: int) -> Figure:
    """Draws a figure whose torso has a size in pixels, with all keypoints inside of a square."""
    lean, left = rng.uniform(-LEAN, LEAN), bool(rng.integers(2))
    whole = Placement(np.zeros(2), torso, lean)
    parts, found = [], {}
    for part in PARTS:
        center = np.array(part.center) + rng.uniform(-SHIFT, SHIFT, 2)
        if part.classes == BAGS and left:
            center[1] = -center[1]
        size = torso * part.size * rng.uniform(1 - STRETCH, 1 + STRETCH)
        angle = lean + rng.uniform(-BEND, BEND)
        parts.append(Placement(whole.in_scene(center), size, angle, part.mirrored))
        for name, place in part.keypoints.items():
            found[name] = parts[-1].in_scene(np.array(place))
    keypoints = np.stack([found[name] for name in KEYPOINTS])
    low, high = -keypoints.min(0), side - 1 - keypoints.max(0)
    shift = rng.uniform(low, np.maximum(low, high))
    moved = [part._replace(center=part.center + shift) for part in parts]
    return Figure(moved, keypoints + shift)
