"""Trains a small network on any mesh; as a program, in one of several processes.

python -m tests.experiments.twenty_steps NAME FOLDER COORDINATOR PROCESS
"""

import sys
from pathlib import Path

import jax
import numpy as np

from configs import language_model, pos_tagging, weather_forecast
from experiments import devices, processes
from experiments.forecasting.task import Forecasting
from experiments.language.task import Language
from experiments.programs import Builder, rates_of
from experiments.runs import Run
from experiments.tagging.task import Tagging
from experiments.task import Data, Split

from .small import Normed

STEPS = 20
EXAMPLES = 16
TIME = 5


def words(time=TIME):
    """Returns random sentences, and as targets the words modulo 3."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, time + 1, EXAMPLES).astype(np.int32)
    words = rng.integers(1, 7, (EXAMPLES, time)).astype(np.int32)
    counted = np.arange(time) < lengths[:, None]
    return words * counted, lengths, counted


class SmallTagging(Tagging):
    @staticmethod
    def load(data):
        sentences, lengths, counted = words()
        split = Split((sentences, lengths), sentences % 3, counted)
        return Data(split, split, split, 0.0, "", {"words": 8, "tags": 4})


class SmallNormed(Normed):
    load = staticmethod(SmallTagging.load)


class SmallLanguage(Language):
    @staticmethod
    def load(data):
        sentences, _, counted = words()
        split = Split((sentences,), sentences % 3, counted)
        return Data(split, split, split, 0.0, "", {"characters": 8})


class SmallForecasting(Forecasting):
    @staticmethod
    def load(data):
        x = np.random.default_rng(0).normal(size=(EXAMPLES, 12, 4)).astype(np.float32)
        split = Split((x,), x[:, 0, 0], x[:, 0, 1] > -9)
        record = {"deviation_of_change": 1.5, "shown": {"hours": [0, 1, 2]}}
        return Data(split, split, split, 0.0, "", record)


def make_task(name, **mesh):
    """Returns a small task and the regularizer to train it with."""
    make, config, regularizer = {
        "tagging": (SmallTagging, pos_tagging.get_config("smoke"), "RecurrentDropout"),
        "batch norm": (SmallNormed, pos_tagging.get_config("smoke"), "SpatialDropout1D"),
        "language": (SmallLanguage, language_model.get_config("smoke"), "weights"),
        "forecasting": (SmallForecasting, weather_forecast.get_config("smoke"), "zoneout"),
        "convolutions": (SmallForecasting, weather_forecast.get_config("smoke"), "CNN channels"),
    }[name]
    sizes = {"features": 8, "hidden": 8, "layers": 1, "heads": 2}
    config.update({field: size for field, size in sizes.items() if field in config})
    config.update({"batch_size": 8, "rates": (0.25, 0.5), "seeds": 4, "steps_per_call": 2})
    config.mesh = devices.defaults(**mesh)
    return make(config), regularizer


def train(name, **mesh):
    """Returns the state [run, ...] after 20 steps, losses [run, step], validation scores."""
    with jax.numpy_dtype_promotion("standard"):  # Optax's adam needs it
        task, regularizer = make_task(name, **mesh)
        builder = Builder(task)
        runs = [Run(task.config.rates[lane % 2], lane // 2) for lane in range(builder.side_by_side)]
        programs = builder.compile(regularizer, runs)
        state, best = builder.start(regularizer, runs)
        losses, feed = [], builder.feed(runs)
        for _ in range(STEPS // builder.call_steps):
            batches, keys, _ = next(feed)
            state, measured = programs.steps[keys.shape[1]](state, rates_of(runs), batches, keys)
            losses.append(np.asarray(measured.loss))
        epochs, (validation, _) = np.ones(len(runs), np.int32), builder.evaluation(runs)
        best, scores = programs.validate(state.variables, best, rates_of(runs), epochs, validation)
    return state, np.concatenate(losses, axis=1), np.asarray(scores)


def main(name, folder, coordinator, process):
    """Trains in one of two processes, and saves what train returns."""
    jax.config.update("jax_num_cpu_devices", 1)
    processes.connect(processes.Cluster(coordinator, 2, int(process), 60))
    state, losses, scores = train(name, data=2)
    params = [np.asarray(leaf) for leaf in jax.tree.leaves(state.params)]
    if processes.is_first():
        np.savez(Path(folder, f"{name}.npz"), losses, scores, *params)
    processes.disconnect()


if __name__ == "__main__":
    import tests.conftest  # noqa: F401  compile as the tests do

    main(*sys.argv[1:])
