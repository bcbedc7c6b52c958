"""Turns recordings into examples: cuts windows, and leaves out each person in turn."""

from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..errors import InputError
from ..task import Data, Parts, Split
from . import recordings
from .recordings import Recordings


def load(data: ConfigDict) -> Data:
    """Loads the recordings of a config's `data` part, with a fold for each person."""
    path = Path(data.path) if data.path else recordings.recordings_path()
    found = recordings.read(path)
    people, counts = np.unique(found.people, return_counts=True)
    if len(people) < data.validation_people + 2:
        raise InputError(
            f"{path} needs at least {data.validation_people + 2} people, one for the test and "
            f"{data.validation_people} for validation: got {len(people)}"
        )
    if counts.min() < counts.max():  # all folds train with the same programs
        raise InputError(
            f"{path} needs the same number of recordings of each person: got {counts.min()} to "
            f"{counts.max()}"
        )
    windows = cut(found.measured, data.length, data.windows)
    folds = tuple(fold(found, windows, index, data) for index in range(len(people)))
    baselines = [baseline(part) for part in folds]
    record = {
        "people": len(people),
        "recordings": len(windows),
        "exercises": found.names,
        "windows": {name: len(split.targets) for name, split in folds[0]._asdict().items()},
        "baseline_of_each_person": baselines,
    }
    return Data(*folds[0], float(np.mean(baselines)), describe(record, data), record, folds)


def cut(measured: list[np.ndarray], length: int, count: int) -> np.ndarray:
    """Cuts `count` windows out of each recording, evenly spread: [recording, window, time, axis].

    The windows of a short recording overlap.
    """
    shortest = min(map(len, measured))
    if shortest < length:
        raise InputError(
            f"config.data.length must be at most {shortest}, the length of the shortest "
            f"recording: got {length}"
        )
    starts = (np.linspace(0, len(one) - length, count).astype(int) for one in measured)
    pairs = zip(measured, starts, strict=True)
    return np.stack([[one[start : start + length] for start in of_one] for one, of_one in pairs])


def fold(found: Recordings, windows: np.ndarray, index: int, data: ConfigDict) -> Parts:
    """Returns the parts in which a person is the test, and the next ones are the validation.

    Each axis is normalized by the people who train.
    """
    people = np.roll(np.unique(found.people), -index)
    groups = np.split(people, [1, 1 + data.validation_people])
    test, validation, train = (np.isin(found.people, group) for group in groups)
    mean, deviation = windows[train].mean((0, 1, 2)), windows[train].std((0, 1, 2))

    def part(of: np.ndarray) -> Split:
        inputs = ((windows[of] - mean) / deviation).reshape(-1, *windows.shape[2:])
        targets = np.repeat(found.exercises[of], data.windows).astype(np.int32)
        return Split((inputs,), targets, np.ones(len(targets), bool))

    return Parts(part(train), part(validation), part(test))


def baseline(parts: Parts) -> float:
    """Returns the accuracy of a linear classifier of each window's means and deviations."""

    def statistics(split: Split) -> np.ndarray:
        (x,) = split.inputs
        return np.concatenate([x.mean(1), x.std(1)], axis=1)

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(statistics(parts.train), parts.train.targets)
    return float(model.score(statistics(parts.test), parts.test.targets))


def describe(record: dict[str, Any], data: ConfigDict) -> str:
    """Describes the data in sentences."""
    seconds = data.length / recordings.RATE
    return (
        f"{record['recordings']} recordings of {len(record['exercises'])} shoulder exercises, "
        f"which {record['people']} people did with each arm, with {data.windows} windows of "
        f"{seconds:g} s from each. Each seed has a split of its own: person number seed + 1 is the "
        f"test part, the next {data.validation_people} are the validation part, and the others "
        f"train. That makes {record['windows']['train']} windows for training, "
        f"{record['windows']['validation']} for validation and {record['windows']['test']} for "
        "the test. Each axis is normalized by the people who train, and a sensor that failed gives "
        "their mean."
    )
