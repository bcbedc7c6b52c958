"""Reads the recordings of a watch that seglearn ships: seven shoulder exercises of ten people."""

import codecs
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from ..installed import installed_file, user_file

SENSORS = {"accelerometer": slice(0, 3), "gyroscope": slice(3, 6)}
"""The axes of each sensor, in the order of the file."""
AXES = 6
RATE = 50
"""Measurements per second."""


class Recordings(NamedTuple):
    """Recordings of people who repeat an exercise.

    Attributes:
      measured: of each recording, [time, axis].
      exercises: [recording], an index of `names`.
      people: [recording], the number of the person.
      names: the names of the exercises.
    """

    measured: list[np.ndarray]
    exercises: np.ndarray
    people: np.ndarray
    names: list[str]


def recordings_path() -> Path:
    """Finds the recordings inside the package seglearn."""
    where = ("data", "watch_dataset.npy")
    return installed_file("watch data set", "seglearn", "seglearn==1.2.5", ".npy file", *where)


def read(path: Path) -> Recordings:
    """Reads a file: a dict with the entries X, y, subject and y_labels, saved by numpy.save."""
    path = user_file(path, "recordings")
    try:
        found = _unpickled(path)
    except PermissionError as error:
        raise InputError(f"cannot read the recordings {path}: {error.strerror}") from error
    except MemoryError:
        raise
    except Exception as error:  # pickle raises errors of any type for a damaged file
        raise InputError(f"{path} is not a file of recordings: {error}") from error
    try:
        measured = [np.asarray(recording, np.float32) for recording in found["X"]]
        exercises, people = (np.asarray(found[name]).astype(int) for name in ("y", "subject"))
        names = [str(name) for name in found["y_labels"]]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"{path} needs arrays under X, y and subject and names under y_labels: {error!r}"
        ) from error
    if not len(measured) == len(exercises) == len(people) or not measured:
        raise InputError(
            f"{path} needs one y and one subject for each recording in X: got "
            f"{len(exercises)} and {len(people)} for {len(measured)}"
        )
    if wrong := [one.shape for one in measured if one.ndim != 2 or one.shape[1] != AXES]:
        raise InputError(
            f"{path} needs recordings of [time, {AXES}] in X: got the shape {wrong[0]}"
        )
    if not all(np.isfinite(one).all() for one in measured):
        raise InputError(f"{path} has measurements that are not finite in float32")
    if exercises.min() < 0 or exercises.max() >= len(names):
        raise InputError(
            f"{path} needs an index of the {len(names)} y_labels for each y: got "
            f"{exercises.min()} to {exercises.max()}"
        )
    return Recordings(measured, exercises, people, names)


def _unpickled(path: Path) -> Any:
    """Returns the object of an .npy file. Only arrays, numbers, text, lists and dicts are made."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        return _ArraysOnly(file, encoding="latin1").load().item()


class _ArraysOnly(pickle.Unpickler):
    """Makes arrays and Python's own values. A pickle that calls anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        found = _ALLOWED.get((module.replace("numpy._core", "numpy.core"), name))
        if found is None:
            raise pickle.UnpicklingError(f"it would call {module}.{name}")
        return found


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,
}
