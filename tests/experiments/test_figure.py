import pytest
from matplotlib import pyplot as plt

from experiments import figure


def test_draws_a_picture(results, tmp_path):
    figure.save(results, tmp_path / "results.png")
    height, width, _ = plt.imread(tmp_path / "results.png").shape
    assert width > 2 * height > 800


def test_draws_without_none_and_with_one_seed(results, tmp_path):
    del results["regularizers"]["none"]
    for result in results["regularizers"].values():
        result["runs"] = [run for run in result["runs"] if run["seed"] == 0]
    figure.save(results, tmp_path / "results.png")
    assert (tmp_path / "results.png").stat().st_size > 10_000


def test_a_stopped_run_keeps_its_last_value():
    mean, spread = figure._over_seeds([[0.1, 0.2], [0.3, 0.4, 0.6]])
    assert mean == pytest.approx([20, 30, 40])
    assert spread == pytest.approx([10, 10, 20])
