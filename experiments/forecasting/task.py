"""The forecasting task."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from .. import checks
from ..errors import InputError
from ..task import Array, Data, Metric, Predict, Task
from . import forecast_figure, windows
from .models import (
    CNN_REGULARIZERS,
    LSTM_REGULARIZERS,
    ConvolutionalForecaster,
    RecurrentForecaster,
)

SIZES = ("hours", "ahead", "train_stride", "shown_hours")
SHARES = ("train_share", "validation_share")


class Forecasting(Task):
    """Forecasts the change of a temperature. The score is the root mean squared error."""

    metric = Metric(
        name="RMSE",
        unit="°F",
        difference_unit="°F",
        scale=1,
        digits=2,
        higher_is_better=False,
        baseline="persistence",
    )
    regularizers: ClassVar = {
        **{name: None if name == "none" else "none" for name in LSTM_REGULARIZERS},
        "CNN none": None,
        "CNN channels": "CNN none",
    }
    figures: ClassVar = {"forecast.png": forecast_figure.draw}

    @staticmethod
    def check(config: ConfigDict) -> None:
        """Raises InputError for an invalid field."""
        checks.has("config", config, ("hidden",))
        checks.has("config.data", config.data, ("path", "max_fill", *SIZES, *SHARES))
        checks.text("config.data", config.data, ("path",))
        checks.at_least(1, "config", config, ("hidden",))
        checks.at_least(1, "config.data", config.data, SIZES)
        checks.at_least(0, "config.data", config.data, ("max_fill",))
        for name in SHARES:
            checks.rate(f"config.data.{name}", config.data[name])
        train, validation = (config.data[name] for name in SHARES)
        if train + validation >= 1:
            raise InputError(
                "config.data.train_share and validation_share must sum to less than 1, to leave a "
                f"test part: got {train} and {validation}"
            )

    @staticmethod
    def load(data: ConfigDict) -> Data:
        """Reads the weather and splits it by time."""
        return windows.load(data)

    def network(self, regularizer: str) -> nn.Module:
        """Returns a network of the config's size."""
        sizes = self.config.hidden, self.data.record["deviation_of_change"]
        if regularizer in CNN_REGULARIZERS:
            channels = regularizer == "CNN channels"
            return ConvolutionalForecaster(*sizes, channels, dtype=self.config.dtype)
        return RecurrentForecaster(*sizes, LSTM_REGULARIZERS[regularizer], self.config.dtype)

    @staticmethod
    def losses(outputs: jax.Array, targets: Array) -> jax.Array:
        """Returns the squared error of every forecast."""
        return (outputs - targets) ** 2

    @staticmethod
    def score(mean_points: jax.Array) -> jax.Array:
        """Returns the root mean squared error."""
        return jnp.sqrt(mean_points)

    def measure(self, predict: Predict, rate: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        """Returns the forecasts that the figure shows."""
        shown = len(self.data.record["shown"]["hours"])
        return {"shown": predict((self.data.test.inputs[0][:shown],))}
