"""The task of the sensors."""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from .. import checks
from ..categorical import Classifying, accuracy
from ..task import Data, Split
from . import failure_figure, windows
from .models import REGULARIZERS, SensorNetwork
from .recordings import AXES, RATE, SENSORS

SIZES = ("length", "windows", "validation_people")
ACCURACY = accuracy("linear classifier")


def of_sensor(name: str, length: int) -> np.ndarray:
    """Returns which of the values [time, axis] of a window are those of a sensor."""
    return np.broadcast_to(np.isin(np.arange(AXES), np.arange(AXES)[SENSORS[name]]), (length, AXES))


def middle_second(length: int) -> np.ndarray:
    """Returns which of the values [time, axis] of a window are in its middle second."""
    inside = np.abs(np.arange(length) - (length - 1) / 2) < RATE / 2
    return np.broadcast_to(inside[:, None], (length, AXES))


FAILURES: dict[str, Callable[[int], np.ndarray]] = {
    "the accelerometer failed": partial(of_sensor, "accelerometer"),
    "the gyroscope failed": partial(of_sensor, "gyroscope"),
    "a second lost": middle_second,
}
"""Maps what fails in a test to a function of the length of a window: which values are lost."""


class Sensors(Classifying):
    """Names the exercise of a window. The score is the accuracy."""

    metric = ACCURACY
    measures: ClassVar = {
        name: ACCURACY._replace(name=f"accuracy with {name}", baseline="") for name in FAILURES
    }
    regularizers: ClassVar = {name: None if name == "none" else "none" for name in REGULARIZERS}
    figures: ClassVar = {"failures.png": failure_figure.draw}

    @staticmethod
    def check(config: ConfigDict) -> None:
        """Raises InputError for an invalid field."""
        checks.has("config", config, ("features",))
        checks.has("config.data", config.data, ("path", *SIZES))
        checks.text("config.data", config.data, ("path",))
        checks.at_least(1, "config", config, ("features",))
        checks.at_least(1, "config.data", config.data, SIZES)

    @staticmethod
    def load(data: ConfigDict) -> Data:
        """Reads the recordings, and leaves out each person in turn."""
        return windows.load(data)

    def network(self, regularizer: str) -> nn.Module:
        """Returns a network of the config's size."""
        config, classes = self.config, len(self.data.record["exercises"])
        return SensorNetwork(config.features, classes, regularizer, config.dtype)

    def changed_tests(self, test: Split) -> dict[str, Split]:
        """Returns the test part after each failure, with 0 in what is lost."""
        (x,) = test.inputs
        places = {name: lost(x.shape[-2]) for name, lost in FAILURES.items()}
        return {
            name: test._replace(inputs=(jnp.where(place, 0.0, x),))
            for name, place in places.items()
        }
