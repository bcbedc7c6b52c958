"""Shifts test images away from those of the training: rotated, noisy or blurred."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

ANGLE = 20.0
"""In degrees, to the left or to the right."""
NOISE = 50.0
"""The standard deviation of the noise of a pixel, whose values are 0 to 255."""
BLUR = 1.0
"""The standard deviation of the blur, in pixels of 28 x 28 images."""


def rotate(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rotates each image [image, row, column] to one side or the other."""
    left = rng.random(len(images)) < 0.5
    turned = [
        ndimage.rotate(images, angle, axes=(2, 1), reshape=False, order=1)
        for angle in (ANGLE, -ANGLE)
    ]
    return np.where(left[:, None, None], *turned)


def add_noise(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds normal noise to each pixel."""
    return images + NOISE * rng.standard_normal(images.shape)


def blur(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blurs images by a Gaussian filter. There is nothing to draw."""
    width = BLUR * images.shape[1] / 28
    return ndimage.gaussian_filter(images, (0, width, width))


SHIFTS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "rotation": rotate,
    "noise": add_noise,
    "blur": blur,
}


def shifted(images: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns every shift of images of bytes [image, row, column], as bytes."""
    return {
        name: np.clip(
            np.round(shift(images.astype(np.float64), np.random.default_rng(seed))), 0, 255
        ).astype(np.uint8)
        for name, shift in SHIFTS.items()
    }
