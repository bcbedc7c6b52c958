import copy

import numpy as np
import pytest
from matplotlib.container import BarContainer

from experiments.words import figure


@pytest.fixture
def lstm_results():
    """Returns results of three regularizers, by two seeds."""

    def result(compared_to, tests, monte_carlo):
        runs = [
            {
                "rate": 0.5,
                "seed": seed,
                "diverged": False,
                "test_score": test,
                "measures": {"monte_carlo": mean},
            }
            for seed, (test, mean) in enumerate(zip(tests, monte_carlo, strict=True))
        ]
        return {"compared_to": compared_to, "chosen_rate": 0.5, "runs": runs}

    regularizers = {
        "none": result(None, [100.0, 102.0], [100.0, 102.0]),
        "element-wise": result("none", [80.0, 100.0], [79.0, 99.0]),
        "variational": result("none", [76.0, 90.0], [72.0, 85.0]),
    }
    return {"regularizers": regularizers}


def bars(canvas):
    right = canvas.axes[1]
    groups = [group for group in right.containers if isinstance(group, BarContainer)]
    return {group.get_label(): [bar.get_height() for bar in group] for group in groups}


def test_the_published_order_is_beside_the_mean_change_of_the_seeds(lstm_results):
    found = bars(figure.draw(lstm_results))
    published = [100 * (value / 82.7 - 1) for value in (82.7, 79.7, 78.6)]
    np.testing.assert_allclose(found["published, Penn Treebank"], published)
    np.testing.assert_allclose(found["here"], [0.0, (-5 - 10) / 2, (-10 - 15) / 2])


def test_every_regularizer_has_its_perplexity_with_and_without_monte_carlo(lstm_results):
    left = figure.draw(lstm_results).axes[0]
    points = [line.get_xydata() for line in left.lines if line.get_marker() in ("o", "D")]
    points = np.concatenate([point for point in points if len(point)])
    assert points[:, 0].tolist() == [101.0, 90.0, 89.0, 83.0, 78.5]
    assert np.round(points[:, 1]).tolist() == [0, 1, 1, 2, 2]
    assert [text.get_text() for text in left.get_yticklabels()] == list(
        lstm_results["regularizers"]
    )


@pytest.mark.parametrize("how", ["missing", "diverged"])
def test_without_one_of_them_there_is_only_the_published_order(lstm_results, how):
    results = copy.deepcopy(lstm_results)
    if how == "missing":
        del results["regularizers"]["variational"]
    else:
        results["regularizers"]["variational"]["runs"][0]["diverged"] = True
    canvas = figure.draw(results)
    assert list(bars(canvas)) == ["published, Penn Treebank"]
    canvas.draw_without_rendering()
