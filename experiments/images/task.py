"""The task of classifying images."""

from typing import Any, ClassVar

from flax import linen as nn
from ml_collections import ConfigDict

from .. import checks, rate_schedule
from ..categorical import Classifying, accuracy
from ..errors import InputError
from ..task import Data
from ..train import steps_per_epoch
from . import dataset, sources, study_figure
from .models import FORMS, GROUPS, NORMS, ResNet

SIZES = ("blocks", "patch", "block_size")


class Classification(Classifying):
    """Predicts the class of an image. The score is the accuracy."""

    metric = accuracy("nearest mean")
    regularizers: ClassVar = {name: None if name == "none" else "none" for name in FORMS}
    study_figures: ClassVar = {"results.png": study_figure.draw}

    @staticmethod
    def check(config: ConfigDict) -> None:
        """Raises InputError for an invalid field."""
        checks.has("config", config, ("norm", "widths", "own_rates", *SIZES))
        checks.has("config.data", config.data, ("source", "path", *dataset.LIMITS))
        checks.one_of("config.norm", config.norm, NORMS)
        checks.at_least(1, "config", config, SIZES)
        checks.one_of("config.data.source", config.data.source, sources.SOURCES)
        checks.text("config.data", config.data, ("path",))
        checks.at_least(0, "config.data", config.data, dataset.LIMITS)
        check_widths(config.widths, config.norm)
        check_own_rates(config)
        if config.data.path and config.data.source != "fashion-mnist":
            raise InputError(
                "config.data.path is the folder of Fashion-MNIST's files, so config.data.source "
                f"must be fashion-mnist: got {config.data.source}"
            )

    @staticmethod
    def load(data: ConfigDict) -> Data:
        """Reads the images, and splits off some for validation."""
        return dataset.load(data)

    @classmethod
    def rates(cls, config: ConfigDict, regularizer: str) -> tuple[float, ...]:
        """Returns the rates of the config, or those that it has for this regularizer alone."""
        return tuple(config.own_rates.get(regularizer, super().rates(config, regularizer)))

    def rate_schedule(self, regularizer: str) -> ConfigDict:
        """Returns the config's schedule, or for "growing" one that reaches the rate at the end."""
        if regularizer != "DropBlock growing":
            return self.config.rate_schedule
        steps = steps_per_epoch(len(self.data.train.targets), self.config.batch_size)
        return rate_schedule.growing(self.config.epochs * steps)

    def network(self, regularizer: str) -> nn.Module:
        """Returns a residual network of the config's sizes."""
        config = self.config
        form = FORMS[regularizer]
        return ResNet(
            len(self.data.record["classes"]),
            tuple(config.widths),
            config.blocks,
            config.patch,
            config.norm,
            form,
            config.block_size,
            self.rates(config, regularizer)[0] if form.path == "subset" else 0.0,
            config.dtype,
        )


def check_widths(widths: Any, norm: str) -> None:
    """Raises InputError unless the widths are whole numbers that the norm can split."""
    multiple = GROUPS if norm == "group" else 1
    whole = isinstance(widths, tuple | list) and all(type(width) is int for width in widths)
    if not whole or not widths or any(width < 1 or width % multiple for width in widths):
        rule = f"multiples of {GROUPS}, for group norm" if norm == "group" else "of at least 1"
        raise InputError(f"config.widths must be a tuple of whole numbers, {rule}: got {widths!r}")


def check_own_rates(config: ConfigDict) -> None:
    """Raises InputError unless each of config.own_rates is a tuple of rates of a regularizer."""
    rates = config.own_rates
    checks.has("config.own_rates", rates, ())
    for name in rates:
        field = f"config.own_rates[{name!r}]"
        checks.one_of("each name in config.own_rates", name, FORMS)
        if not isinstance(rates[name], tuple | list) or not rates[name]:
            raise InputError(f"{field} must be a tuple of rates: got {rates[name]!r}")
        for rate in rates[name]:
            checks.rate(f"each of {field}", rate)
    subset = rates.get("DropPath subset", ())
    if "DropPath subset" in config.regularizers and len(subset) != 1:
        raise InputError(
            "config.own_rates['DropPath subset'] must have one rate, because it is a part of the "
            f"program: got {tuple(subset)}"
        )
