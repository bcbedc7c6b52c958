"""The optimizer of a config, made of parts of Optax."""

import sys
from typing import Any

import optax
from ml_collections import ConfigDict

from . import checks
from .errors import InputError

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine", "linear")
FIELDS = {
    "name": "adam",
    "learning_rate": 1e-3,
    "warmup_steps": 0,
    "schedule": "constant",
    "clip_norm": 0.0,
    "weight_decay": 0.0,
    "momentum": 0.0,
    "accumulate": 1,
}
"""The fields of `config.optimizer` and their defaults. A clip_norm of 0 does not clip."""


def defaults(**fields: Any) -> ConfigDict:
    """Returns the part `optimizer` of a config, with other values for some of the fields."""
    config = ConfigDict(FIELDS)
    config.update(fields)
    return config


def check(config: ConfigDict) -> None:
    """Raises InputError for an invalid field of `config.optimizer`."""
    part = "config.optimizer"
    checks.has(part, config, FIELDS)
    checks.one_of(f"{part}.name", config.name, OPTIMIZERS)
    checks.one_of(f"{part}.schedule", config.schedule, SCHEDULES)
    checks.at_least(0, part, config, ("warmup_steps",))
    checks.at_least(1, part, config, ("accumulate",))
    rate = config.learning_rate
    if not checks.is_number(rate) or not 0 < rate <= sys.float_info.max:
        raise InputError(f"{part}.learning_rate must be a finite number above 0: got {rate!r}")
    for field in ("clip_norm", "weight_decay"):
        checks.finite(f"{part}.{field}", config[field])
    checks.rate(f"{part}.momentum", config.momentum)
    for field, users in (("weight_decay", ("adamw", "sgd")), ("momentum", ("sgd",))):
        if config[field] and config.name not in users:
            raise InputError(
                f"{part}.{field} must be 0 unless {part}.name is {' or '.join(users)}: "
                f"got {config[field]} with {config.name}"
            )


def make(config: ConfigDict, steps: int) -> optax.GradientTransformation:
    """Returns the optimizer of a training of `steps` steps.

    The steps of its schedule are updates of the parameters: one for every `accumulate` batches,
    whose gradients are averaged.
    """
    rate = learning_rate(config, steps // config.accumulate)
    if config.name == "adam":
        parts = [optax.adam(rate)]
    elif config.name == "adamw":
        parts = [optax.adamw(rate, weight_decay=config.weight_decay)]
    else:
        decay = [optax.add_decayed_weights(config.weight_decay)] if config.weight_decay else []
        parts = [*decay, optax.sgd(rate, momentum=config.momentum or None)]
    if config.clip_norm:
        parts = [optax.clip_by_global_norm(config.clip_norm), *parts]
    optimizer = optax.chain(*parts) if len(parts) > 1 else parts[0]
    if config.accumulate > 1:
        return optax.MultiSteps(optimizer, config.accumulate).gradient_transformation()
    return optimizer


def learning_rate_at(config: ConfigDict, steps: int, step: int) -> float:
    """Returns the learning rate of the update that a step belongs to, in a training of `steps`."""
    rate = learning_rate(config, steps // config.accumulate)
    return float(rate(step // config.accumulate)) if callable(rate) else rate


def learning_rate(config: ConfigDict, updates: int) -> optax.ScalarOrSchedule:
    """Returns the learning rate, or its schedule: it grows from 0 to its peak, then may decay to 0.

    Raises:
      InputError: if the warm-up takes all of the updates.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if not warmup and config.schedule == "constant":
        return peak
    if warmup >= updates:
        raise InputError(
            f"config.optimizer.warmup_steps must be below {updates}, the number of updates of a "
            f"training: got {warmup}"
        )
    after = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, updates - warmup),
        "linear": optax.linear_schedule(peak, 0.0, updates - warmup),
    }[config.schedule]
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])
