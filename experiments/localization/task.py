"""The localization task."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from .. import checks, rate_schedule
from ..errors import InputError
from ..images.sources import SOURCES
from ..task import Array, Data, Metric, Predict, Task, batches
from ..train import steps_per_epoch
from . import dataset, detection_figure, pretraining, study_figure
from .figures import KEYPOINTS
from .heat_maps import bumps, peaks
from .models import REGULARIZERS, STRIDE, Localizer
from .scenes import WIDEST

SIZES = ("features", "width", "block_size")
SCENES = ("train_sets", "train_scenes", "validation_scenes", "test_scenes")
SMALLEST = 32
DISTANCES = 26
"""The number of distances of the curve of detection."""
SCENES_AT_ONCE = 250
"""In the measure of detection."""


class Localization(Task):
    """Finds the keypoints of a figure. The score is the share found within a radius."""

    metric = Metric(
        name="detection rate",
        unit="%",
        difference_unit="points",
        scale=100,
        digits=1,
        higher_is_better=True,
        baseline="mean figure",
    )
    regularizers: ClassVar = {name: None if name == "none" else "none" for name in REGULARIZERS}
    figures: ClassVar = {"detection.png": detection_figure.draw}
    study_figures: ClassVar = {"results.png": study_figure.draw}

    def __init__(self, config: ConfigDict):
        super().__init__(config)
        data, before = config.data, config.pretraining
        self._trunk = pretraining.trunk(
            *(data.source, data.path, before.images, before.epochs, config.features)
        )

    @staticmethod
    def check(config: ConfigDict) -> None:
        """Raises InputError for an invalid field."""
        checks.has("config", config, (*SIZES, "pretraining"))
        checks.at_least(1, "config", config, SIZES)
        checks.has("config.pretraining", config.pretraining, ("images", "epochs"))
        checks.at_least(1, "config.pretraining", config.pretraining, ("images", "epochs"))
        part, data = "config.data", config.data
        fields = ("source", "path", "seed", "side", "epoch_scenes", "shown_scenes")
        checks.has(part, data, (*fields, *SCENES))
        checks.one_of(f"{part}.source", data.source, SOURCES)
        checks.text(part, data, ("path",))
        checks.at_least(0, part, data, ("seed", "epoch_scenes"))
        checks.at_least(1, part, data, (*SCENES, "shown_scenes"))
        checks.at_least(SMALLEST, part, data, ("side",))
        if data.side > WIDEST or data.side % (4 * STRIDE):
            raise InputError(
                f"{part}.side must be a multiple of {4 * STRIDE} and at most {WIDEST}: "
                f"got {data.side}"
            )

    @staticmethod
    def load(data: ConfigDict) -> Data:
        """Composes the scenes."""
        return dataset.load(data)

    def network(self, regularizer: str) -> nn.Module:
        """Returns a network of the config's size."""
        config = self.config
        sizes = len(KEYPOINTS), config.features, config.width, regularizer, config.block_size
        return Localizer(*sizes, config.dtype)

    def first_params(self, params):
        """Returns the parameters with the pretrained trunk."""
        return {**params, "trunk": self._trunk}

    def rate_schedule(self, regularizer: str) -> ConfigDict:
        """Returns the schedule of a rate, which grows to the end of training or is the config's."""
        if regularizer != "DropBlock growing":
            return super().rate_schedule(regularizer)
        steps = steps_per_epoch(len(self.data.train.targets), self.config.batch_size)
        return rate_schedule.growing(self.config.epochs * steps)

    @staticmethod
    def losses(outputs: jax.Array, targets: Array) -> jax.Array:
        """Returns the squared error of the heat map of every keypoint."""
        wanted = bumps(targets[..., :2], *outputs.shape[-3:-1])
        return ((outputs - wanted) ** 2).sum((-3, -2))

    @classmethod
    def points(cls, outputs: jax.Array, targets: Array) -> jax.Array:
        """Returns whether every keypoint is found."""
        return distances(outputs, targets) < dataset.RADIUS

    @staticmethod
    def score(mean_points: jax.Array) -> jax.Array:
        """Returns the share of keypoints that are found."""
        return mean_points

    def measure(self, predict: Predict, rate: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        """Returns the curve of detection over distance, and the keypoints that the figure shows."""
        test = self.data.test
        parts = batches(test, SCENES_AT_ONCE)
        limits = jnp.linspace(0, dataset.FARTHEST, DISTANCES)

        def found(part):
            apart = distances(predict(part.inputs), part.targets)[..., None]
            return (part.counted[..., None] & (apart < limits[None, None])).sum((0, 1))

        curve = jax.lax.map(found, parts).sum(0) / test.targets[..., 0].size
        shown = test.inputs[0][: len(self.data.record["shown"])]
        return {"curve": curve, "keypoints": peaks(predict((shown,)))}


def distances(outputs: jax.Array, targets: Array) -> jax.Array:
    """Returns how far keypoints are from the true ones, in torsos: [..., keypoint]."""
    return jnp.linalg.norm(peaks(outputs) - targets[..., :2], axis=-1) / targets[..., 2]
