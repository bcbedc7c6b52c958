import pytest
from matplotlib import pyplot as plt

from experiments import figure
from experiments.statistics import Estimate
from experiments.tagging.task import Tagging

from .conftest import diverge


def test_draws_a_picture(results, tmp_path):
    figure.draw(results).savefig(tmp_path / "results.png", dpi=150)
    height, width, _ = plt.imread(tmp_path / "results.png").shape
    assert width > 2 * height > 800


def test_draws_without_none_and_with_one_seed(results, tmp_path):
    del results["regularizers"]["none"]
    for result in results["regularizers"].values():
        result["runs"] = [run for run in result["runs"] if run["seed"] == 0]
    figure.draw(results).savefig(tmp_path / "results.png", dpi=150)
    assert (tmp_path / "results.png").stat().st_size > 10_000


def test_the_curves_are_means_over_seeds(results):
    ax = figure.draw(results).axes[0]
    curves = {line.get_label(): line.get_ydata() for line in ax.lines}
    # Only the second seed has a third epoch, with a score 10 points lower; the first stays.
    assert curves["none"] == pytest.approx([50, 80, 75])
    assert curves["Dropout 0.5"] == pytest.approx([50, 90, 85])
    assert ax.lines[0].get_xdata().tolist() == [1, 2, 3]
    assert len(curves) == 2


def dots(ax):
    return [line.get_xdata() for line in ax.lines if line.get_marker() == "o"]


def intervals(ax):
    return [bars.lines[2][0].get_segments()[0][:, 0] for bars in ax.containers]


def test_dots_and_intervals_of_test_accuracies(results):
    ax = figure.draw(results).axes[1]
    assert [list(values) for values in dots(ax)] == [
        pytest.approx([80, 82]),
        pytest.approx([84, 87]),
    ]
    # Two seeds: the mean +- 12.706 * half of their difference.
    assert intervals(ax)[0] == pytest.approx([81 - 12.706, 81 + 12.706], rel=1e-4)
    assert intervals(ax)[1] == pytest.approx([85.5 - 19.059, 85.5 + 19.059], rel=1e-4)
    assert ax.get_xlabel() == "%  (most frequent tag: 75.0)"


def test_means_and_intervals_are_scaled_and_one_seed_has_no_interval():
    several, one = Estimate(0.5, 0.25), Estimate(0.75, None)
    means, halves = figure.scaled([several, several], 100)
    assert (means.tolist(), halves.tolist()) == ([50, 50], [25, 25])
    means, halves = figure.scaled([several, one], 100)
    assert (means.tolist(), halves) == ([50, 75], None)


def test_dots_and_interval_of_the_differences(results):
    ax = figure.draw(results).axes[2]
    [values] = dots(ax)
    assert values == pytest.approx([4, 5])
    [ends] = intervals(ax)
    assert ends == pytest.approx([4.5 - 6.353, 4.5 + 6.353], rel=1e-3)


def test_the_baseline_does_not_widen_the_axis(results):
    before = figure.draw(results).axes[1].get_xlim()
    results["baseline_test_score"] = 0.1
    assert figure.draw(results).axes[1].get_xlim() == before


def test_a_stopped_run_keeps_its_last_value():
    mean, spread = figure._over_seeds([[0.1, 0.2], [0.3, 0.4, 0.6]], Tagging.metric)
    assert mean == pytest.approx([20, 30, 40])
    assert spread == pytest.approx([10, 10, 20])


def test_of_an_error_the_high_first_epochs_are_cut_off(errors):
    for result in errors["regularizers"].values():
        for run in result["runs"]:
            run["validation_curve"] = [9.0, *([1.0, 1.1] * 10)]
    axes = figure.draw(errors).axes
    assert axes[0].get_ylim()[1] < 2
    assert axes[0].get_title().startswith("Validation RMSE")
    assert list(dots(axes[1])[0]) == [0.80, 0.82]
    assert axes[1].get_xlabel() == "°F  (persistence: 0.75)"
    assert axes[2].get_xlabel() == "°F over none  (better is left)"


@pytest.mark.parametrize("names", [["none"], ["Dropout"], ["none", "Dropout"]])
def test_what_diverged_is_named_and_has_no_dots(results, names, tmp_path):
    for name in names:
        diverge(results, name)
    canvas = figure.draw(results)
    canvas.savefig(tmp_path / "results.png")
    left, middle, right = canvas.axes
    legend = [text.get_text() for text in left.get_legend().get_texts()]
    ticks = [label.get_text() for label in middle.get_yticklabels()]
    for name in names:
        assert f"{name}: diverged" in legend
        assert f"{name}: diverged" in ticks
    assert len(dots(middle)) == 2 - len(names)
    assert dots(right) == []
