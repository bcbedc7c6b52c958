"""The task of knowing when a class may be wrong: measures of confidence, with Monte Carlo dropout.

Images are clean or shifted. Probabilities are of one pass without dropout, or the mean of passes
with dropout.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from flax_spatialdrop import monte_carlo

from .. import checks
from ..task import Metric, Predict
from . import calibration_figure, confidence
from .dataset import normalize
from .shifts import SHIFTS, shifted
from .task import Classification

IMAGES_AT_ONCE = 200
POINTS = 20
"""Of the curve of risk over coverage that the results keep."""

QUANTITIES = {
    "accuracy": Metric("accuracy", "%", "points", 100, 1, True),
    "NLL": Metric("NLL", "nats", "nats", 1, 3, False),
    "ECE": Metric("ECE", "%", "points", 100, 1, False),
    "area": Metric("area under risk over coverage", "%", "points", 100, 1, False),
}
"""What is measured of probabilities. NLL is the negative log-likelihood, and ECE the expected
calibration error."""
IMAGES = ("clean", "shifted")
WAYS = ("one pass", "passes")


def name_of(quantity: str, images: str, way: str) -> str:
    """Returns the name of a measure in the results."""
    return f"{quantity}, {images}, {way}"


class Calibration(Classification):
    """Classifies images, and measures how honest the probabilities are.

    The measures are of clean and of shifted test images, by one pass without dropout and by passes
    with dropout. A measure of "shifted" images is the mean over the shifts.
    """

    measures: ClassVar = {
        name_of(key, images, way): metric._replace(name=f"{metric.name} ({images}, {way})")
        for key, metric in QUANTITIES.items()
        for images in IMAGES
        for way in WAYS
    }
    figures: ClassVar = {"calibration.png": calibration_figure.draw}

    def __init__(self, config: ConfigDict):
        super().__init__(config)
        record, test = self.data.record, self.data.test
        count = config.data.measured_images or len(test.targets)
        pixels = test.inputs[0][:count, ..., 0] * record["deviation"] + record["mean"]
        clean = np.round(pixels).astype(np.uint8)
        self._images = {"clean": clean, **shifted(clean)}
        self._labels = jnp.asarray(test.targets[:count])

    @staticmethod
    def check(config: ConfigDict) -> None:
        """Raises InputError for an invalid field."""
        Classification.check(config)
        checks.has("config", config, ("passes",))
        checks.has("config.data", config.data, ("measured_images",))
        checks.at_least(2, "config", config, ("passes",))
        checks.at_least(0, "config.data", config.data, ("measured_images",))

    def measure(self, predict: Predict, rate: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        """Returns every measure, those of each shift, and curves of risk over coverage."""
        measured, curves = {}, {}
        keys = jax.random.split(key, len(self._images))
        for (images, pixels), its_key in zip(self._images.items(), keys, strict=True):
            for way, probabilities in self._probabilities(predict, pixels, its_key).items():
                risk = confidence.risk_coverage(probabilities, self._labels)
                values = (
                    confidence.accuracy(probabilities, self._labels),
                    confidence.negative_log_likelihood(probabilities, self._labels),
                    confidence.calibration_error(probabilities, self._labels),
                    risk.mean(),
                )
                for quantity, value in zip(QUANTITIES, values, strict=True):
                    measured[name_of(quantity, images, way)] = value
                curves[name_of("risk", images, way)] = points(risk)
        for table, quantities in ((measured, QUANTITIES), (curves, ("risk",))):
            for quantity in quantities:
                for way in WAYS:
                    of_shifts = [table[name_of(quantity, shift, way)] for shift in SHIFTS]
                    table[name_of(quantity, "shifted", way)] = jnp.stack(of_shifts).mean(0)
        return {**measured, **curves}

    def _probabilities(
        self, predict: Predict, pixels: np.ndarray, key: jax.Array
    ) -> dict[str, jax.Array]:
        """Returns the probabilities of each class by both ways: [image, class]."""
        size, record = min(IMAGES_AT_ONCE, len(pixels)), self.data.record
        padding = [(0, -len(pixels) % size), (0, 0), (0, 0)]
        batches = np.pad(pixels, padding).reshape(-1, size, *pixels.shape[1:])

        def of_batch(batch: tuple[Any, jax.Array]) -> tuple[jax.Array, jax.Array]:
            inputs = (normalize(batch[0], record["mean"], record["deviation"]),)

            def one(key: jax.Array) -> Any:
                return predict(inputs, key=key)

            passes = monte_carlo(one, batch[1], self.config.passes, outputs="logits")
            return jax.nn.softmax(predict(inputs)), passes.mean

        both = jax.lax.map(of_batch, (batches, jax.random.split(key, len(batches))))
        flat = [part.reshape(-1, part.shape[-1])[: len(pixels)] for part in both]
        return dict(zip(WAYS, flat, strict=True))


def points(risk: jax.Array) -> jax.Array:
    """Returns the risk at equal steps of coverage, the last of which is 1."""
    places = np.ceil(np.arange(1, POINTS + 1) * len(risk) / POINTS).astype(int) - 1
    return risk[places]
