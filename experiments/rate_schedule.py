"""The schedule of a run's rate: a scale for each step, which multiplies the rate."""

from typing import Any

from ml_collections import ConfigDict

from flax_spatialdrop import schedules

from . import checks

SCHEDULES = ("constant", "early", "late", "linear")
FIELDS = {"name": "constant", "steps": 1, "start": 0.0, "end": 1.0}
"""The fields of `config.rate_schedule` and their defaults."""


def defaults() -> ConfigDict:
    """Returns the part `rate_schedule` of a config: a constant rate."""
    return ConfigDict(FIELDS)


def growing(steps: int) -> ConfigDict:
    """Returns a schedule in which the rate grows from 0 to its full value over some steps."""
    return ConfigDict({**FIELDS, "name": "linear", "steps": steps})


def check(config: ConfigDict) -> None:
    """Raises InputError for an invalid field of `config.rate_schedule`."""
    part = "config.rate_schedule"
    checks.has(part, config, FIELDS)
    checks.one_of(f"{part}.name", config.name, SCHEDULES)
    checks.at_least(1, part, config, ("steps",))
    for field in ("start", "end"):
        checks.rate(f"{part}.{field}", config[field])


def scheduled(config: ConfigDict, rate: Any, step: Any) -> Any:
    """Returns the rates at some steps, by `config.rate_schedule`: arrays, traced or not.

    "early" decays to 0 over the first `steps` steps, "late" is 0 in them, and "linear" goes from
    `start` times the rate to `end` times the rate.
    """
    if config.name == "constant":
        return rate
    if config.name == "linear":
        scale = schedules.linear(config.steps, start=config.start, end=config.end)
    else:
        scale = {"early": schedules.early, "late": schedules.late}[config.name](config.steps)
    return rate * scale(step)
