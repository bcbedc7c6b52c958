"""A small file of recordings, and a config for it."""

import numpy as np
import pytest

from configs.sensors import get_config

PEOPLE = 4
NAMES = ["lift", "row", "turn"]


def make_recordings():
    """Makes six recordings of each person: of each exercise twice, which one axis tells apart."""
    rng = np.random.default_rng(0)
    recordings = {"X": [], "y": [], "subject": [], "y_labels": NAMES}
    for person in range(1, PEOPLE + 1):
        for exercise in (0, 1, 2, 0, 1, 2):
            measured = rng.normal(person, 1, (60 + 3 * len(recordings["X"]), 6))
            measured[:, exercise] += 4 * np.sin(np.arange(len(measured)))
            recordings["X"].append(measured)
            recordings["y"].append(exercise)
            recordings["subject"].append(person)
    return recordings | {name: np.array(recordings[name]) for name in ("y", "subject")}


def write(path, recordings):
    """Writes a file as seglearn's: a dict in an array of objects."""
    np.save(path, recordings, allow_pickle=True)
    return path


@pytest.fixture
def made():
    return make_recordings()


@pytest.fixture(scope="session")
def recordings_path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("watch") / "watch.npy", make_recordings())


def make_config(path):
    config = get_config("smoke")
    config.update({"features": 4, "batch_size": 8, "rates": (0.2,), "epochs": 2, "seeds": 2})
    config.data.update({"path": str(path), "length": 40, "windows": 3, "validation_people": 1})
    return config


@pytest.fixture
def sensors_config(recordings_path):
    return make_config(recordings_path)
