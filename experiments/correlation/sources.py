"""Where feature maps come from: photos, hours of weather, and trained networks."""

import itertools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from ..errors import InputError
from ..task import Split
from ..tasks import TASKS
from . import photos
from .masks import FORMS
from .networks import Path, Trainer, make_gradient_noise, outputs
from .prediction import Maps

SEGMENT = 8
"""The number of words in a map. Sentences are cut, so that no map has padding."""


class Reading(NamedTuple):
    """What a source gives for a seed.

    Attributes:
      maps: the feature maps of each place.
      noise: of places in a network, the noise of a gradient with each form of dropout there.
      test_score: that of the network, if there is one.
    """

    maps: dict[str, Maps]
    noise: dict[str, dict[str, float]]
    test_score: float | None = None


Source = Callable[[int], Reading]
"""Reads what a source gives for a seed."""


def photo(config: ConfigDict) -> Source:
    """Returns tiles of photos, at random places."""
    steps = {"photo": 1, f"photo, every {config.photo_step}th pixel": config.photo_step}

    def read(seed: int) -> Reading:
        rng = np.random.default_rng(seed)
        cut = {
            name: photos.tiles(config.maps, config.photo_size, step, rng)
            for name, step in steps.items()
        }
        return Reading(cut, {})

    return read


def images(config: ConfigDict) -> Source:
    """Returns images, and what dropout after the second norm of each block of a ResNet sees."""
    trained = config.images
    norm = {"batch": "BatchNorm_1", "group": "GroupNorm_1"}[trained.norm]
    stages = itertools.product(range(1, len(trained.widths) + 1), range(1, trained.blocks + 1))
    places = {
        f"block {number}": (f"stage{stage}_branch{block}", norm)
        for number, (stage, block) in enumerate(stages, start=1)
    }
    first = ("Conv_0", "kernel")
    network = Network(config, trained, places, first, lambda found, _: np.maximum(found, 0))
    data = network.task.data
    train, test = (np.asarray(part.inputs[0])[: config.maps] for part in (data.train, data.test))
    pixels = {"pixels": Maps(train, test)}

    def read(seed: int) -> Reading:
        reading = network(seed)
        return reading._replace(maps={**pixels, **reading.maps})

    return read


def weather(config: ConfigDict) -> Source:
    """Returns the inputs of the LSTM that forecasts the weather."""
    data = TASKS["forecasting"](config.weather).data
    train, test = (np.asarray(part.inputs[0])[:, :, None] for part in (data.train, data.test))
    return lambda seed: Reading({"hours of weather": Maps(train, test)}, {})


def words(config: ConfigDict) -> Source:
    """Returns the word vectors of trained taggers."""
    embedding = ("RegularizedEmbedding_0",)
    return Network(
        config,
        config.words,
        {"word vectors": embedding},
        (*embedding, "Embed_0", "embedding"),
        segments,
    )


def segments(vectors: np.ndarray, split: Split) -> np.ndarray:
    """Cuts sentences into maps [segment, word, 1, feature], without their padding."""
    lengths = np.asarray(split.inputs[1])
    found = [
        sentence[first : first + SEGMENT]
        for sentence, length in zip(vectors, lengths, strict=True)
        for first in range(0, length - SEGMENT + 1, SEGMENT)
    ]
    if not found:
        raise InputError(f"config.words needs sentences of at least {SEGMENT} words")
    return np.stack(found)[:, :, None]


class Network:
    """Trains a network, and reads the outputs of some of its modules."""

    def __init__(
        self,
        config: ConfigDict,
        trained: ConfigDict,
        places: Mapping[str, Path],
        first: Path,
        maps_of: Callable[[np.ndarray, Split], np.ndarray],
    ):
        """Compiles the network of the config `trained`.

        `places` maps the names of places to modules, and `first` is the parameter whose gradient is
        measured. `maps_of(outputs, split)` turns the outputs of a module into maps.
        """
        self.task = TASKS[trained.task](trained)
        self._config = config
        self._trainer = Trainer(self.task)
        self._places = places
        self._maps_of = maps_of
        batch = first_examples(self.task.data.train, config.gradient_batch)
        self._noise = {
            name: {
                form: make_gradient_noise(
                    *(self.task, first, module),
                    *(layer(config.rate, config.block_size), batch, config.gradient_masks),
                )
                for form, layer in FORMS.items()
            }
            for name, module in places.items()
        }

    def __call__(self, seed: int) -> Reading:
        """Trains from a seed."""
        variables, score = self._trainer.train(seed)
        parts = []
        for split in (self.task.data.train, self.task.data.test):
            some = first_examples(split, self._config.maps)
            paths = list(self._places.values())
            found = outputs(self._trainer.network, variables, some.inputs, paths)
            parts.append([self._maps_of(each, some) for each in found])
        maps = {name: Maps(*of) for name, *of in zip(self._places, *parts, strict=True)}
        noise = {
            name: {form: measure(variables) for form, measure in forms.items()}
            for name, forms in self._noise.items()
        }
        return Reading(maps, noise, score)


def first_examples(split: Split, count: int) -> Split:
    """Returns the first examples of a part."""
    return jax.tree.map(lambda array: array[:count], split)


SOURCES: dict[str, Callable[[ConfigDict], Source]] = {
    "photo": photo,
    "images": images,
    "weather": weather,
    "words": words,
}
"""Prepares the sources that a config can name."""
