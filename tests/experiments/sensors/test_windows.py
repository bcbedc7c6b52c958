import numpy as np
import pytest

from experiments.errors import InputError
from experiments.sensors import windows
from experiments.sensors.recordings import read

from .conftest import PEOPLE, make_config, write


@pytest.fixture(scope="module")
def data(recordings_path):
    return windows.load(make_config(recordings_path).data)


def test_windows_are_spread_from_the_start_to_the_end_of_a_recording():
    measured = [np.arange(6.0 * n).reshape(n, 6) for n in (10, 21)]
    cut = windows.cut(measured, 4, 3)
    assert cut.shape == (2, 3, 4, 6)
    assert cut[0, :, 0, 0].tolist() == [0, 6 * 3, 6 * 6]
    assert cut[1, :, 0, 0].tolist() == [0, 6 * 8, 6 * 17]
    assert cut[1, 2, -1, -1] == measured[1][-1, -1]


def test_each_person_is_the_test_of_one_fold_and_in_no_other_part_of_it(data, recordings_path):
    found = read(recordings_path)
    cut = windows.cut(found.measured, 40, 3)
    assert len(data.folds) == PEOPLE
    for index, parts in enumerate(data.folds):
        people = [1 + (index + step) % PEOPLE for step in range(PEOPLE)]
        for split, of in zip(parts[::-1], ([people[0]], people[1:2], people[2:]), strict=True):
            expected = np.isin(found.people, of)
            mean = cut[np.isin(found.people, people[2:])].mean((0, 1, 2))
            deviation = cut[np.isin(found.people, people[2:])].std((0, 1, 2))
            normal = ((cut[expected] - mean) / deviation).reshape(-1, 40, 6)
            np.testing.assert_array_equal(split.inputs[0], normal)
            assert split.targets.tolist() == np.repeat(found.exercises[expected], 3).tolist()
            assert split.counted.all()


def test_the_folds_are_those_of_the_seeds(data):
    assert data.parts(1) is data.folds[1]
    assert data.parts(0).test is data.test


def test_the_baseline_is_the_mean_over_people(data):
    each = data.record["baseline_of_each_person"]
    assert data.baseline == np.mean(each)
    assert each[2] == windows.baseline(data.folds[2])
    assert min(each) > 0.9  # the deviation of one axis tells the exercise
    shuffled = np.random.default_rng(0).permutation(data.folds[0].train.targets)
    worse = data.folds[0]._replace(train=data.folds[0].train._replace(targets=shuffled))
    assert windows.baseline(worse) < 0.7


def test_the_description_counts_windows(data):
    assert (
        "24 recordings of 3 shoulder exercises, which 4 people did with each arm, with 3 windows "
        "of 0.8 s from each." in data.description
    )
    assert "36 windows for training, 18 for validation and 18 for the test" in data.description


@pytest.mark.parametrize(
    ("spoil", "change", "message"),
    [
        (
            lambda made: made,
            {"length": 61},
            "config.data.length must be at most 60, the length of the shortest recording: got 61",
        ),
        (
            lambda made: made,
            {"validation_people": 3},
            "{path} needs at least 5 people, one for the test and 3 for validation: got 4",
        ),
        (
            lambda made: made | {name: made[name][1:] for name in ("X", "y", "subject")},
            {},
            "{path} needs the same number of recordings of each person: got 5 to 6",
        ),
    ],
)
def test_recordings_that_do_not_fit_get_one_sentence(
    tmp_path, made, sensors_config, spoil, change, message
):
    path = write(tmp_path / "a.npy", spoil(made))
    sensors_config.data.update({"path": str(path), **change})
    with pytest.raises(InputError) as caught:
        windows.load(sensors_config.data)
    assert str(caught.value) == message.format(path=path)
