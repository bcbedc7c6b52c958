"""What the harness knows of a problem: its data, its networks, its score and the words for it."""

import abc
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from matplotlib.figure import Figure
from ml_collections import ConfigDict

Array = jax.Array | np.ndarray


class Split(NamedTuple):
    """A part of the data; the first axis of every array is the example.

    Attributes:
      inputs: what the network takes, in its order.
      targets: what it should say.
      counted: bool, of the targets' shape: False where there is nothing to say (padding).
    """

    inputs: tuple[Array, ...]
    targets: Array
    counted: Array


class Data(NamedTuple):
    """All that training needs, and what the report tells about it.

    Attributes:
      train, validation, test: the parts.
      baseline: the score on the test part of a guess that needs no network.
      description: what the data came to, in sentences.
      record: the same in numbers, as JSON; kept with the results.
      shown: examples of the test part whose outputs are kept with the results, for a figure.
    """

    train: Split
    validation: Split
    test: Split
    baseline: float
    description: str
    record: dict[str, Any]
    shown: Split | None = None


class Metric(NamedTuple):
    """The score, as reports and figures write it.

    Attributes:
      name: of the score.
      unit, difference_unit: of a score and of a difference of two.
      scale: what a score is multiplied with to be in its unit.
      digits: how many of a score are written after the point.
      higher_is_better: whether it is.
      baseline: the name of the guess that needs no network.
    """

    name: str
    unit: str
    difference_unit: str
    scale: float
    digits: int
    higher_is_better: bool
    baseline: str

    @property
    def title(self) -> str:
        """The name, to begin a sentence with."""
        return self.name[0].upper() + self.name[1:]

    def text(self, score: float) -> str:
        """Writes a score with its unit."""
        return f"{self.scale * score:.{self.digits}f} {self.unit}"


class Task(abc.ABC):
    """A problem with its data loaded.

    `regularizers` names what can be compared, each with the plain network that it is compared to,
    which starts from the same parameters; a plain network itself has None, and no rate.
    """

    metric: ClassVar[Metric]
    regularizers: ClassVar[Mapping[str, str | None]]
    figures: ClassVar[Mapping[str, Callable[[dict[str, Any]], Figure]]] = {}
    """File names, and what draws them of results, beside the figure that every task has."""

    def __init__(self, config: ConfigDict):
        self.config = config
        self.data = self.load(config.data)

    @classmethod
    def plain(cls, regularizer: str) -> str:
        """The plain network of a regularizer; of a plain network, itself."""
        return cls.regularizers[regularizer] or regularizer

    @staticmethod
    @abc.abstractmethod
    def check(config: ConfigDict) -> None:
        """Raises InputError for a field of the task's own that it cannot use."""

    @staticmethod
    @abc.abstractmethod
    def load(config: ConfigDict) -> Data:
        """Reads and splits what a config's `data` part names; raises InputError."""

    @abc.abstractmethod
    def network(self, regularizer: str) -> nn.Module:
        """Returns a module to be called with (*inputs, rate, deterministic=...)."""

    @staticmethod
    @abc.abstractmethod
    def losses(outputs: jax.Array, targets: Array) -> jax.Array:
        """The loss of every target, whose mean training makes small."""

    @classmethod
    def points(cls, outputs: jax.Array, targets: Array) -> jax.Array:
        """What every target adds to the score: its loss, if a task says nothing else."""
        return cls.losses(outputs, targets)

    @staticmethod
    @abc.abstractmethod
    def score(mean_points: jax.Array) -> jax.Array:
        """The score of a whole part, from the mean over its targets."""


def batches(data: Split, size: int) -> Split:
    """Cuts a split into [batch, size, ...], the last filled up with examples that do not count."""
    size = min(size, len(data.targets))
    missing = -len(data.targets) % size

    def cut(array: np.ndarray) -> np.ndarray:
        padded = np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))
        return padded.reshape(-1, size, *array.shape[1:])

    return jax.tree.map(cut, data)
