import base64

import numpy as np
import pytest
from matplotlib import pyplot as plt

from experiments.localization import detection_figure, study_figure
from experiments.localization.task import Localization

from ..conftest import diverge


@pytest.fixture
def results(results):
    """Fake results with two scenes of 4 x 4 pixels, and two keypoints."""
    pixels = base64.b64encode(bytes(range(16))).decode()
    scene = {"pixels": pixels, "keypoints": [[0, 1], [2, 3]]}
    results["data"] = {"farthest": 0.5, "train_scenes": 50, "shown": [scene, scene]}
    results["metric"] = Localization.metric._asdict()
    for place, result in enumerate(results["regularizers"].values()):
        for run in result["runs"]:
            curve = [0.0, 0.1 * place, 0.2 + 0.1 * place]
            run["measures"] = {"curve": curve, "keypoints": [[[place, 0], [1, 2]]] * 2}
    return results


def test_curves_and_keypoints_are_those_of_the_results(results):
    curves, *scenes = detection_figure.draw(results).axes
    lines = {line.get_label(): line.get_xydata().round(6).tolist() for line in curves.lines}
    assert lines["none"] == [[0, 0], [0.25, 0], [0.5, 20]]
    assert lines["Dropout 0.5"] == [[0, 0], [0.25, 10], [0.5, 30]]
    found = {line.get_label(): line.get_xydata().tolist() for line in scenes[0].lines}
    assert found == {
        "true": [[1, 0], [3, 2]],
        "none": [[0, 0], [2, 1]],
        "Dropout": [[0, 1], [2, 1]],
    }


@pytest.mark.parametrize("name", ["none", "Dropout"])
def test_what_diverged_is_named_and_not_drawn(results, name):
    diverge(results, name)
    curves, *scenes = detection_figure.draw(results).axes
    assert f"{name}: diverged" in [line.get_label() for line in curves.lines]
    assert name not in [line.get_label() for line in scenes[0].lines]
    assert study_figure.draw({"50 scenes": results}).axes


def test_the_study_has_a_line_of_each_regularizer_over_the_scenes(results, tmp_path):
    more = {**results, "data": {**results["data"], "train_scenes": 100}}
    figure = study_figure.draw({"50 scenes": results, "100 scenes": more})
    left, right = figure.axes
    assert [text.get_text() for text in left.get_xticklabels()] == ["50", "100"]
    assert left.get_legend_handles_labels()[1] == ["none", "Dropout"]
    [gain] = right.containers
    tests = {
        name: np.mean([run["test_score"] for run in result["runs"] if run["rate"] == rate])
        for name, rate in (("none", 0.0), ("Dropout", 0.5))
        for result in [results["regularizers"][name]]
    }
    expected = 100 * (tests["Dropout"] - tests["none"])
    np.testing.assert_allclose(gain.lines[0].get_ydata(), expected)
    figure.savefig(tmp_path / "study.png")
    assert plt.imread(tmp_path / "study.png").std() > 0
