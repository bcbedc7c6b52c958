"""The interface of a task: its data, networks and score, and how reports name them."""

import abc
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import numpy as np
from flax import linen as nn
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from .errors import InputError

Array = jax.Array | np.ndarray


class Split(NamedTuple):
    """A part of the data; the first axis of every array is the example.

    Attributes:
      inputs: the arguments of the network, in order.
      targets: the outputs that the network should give.
      counted: bool, of the targets' shape; False for padding.
    """

    inputs: tuple[Array, ...]
    targets: Array
    counted: Array


class Parts(NamedTuple):
    """A division of the data."""

    train: Split
    validation: Split
    test: Split


class Data(NamedTuple):
    """The data for training, and its description for the report.

    Attributes:
      train, validation, test: the parts.
      baseline: the test score of a prediction without a network.
      description: the data in sentences.
      record: the data in numbers, as JSON, for the results.
      folds: the parts of each seed, if each has parts of its own. All have the same shapes, and
        the first are those above.
    """

    train: Split
    validation: Split
    test: Split
    baseline: float
    description: str
    record: dict[str, Any]
    folds: tuple[Parts, ...] = ()

    def parts(self, seed: int) -> Parts:
        """Returns the parts of a seed."""
        return self.folds[seed] if self.folds else Parts(self.train, self.validation, self.test)


class Metric(NamedTuple):
    """How reports and figures write a score.

    Attributes:
      name: the name of the score.
      unit, difference_unit: the units of a score and of a difference between scores.
      scale: the factor that converts a score to its unit.
      digits: the number of digits after the point.
      higher_is_better: whether a higher score is better.
      baseline: the name of the prediction without a network. A measure needs none.
    """

    name: str
    unit: str
    difference_unit: str
    scale: float
    digits: int
    higher_is_better: bool
    baseline: str = ""

    @property
    def title(self) -> str:
        """The name and the unit, with a capital letter to begin a sentence."""
        return f"{self.name[0].upper()}{self.name[1:]}{self.unit and f' in {self.unit}'}"

    @property
    def direction(self) -> str:
        """Says which scores are better."""
        return f"{'higher' if self.higher_is_better else 'lower'} is better"

    @property
    def difference_digits(self) -> int:
        """The number of digits of a difference."""
        return max(2, self.digits)

    def text(self, score: float) -> str:
        """Writes a score with its unit."""
        if not np.isfinite(score):
            return "diverged"
        return f"{self.scale * score:.{self.digits}f} {self.unit}".rstrip()


class Predict(Protocol):
    """Returns the outputs of a trained network for inputs, one batch at a time.

    Nothing is dropped, unless there is a key: then dropout draws from it, as in training. Batch
    norm uses the statistics that training has collected.
    """

    def __call__(self, inputs: tuple[Array, ...], *, key: jax.Array | None = None) -> Any:
        """Returns the outputs."""


class Task(abc.ABC):
    """A problem with its data loaded.

    `regularizers` maps the name of each regularizer to the plain network that it is compared to.
    Both start from the same parameters. A plain network maps to None and has no rate.
    """

    metric: ClassVar[Metric]
    measures: ClassVar[Mapping[str, Metric]] = {}
    """Maps names of numbers that `measure` returns to how the report writes them."""
    regularizers: ClassVar[Mapping[str, str | None]]
    figures: ClassVar[Mapping[str, Callable[[dict[str, Any]], Figure]]] = {}
    """Maps file names to functions that draw extra figures from results."""
    study_figures: ClassVar[Mapping[str, Callable[[dict[str, dict[str, Any]]], Figure]]] = {}
    """Maps file names to functions that draw figures from the results of each condition."""

    def __init__(self, config: ConfigDict):
        self.config = config
        self.data = self.load(config.data)
        if 0 < len(self.data.folds) < config.seeds:
            raise InputError(
                f"config.seeds must be at most {len(self.data.folds)}, because each seed has "
                f"a part of the data for its test: got {config.seeds}"
            )

    @classmethod
    def plain(cls, regularizer: str) -> str:
        """Returns the plain network of a regularizer, or a plain network itself."""
        return cls.regularizers[regularizer] or regularizer

    @staticmethod
    @abc.abstractmethod
    def check(config: ConfigDict) -> None:
        """Raises InputError for a field of the config that this task cannot use."""

    @staticmethod
    @abc.abstractmethod
    def load(data: ConfigDict) -> Data:
        """Reads and splits the data, by the fields of `config.data`. May raise InputError."""

    @abc.abstractmethod
    def network(self, regularizer: str) -> nn.Module:
        """Returns a module that is called with (*inputs, rate, deterministic=...).

        It may have batch statistics, which it updates if it is not deterministic.
        """

    def first_params(self, params: Any) -> Any:
        """Returns the parameters to start from: by default, those that the network drew."""
        return params

    @classmethod
    def rates(cls, config: ConfigDict, regularizer: str) -> tuple[float, ...]:
        """Returns the rates to choose from: by default, those of the config, or 0 if plain."""
        return tuple(config.rates) if cls.regularizers[regularizer] else (0.0,)

    @classmethod
    def most_runs(cls, config: ConfigDict) -> int:
        """Returns the largest number of runs of a regularizer."""
        return config.seeds * max(len(cls.rates(config, name)) for name in config.regularizers)

    def rate_schedule(self, regularizer: str) -> ConfigDict:
        """Returns the schedule of a regularizer's rate: by default, that of the config."""
        return self.config.rate_schedule

    @staticmethod
    @abc.abstractmethod
    def losses(outputs: jax.Array, targets: Array) -> jax.Array:
        """Returns the loss of every target. Training minimizes the mean."""

    @classmethod
    def points(cls, outputs: jax.Array, targets: Array) -> jax.Array:
        """Returns what every target adds to the score: by default, its loss."""
        return cls.losses(outputs, targets)

    @staticmethod
    @abc.abstractmethod
    def score(mean_points: jax.Array) -> jax.Array:
        """Returns the score of a part, from the mean points of its targets."""

    def changed_tests(self, test: Split) -> Mapping[str, Split]:
        """Returns changed test parts by name, whose scores are measures.

        The first two axes of an array are the batch and the example.
        """
        return {}

    def measure(self, predict: Predict, rate: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        """Returns what the best network of a run is measured by beside its score.

        This is compiled with the test, and runs once at the end of a run. The results keep numbers
        of every run, and arrays of the runs at the chosen rate.
        """
        return {}


def batches(data: Split, size: int, multiple: int = 1) -> Split:
    """Cuts a split into [batch, size, ...], and pads the last batch with uncounted examples.

    The size is rounded up to a multiple of `multiple`.
    """
    size = min(size, len(data.targets))
    size += -size % multiple
    missing = -len(data.targets) % size

    def cut(array: np.ndarray) -> np.ndarray:
        padded = np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))
        return padded.reshape(-1, size, *array.shape[1:])

    return jax.tree.map(cut, data)
