"""The data of the task: composed scenes, and the score of a mean figure."""

import base64
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ..images import sources
from ..task import Data, Parts, Split
from .figures import KEYPOINTS
from .scenes import COLUMNS, Scene, compose, wardrobes

RADIUS = 0.2
"""The distance in torsos within which a keypoint is found."""
FARTHEST = 0.5
"""The last distance of the curve of detection."""


def load(data: ConfigDict) -> Data:
    """Composes the scenes of a config's `data` part. Few scenes are the first ones of more.

    Each seed has scenes of its own for training. Those for validation and the test are shared.
    """
    images = sources.read(data.source, data.path)
    of_part = wardrobes(images)

    def composed(part: str, number: int, of_set: int = 0) -> list[Scene]:
        keys = ((data.seed, list(COLUMNS).index(part), of_set, index) for index in range(number))
        return [compose(np.random.default_rng(key), of_part[part], data.side) for key in keys]

    test_scenes = composed("test", data.test_scenes)
    validation, test = split(composed("validation", data.validation_scenes)), split(test_scenes)
    repeats = max(1, data.epoch_scenes // data.train_scenes)
    folds = tuple(
        Parts(split(composed("train", data.train_scenes, of_set) * repeats), validation, test)
        for of_set in range(data.train_sets)
    )
    record = {
        "images": images.title,
        "train_scenes": data.train_scenes,
        "farthest": FARTHEST,
        "shown": [shown(scene) for scene in test_scenes[: data.shown_scenes]],
    }
    text = describe(data, images.title)
    return Data(*folds[0], baseline(*folds[0]), text, record, folds)


def baseline(train: Split, validation: Split, test: Split) -> float:
    """Returns the test score of the mean keypoints of the training scenes."""
    apart = np.linalg.norm(test.targets[..., :2] - train.targets[..., :2].mean(0), axis=-1)
    return float(np.mean(apart < RADIUS * test.targets[..., 2]))


def split(scenes: list[Scene]) -> Split:
    """Returns scenes as examples. A target is a keypoint's row and column, and the torso's size."""
    keypoints = np.stack([scene.keypoints for scene in scenes])
    torsos = np.broadcast_to([[[scene.torso]] for scene in scenes], (*keypoints.shape[:2], 1))
    targets = np.concatenate([keypoints, torsos], -1).astype(np.float32)
    pixels = np.stack([scene.pixels for scene in scenes])
    return Split((pixels,), targets, np.ones(targets.shape[:2], bool))


def shown(scene: Scene) -> dict[str, Any]:
    """Returns a scene as JSON: the bytes of its pixels in base64, and its keypoints."""
    low, high = scene.pixels.min(), scene.pixels.max()
    pixels = np.round(255 * (scene.pixels - low) / (high - low)).astype(np.uint8)
    return {
        "pixels": base64.b64encode(pixels.tobytes()).decode(),
        "keypoints": np.round(scene.keypoints, 2).tolist(),
    }


def describe(data: ConfigDict, images: str) -> str:
    """Describes the data."""
    return (
        f"{data.train_scenes:,} scenes for training, other ones for each seed, "
        f"{data.validation_scenes:,} for validation and {data.test_scenes:,} for the test, "
        f"composed of {images} and two photos. Each has a figure of five garments with "
        f"{len(KEYPOINTS)} keypoints. The parts share no garment and no piece of a photo."
    )
