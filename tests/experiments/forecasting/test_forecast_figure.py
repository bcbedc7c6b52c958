import numpy as np
import pytest
from matplotlib import pyplot as plt

from experiments.forecasting import forecast_figure
from experiments.forecasting.task import Forecasting

from ..conftest import diverge


@pytest.fixture
def forecast_results(results):
    """Three hours with true values of 50, 52, 54, forecast from 40, 41, 42."""
    hours = [f"2030-01-01 0{hour}:00:00+00:00" for hour in range(3)]
    results["data"]["shown"] = {"hours": hours, "last": [40, 41, 42], "truth": [50, 52, 54]}
    results["metric"] = Forecasting.metric._asdict()
    results["config"]["data"] = {"ahead": 24}
    for name, shown in (("none", [9, 9, 9]), ("Dropout", [10, 11, 15])):
        for run in results["regularizers"][name]["runs"]:
            run["measures"]["shown"] = shown if run["seed"] == 0 else [0, 0, 0]
    return results


def test_forecasts_and_errors_are_those_of_the_results(forecast_results):
    upper, lower = forecast_figure.draw(forecast_results).axes
    lines = {line.get_label(): list(line.get_ydata()) for line in upper.lines}
    assert lines == {
        "truth": [50, 52, 54],
        "persistence": [40, 41, 42],
        "none": [49, 50, 51],
        "Dropout": [50, 52, 57],
    }
    errors = {line.get_label(): list(line.get_ydata()) for line in lower.lines}
    assert errors["none: RMSE 2.16"] == [-1, -2, -3]
    assert errors["Dropout: RMSE 1.73"] == [0, 0, 3]
    assert "24 h ahead" in upper.get_title()


def test_drawn_beside_the_plain_network_is_the_one_that_validates_best(forecast_results):
    finished = forecast_results["regularizers"]
    finished["worse"] = {**finished["Dropout"], "runs": []}
    finished["worse"]["runs"] = [
        {**run, "validation_score": run["validation_score"] + 1, "test_score": 0.0}
        for run in finished["Dropout"]["runs"]
    ]
    assert forecast_figure.drawn(forecast_results) == ["none", "Dropout"]
    del finished["Dropout"], finished["none"]
    assert forecast_figure.drawn(forecast_results) == ["worse"]


def test_draws_a_picture(forecast_results, tmp_path):
    forecast_figure.draw(forecast_results).savefig(tmp_path / "forecast.png", dpi=150)
    height, width, _ = plt.imread(tmp_path / "forecast.png").shape
    assert width > 2 * height > 800
    assert np.isfinite(height)


@pytest.mark.parametrize("names", [["none"], ["Dropout"], ["none", "Dropout"]])
def test_what_diverged_is_named_and_not_drawn(forecast_results, names):
    for name in names:
        diverge(forecast_results, name)
    upper, lower = forecast_figure.draw(forecast_results).axes
    for name in names:
        assert f"{name}: diverged" in [line.get_label() for line in upper.lines]
    assert len(lower.lines) == 4 - len(names)
