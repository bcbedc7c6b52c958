"""Turns images into examples: splits off validation images, cuts the parts, and normalizes."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ..errors import InputError
from ..task import Data, Split
from . import sources
from .sources import Images, Part

LIMITS = ("train_images", "validation_images", "test_images", "split_seed")


def load(data: ConfigDict) -> Data:
    """Loads the images of a config's `data` part, and turns them into examples."""
    images = sources.read(data.source, data.path)
    parts = divide(images, data)
    mean, deviation = parts["train"].images.mean(), parts["train"].images.std()
    train, validation, test = (examples(part, mean, deviation) for part in parts.values())
    record = {
        **{name: len(part.labels) for name, part in parts.items()},
        "title": images.title,
        "classes": images.classes,
        "side": images.train.images.shape[1],
        "mean": float(mean),
        "deviation": float(deviation),
    }
    return Data(train, validation, test, nearest_mean(train, test), describe(record), record)


def divide(images: Images, data: ConfigDict) -> dict[str, Part]:
    """Cuts the parts. Fewer training images are a part of more, with the same split_seed."""
    order = np.random.default_rng(data.split_seed).permutation(len(images.train.labels))
    validation, rest = np.split(order, [data.validation_images])
    train = rest[: data.train_images] if data.train_images else rest
    if len(train) < max(1, data.train_images) or not len(validation):
        raise InputError(
            f"{images.title} has {len(order)} images for training and validation, and each needs "
            f"some: got {data.train_images or 'all'} and {data.validation_images}"
        )
    chosen = {
        name: rows(images.train, of) for name, of in (("train", train), ("validation", validation))
    }
    test = slice(data.test_images or None)
    return {**chosen, "test": rows(images.test, test)}


def rows(part: Part, which: Any) -> Part:
    """Returns some images and their labels."""
    return Part(part.images[which], part.labels[which])


def examples(part: Part, mean: float, deviation: float) -> Split:
    """Returns images [image, row, column, 1] in deviations from the mean."""
    return Split(
        (normalize(part.images, mean, deviation),), part.labels, np.ones(len(part.labels), bool)
    )


def normalize(images: Any, mean: float, deviation: float) -> Any:
    """Converts bytes [..., row, column] to deviations from the mean [..., row, column, 1]."""
    return ((images.astype(np.float32) - np.float32(mean)) / np.float32(deviation))[..., None]


def nearest_mean(train: Split, test: Split) -> float:
    """Returns the accuracy of the class whose mean image is nearest."""
    seen, asked = (part.inputs[0].reshape(len(part.targets), -1) for part in (train, test))
    classes = np.unique(train.targets)
    means = np.stack([seen[train.targets == label].mean(0) for label in classes])
    distances = (means**2).sum(1) - 2 * asked @ means.T
    return float(np.mean(classes[distances.argmin(1)] == test.targets))


def describe(record: dict[str, Any]) -> str:
    """Describes the images in sentences."""
    side, classes = record["side"], len(record["classes"])
    return (
        f"{record['title']}, {side} x {side} pixels, {classes} classes: train {record['train']} "
        f"images, validation {record['validation']}, test {record['test']}. The baseline "
        "takes the class whose mean image is nearest."
    )
