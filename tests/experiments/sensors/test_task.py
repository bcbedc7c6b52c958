import copy

import numpy as np
import pytest

from experiments.errors import InputError
from experiments.sensors import failure_figure
from experiments.sensors.task import FAILURES, Sensors
from experiments.task import Split, batches


def test_a_failure_sets_a_sensor_or_a_second_to_0_and_nothing_else(sensors_config):
    x = np.ones((5, 200, 6), np.float32)
    test = batches(Split((x,), np.arange(5), np.ones(5, bool)), 3)
    changed = Sensors(sensors_config).changed_tests(test)
    accelerometer, gyroscope, second = (split.inputs[0][0, 0] for split in changed.values())
    assert np.flatnonzero((accelerometer == 0).all(0)).tolist() == [0, 1, 2]
    assert np.flatnonzero((gyroscope == 0).all(0)).tolist() == [3, 4, 5]
    assert np.flatnonzero((second == 0).all(1)).tolist() == [*range(75, 125)]
    assert [float((part == 0).mean()) for part in (accelerometer, gyroscope, second)] == [
        *(0.5, 0.5, 0.25)
    ]
    assert all((split.targets == test.targets).all() for split in changed.values())


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("", "features", 0, "config.features must be at least 1: got 0"),
        ("data", "windows", 0, "config.data.windows must be at least 1: got 0"),
        ("data", "length", 0, "config.data.length must be at least 1: got 0"),
        ("data", "path", 3, "config.data.path must be a string: got 3"),
    ],
)
def test_a_wrong_field_gets_one_sentence(sensors_config, part, field, value, message):
    with sensors_config.ignore_type():
        (sensors_config[part] if part else sensors_config)[field] = value
    with pytest.raises(InputError) as caught:
        Sensors.check(sensors_config)
    assert str(caught.value) == message


@pytest.fixture
def failed(results):
    """Results with the measures of the sensors, of which a failed sensor has half the accuracy."""
    results["measures"] = {name: metric._asdict() for name, metric in Sensors.measures.items()}
    results["data"] = {"exercises": ["lift", "row", "turn", "hold"]}
    names = {"none": "none", "Dropout": "ModalityDropout"}
    results["regularizers"] = {names[name]: of for name, of in results["regularizers"].items()}
    for result in results["regularizers"].values():
        for run in result["runs"]:
            score = run["test_score"] or 0.6
            run.update(test_score=score, measures={name: score / 2 for name in FAILURES})
    return results


def test_the_figure_has_a_point_for_each_training_and_failure(failed):
    left, right = failure_figure.draw(failed).axes
    for container, mean in zip(left.containers, (81, 85.5), strict=True):
        points = container.lines[0].get_ydata()
        np.testing.assert_allclose(points, [mean, *[mean / 2] * 3])
    labels = [tick.get_text() for tick in left.get_xticklabels()]
    assert labels == ["nothing failed", *FAILURES]
    lines = {line.get_label(): line.get_xydata() for line in right.get_lines()}
    np.testing.assert_allclose(lines["nothing failed"], [(0, 81), (0.1, 60), (0.5, 85.5)])
    np.testing.assert_allclose(lines["the gyroscope failed"], [(0, 40.5), (0.1, 30), (0.5, 42.75)])
    assert {left.get_lines()[-1].get_ydata()[0]} == {25}  # chance


def test_the_figure_names_a_regularizer_that_diverged(failed):
    broken = copy.deepcopy(failed)
    del broken["regularizers"]["none"]
    for run in broken["regularizers"]["ModalityDropout"]["runs"]:
        run.update(diverged=True, test_score=None)
    broken["regularizers"]["ModalityDropout"]["chosen_rate"] = None
    left, _ = failure_figure.draw(broken).axes
    assert not left.containers
    [label] = left.get_legend().get_texts()
    assert label.get_text() == "ModalityDropout: diverged"
