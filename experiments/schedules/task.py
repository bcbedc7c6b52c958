"""Tasks that compare schedules of the rate of one regularizer."""

from typing import ClassVar

from flax import linen as nn
from ml_collections import ConfigDict

from .. import checks
from ..images.task import Classification
from ..task import Task
from ..words import transformer
from ..words.task import WordTransformer
from . import figure

SCHEDULES = {"constant": "constant", "early": "early", "late": "late", "growing": "linear"}
"""Maps the names in a table to those of `config.rate_schedule`."""


class Scheduled(Task):
    """A task whose regularizers are schedules of the rate of `config.regularizer`.

    A subclass also derives from `task`, whose data and networks it takes.
    """

    task: ClassVar[type[Task]]
    choices: ClassVar[tuple[str, ...]]
    """What `config.regularizer` may be."""
    study_figures: ClassVar = {"results.png": figure.draw}
    regularizers: ClassVar = {"none": None} | dict.fromkeys(SCHEDULES, "none")

    @classmethod
    def check(cls, config: ConfigDict) -> None:
        """Raises InputError for an invalid field."""
        cls.task.check(config)
        checks.has("config", config, ("regularizer",))
        checks.one_of("config.regularizer", config.regularizer, cls.choices)

    def network(self, regularizer: str) -> nn.Module:
        """Returns the network with `config.regularizer`, or the plain one."""
        is_plain = self.regularizers[regularizer] is None
        return self.task.network(self, "none" if is_plain else self.config.regularizer)

    def rate_schedule(self, regularizer: str) -> ConfigDict:
        """Returns a schedule that takes the steps of `config.rate_schedule`."""
        schedule = ConfigDict(self.config.rate_schedule)
        schedule.name = SCHEDULES.get(regularizer, "constant")
        return schedule


class ScheduledWords(Scheduled, WordTransformer):
    """Language modeling by a transformer, under schedules."""

    task = WordTransformer
    choices = tuple(name for name in transformer.PLACES if name != "none")


class ScheduledImages(Scheduled, Classification):
    """Classification of images, under schedules."""

    task = Classification
    choices = ("Dropout", "SpatialDropout2D", "DropBlock", "DropPath row", "DropPath batch")
