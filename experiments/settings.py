"""Turns the command line into a checked config, and that into the configs of its conditions."""

import difflib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from . import checks, devices, optimizer, processes, rate_schedule
from .errors import InputError
from .tasks import PLANNED, TASKS

SIZES = ("seeds", "batch_size", "epochs", "patience")
INTERVALS = ("steps_per_call", "checkpoint_every")
DTYPES = ("float32", "bfloat16")
PARTS = ("data", "mesh", "optimizer", "rate_schedule")
FIELDS = ("name", "task", "regularizers", "rates", "dtype", *PARTS, *SIZES, *INTERVALS)


class Options(NamedTuple):
    """The flags beside the config.

    Attributes:
      workdir: the folder for results.
      resume: whether to continue what is there.
      profile: whether to trace a call of the compiled steps.
      cluster: the processes that train together, or None for this one alone.
    """

    workdir: Path
    resume: bool
    profile: bool
    cluster: processes.Cluster | None = None


def define_flags() -> flags.FlagValues:
    """Returns the flags beside the config."""
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "The folder for results.", flag_values=values)
    flags.DEFINE_bool("resume", False, "Continue what is in the workdir.", flag_values=values)
    flags.DEFINE_bool("profile", False, "Trace a call of the steps.", flag_values=values)
    processes.define_flags(values)
    return values


def parse(argv: list[str]) -> tuple[ConfigDict, Options]:
    """Returns the config, with the overrides of the command line, and the other flags."""
    values = define_flags()
    config = read(argv, values)
    check(config)
    workdir = os.path.expanduser(values.workdir or Path("runs", config.name))
    cluster = processes.from_flags(values)
    return config, Options(Path(workdir), values.resume, values.profile, cluster)


def read(argv: list[str], values: flags.FlagValues) -> ConfigDict:
    """Parses the flags that `values` defines, and returns the config of the flag --config."""
    try:
        config_flags.DEFINE_config_file(
            "config", None, "The file of the config.", flag_values=values, sys_argv=argv
        )
        rest = values(argv)
        config = values.config
        if config is not None:
            # The first access raises an error if the file could not be opened.
            _ = config.name, config.to_dict()
    except OSError as error:
        why = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"cannot read the config: {why}") from error
    except flags.Error as error:
        # An error in the config file has its whole traceback. The last line is the message.
        why = str(error).strip().splitlines()[-1].strip()
        kind, _, message = why.partition(": ")
        if kind == "ValueError" and message:
            why = message
        elif kind.isidentifier():
            why = f"the config file fails: {why}"
        raise InputError(why) from error
    except (InputError, KeyboardInterrupt):
        raise
    except BaseException as error:  # the config file is Python and can raise anything
        why = _unknown_field(argv) or f"the config file fails: {type(error).__name__}: {error}"
        raise InputError(why) from error
    if not values["config"].present:
        raise InputError("a config is needed: --config=configs/pos_tagging.py")
    if len(rest) > 1:
        raise InputError(f"every argument must be a flag: got {' '.join(rest[1:])!r}")
    return config


def check(config: ConfigDict) -> None:
    """Raises InputError for a value that training cannot use."""
    checks.has("config", config, ("name", "task"))
    if isinstance(config.task, str) and config.task in PLANNED:
        raise InputError(
            f"the task {config.task} only plans a training: use python -m experiments.tpu_plan"
        )
    checks.has("config", config, FIELDS)
    checks.folder_name("config.name", config.name)
    checks.one_of("config.task", config.task, TASKS)
    task = TASKS[config.task]
    for name in ("regularizers", "rates"):
        if not isinstance(config[name], tuple | list):
            raise InputError(f"config.{name} must be a tuple: got {config[name]!r}")
    for name in config.regularizers:
        checks.one_of("each of config.regularizers", name, task.regularizers)
    for rate in config.rates:
        checks.rate("each of config.rates", rate)
    for name in ("regularizers", "rates"):
        if not config[name]:
            raise InputError(f"config.{name} must not be empty")
        if len(set(config[name])) < len(config[name]):
            raise InputError(
                f"config.{name} must not have a value twice, and a flag that is given twice adds "
                f"its values: got {config[name]}"
            )
    checks.at_least(1, "config", config, SIZES)
    checks.at_least(0, "config", config, INTERVALS)
    checks.one_of("config.dtype", config.dtype, DTYPES)
    devices.check(config.mesh)
    optimizer.check(config.optimizer)
    rate_schedule.check(config.rate_schedule)
    task.check(config)
    try:
        json.dumps(config.to_dict(), allow_nan=False)
    except (TypeError, ValueError) as error:  # a custom field can be any object
        raise InputError(f"results cannot hold the config as JSON: {error}") from error


def conditions(config: ConfigDict) -> dict[str, ConfigDict]:
    """Returns the checked config of each condition, by name. Numbers in names sort by their value.

    A condition changes fields of the config after the command line did.
    """
    changes = config.get("conditions") or ConfigDict()
    checks.has("config.conditions", changes, ())
    for name in changes:
        checks.folder_name("the name of a condition", name)
    found = {}
    for name in sorted(changes, key=_by_numbers):
        condition = config.copy_and_resolve_references()
        try:
            with condition.unlocked():
                del condition.conditions
            _change("config", condition, changes[name])
            for field in ("name", "task"):
                if condition[field] != config[field]:
                    raise InputError(f"config.{field} must be the same in all conditions")
            check(condition)
        except InputError as error:
            raise InputError(f"condition {name}: {error}") from error
        condition.name = f"{config.name}, {name}"
        found[name] = condition
    return found


def _by_numbers(name: str) -> list[tuple[str, int]]:
    plain = re.sub(r"(?<=\d),(?=\d{3})", "", name)  # 1,000 is a number
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", plain)]


def _change(part: str, config: ConfigDict, changes: ConfigDict) -> None:
    checks.has(part, changes, ())
    for field in changes:
        if field not in config:
            raise InputError(_no_field(part, config, field))
        if isinstance(config[field], ConfigDict):
            _change(f"{part}.{field}", config[field], changes[field])
        else:
            with config.ignore_type():  # `check` has better messages
                config[field] = changes[field]


def _no_field(part: str, config: Iterable[str], field: str) -> str:
    similar = difflib.get_close_matches(field, config, 1)
    hint = f" (did you mean {similar[0]}?)" if similar else ""
    return f"{part} has no field {field}{hint}: it has {', '.join(config)}"


def _unknown_field(argv: list[str]) -> str:
    """Says which override the config has no field for. Empty if the config file itself fails."""
    overrides = [argument for argument in argv if re.match(r"--?(no)?config\.", argument)]
    rest = [argument for argument in argv if argument not in overrides]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=rest)
    try:
        values(rest, known_only=True)
        config = values.config.to_dict()
    except BaseException:
        return ""
    for override in overrides:
        name, place = "config", config
        for field in override.partition("=")[0].split(".")[1:]:
            if not isinstance(place, dict):
                return f"{name} is one value without fields: got {override}"
            if field not in place:
                return _no_field(name, place, field)
            name, place = f"{name}.{field}", place[field]
    return ""
