"""A small file of weather, and a config for it."""

import numpy as np
import pandas as pd
import pytest

from configs.weather_forecast import get_config
from experiments.forecasting.weather import AIRPORTS, CHANNELS

HOURS = 400


def make_rows(hours=HOURS):
    """Makes rows of a CSV file: random walks of all channels, and a daily cycle of temperature."""
    rng = np.random.default_rng(0)
    times = pd.date_range("2030-01-01", periods=hours, freq="h", tz="UTC")
    parts = []
    for airport in AIRPORTS:
        part = pd.DataFrame({"origin": airport, "time_hour": times})
        for channel in CHANNELS:
            part[channel] = np.round(rng.normal(50, 5, hours), 2)
        part["temp"] += 10 * np.sin(np.arange(hours) / 24)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def make_config(path):
    config = get_config("smoke")
    config.update({"hidden": 8, "batch_size": 8, "rates": (0.1, 0.5), "epochs": 2})
    config.data.update({"path": str(path), "hours": 12, "ahead": 6, "train_stride": 4})
    return config


@pytest.fixture
def rows():
    return make_rows()


@pytest.fixture(scope="session")
def weather_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("weather") / "weather.csv"
    make_rows().to_csv(path, index=False)
    return path


@pytest.fixture
def forecast_config(weather_path):
    return make_config(weather_path)
