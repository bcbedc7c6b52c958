import importlib.util

import numpy as np
import pytest

from experiments import installed
from experiments.errors import InputError
from experiments.sensors import recordings

from .conftest import write


def test_every_recording_is_in_its_place(made, recordings_path):
    found = recordings.read(recordings_path)
    assert found.names == made["y_labels"]
    for one, expected in zip(found.measured, made["X"], strict=True):
        np.testing.assert_array_equal(one, expected.astype(np.float32))
    np.testing.assert_array_equal(found.exercises, made["y"])
    np.testing.assert_array_equal(found.people, made["subject"])


@pytest.mark.skipif(importlib.util.find_spec("seglearn") is None, reason="needs seglearn")
def test_the_file_of_seglearn():
    found = recordings.read(recordings.recordings_path())
    assert len(found.measured) == 140
    assert found.names == ["PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"]
    pairs = np.column_stack([found.people, found.exercises])
    pairs, counts = np.unique(pairs, axis=0, return_counts=True)
    assert len(pairs) == 70
    assert (counts == 2).all()  # with each arm


def test_a_package_that_is_missing_gets_one_sentence(monkeypatch):
    monkeypatch.setattr(installed.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        recordings.recordings_path()
    assert str(caught.value) == (
        "the watch data set is not installed: pip install seglearn==1.2.5, or give a .npy file "
        "with --config.data.path"
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda made: {name: made[name] for name in ("X", "y", "y_labels")},
            "needs arrays under X, y and subject and names under y_labels: KeyError('subject')",
        ),
        (
            lambda made: made | {"y": made["y"][1:]},
            "needs one y and one subject for each recording in X: got 23 and 24 for 24",
        ),
        (
            lambda made: made | {"X": [one[:, :3] for one in made["X"]]},
            "needs recordings of [time, 6] in X: got the shape (60, 3)",
        ),
        (
            lambda made: made | {"X": [one * np.inf for one in made["X"]]},
            "has measurements that are not finite in float32",
        ),
        (
            lambda made: made | {"y": made["y"] + 1},
            "needs an index of the 3 y_labels for each y: got 1 to 3",
        ),
        (lambda made: [made, made], "is not a file of recordings: "),
    ],
)
def test_a_wrong_file_gets_one_sentence(tmp_path, made, spoil, message):
    path = write(tmp_path / "a.npy", spoil(made))
    with pytest.raises(InputError) as caught:
        recordings.read(path)
    assert str(caught.value).startswith(f"{path} {message}")


class Harmful:
    def __reduce__(self):
        return print, ("this was called",)


def test_a_file_that_calls_anything_is_refused(tmp_path, capsys):
    path = write(tmp_path / "a.npy", Harmful())
    with pytest.raises(InputError) as caught:
        recordings.read(path)
    assert str(caught.value) == (
        f"{path} is not a file of recordings: it would call builtins.print"
    )
    assert capsys.readouterr().out == ""
    np.load(path, allow_pickle=True)
    assert capsys.readouterr().out == "this was called\n"


def test_a_file_that_ends_early_gets_one_sentence(tmp_path, recordings_path):
    path = tmp_path / "a.npy"
    path.write_bytes(recordings_path.read_bytes()[:1000])
    with pytest.raises(InputError, match=f"^{path} is not a file of recordings: .*truncated"):
        recordings.read(path)
