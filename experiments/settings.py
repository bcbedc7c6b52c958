"""The command line: flags become a checked config and a folder that can be written."""

import tempfile
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from .errors import InputError
from .grid import MODES
from .models import MODELS, REGULARIZERS


def parse(argv: list[str]) -> tuple[ConfigDict, Path]:
    """Returns the config, with what the command line overrides, and the folder for results."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "The file that makes the config.", flag_values=values, sys_argv=argv
    )
    flags.DEFINE_string("workdir", None, "Where results go.", flag_values=values)
    try:
        rest = values(argv)
        config = values.config
        if config is None:
            raise InputError("a config is needed: --config=configs/pos_tagging.py")
        check(config)
    except (AttributeError, KeyError, TypeError) as error:
        name = str(error).strip("\"'")
        raise InputError(f"the config has no field that this names: {name}") from error
    except (flags.Error, OSError) as error:
        # A config file that fails is reported with its whole traceback; the last line says why.
        raise InputError(str(error).strip().splitlines()[-1].strip()) from error
    if len(rest) > 1:
        raise InputError(f"every argument must be a flag: got {' '.join(rest[1:])!r}")
    return config, Path(values.workdir or Path("runs", config.name))


def check(config: ConfigDict) -> None:
    """Raises InputError for a value that training cannot use."""
    _one_of("model", config.model, MODELS)
    _one_of("grid", config.grid, MODES)
    for name in config.regularizers:
        _one_of("regularizers", name, REGULARIZERS)
    for rate in config.rates:
        if not isinstance(rate, float | int) or not 0 <= rate <= 1:
            raise InputError(f"config.rates must be numbers in [0, 1]: got {rate!r}")
    for name in ("regularizers", "rates"):
        if not config[name]:
            raise InputError(f"config.{name} must not be empty")
        if len(set(config[name])) < len(config[name]):
            raise InputError(f"config.{name} must not name a value twice: got {config[name]}")
    sizes = ("seeds", "features", "hidden", "batch_size", "epochs", "patience")
    data_sizes = ("max_length", "min_count", "min_class_count")
    limits = ("train_sentences", "validation_sentences", "test_sentences")
    _at_least(1, "config", config, sizes)
    _at_least(1, "config.data", config.data, data_sizes)
    _at_least(0, "config.data", config.data, (*limits, "split_seed"))
    if not config.learning_rate > 0:
        raise InputError(f"config.learning_rate must be above 0: got {config.learning_rate}")


def prepare(workdir: Path) -> None:
    """Makes the folder and writes to it once, so that a bad one is found before training."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=workdir).close()
    except OSError as error:
        raise InputError(f"cannot write to the workdir {workdir}: {error.strerror}") from error


def _one_of(field, value, known):
    if value not in known:
        raise InputError(f"config.{field} knows {', '.join(known)}: got {value!r}")


def _at_least(least, part, config, fields):
    for field in fields:
        if config[field] < least:
            raise InputError(f"{part}.{field} must be at least {least}: got {config[field]}")
