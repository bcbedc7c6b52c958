"""Measures how much of a dropped value its surroundings give back.

    python -m experiments.correlation --config=configs/correlation.py

`--config.FIELD=VALUE` overrides a field of the config. `--workdir` is the folder for results; the
default is runs/NAME_OF_THE_CONFIG. A config is a Python file that this program runs, so use only
files that you trust.
"""

import sys

from ..interrupt import leave, leave_at_ctrl_c

if __name__ == "__main__":
    leave_at_ctrl_c("Interrupted: the sources that were finished are saved.")

import os
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from .. import checks, settings
from ..errors import InputError, say
from ..files import replace_figure, replace_text
from ..output import Console
from ..workdir import Workdir
from . import figure, measurements, photos, report
from .sources import SOURCES

SIZES = ("seeds", "maps", "photo_size", "photo_step", "places", "channels", "masks", "dropped")
GRADIENTS = ("gradient_batch", "gradient_masks")
NETWORKS = ("weather", "words", "images")
FIELDS = ("name", "sources", "shown", "rate", "rates", "block_size", *SIZES, *GRADIENTS, *NETWORKS)


def main(argv: list[str]) -> int:
    """Measures all sources, and returns the exit code: 0, or 1 for bad input."""
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "The folder for results.", flag_values=values)
    if "--help" in argv:
        print(f"{__doc__}\n{values.get_help()}")
        return 0
    try:
        config = settings.read(argv, values)
        check(config)
        workdir = Workdir(Path(os.path.expanduser(values.workdir or Path("runs", config.name))))
        with workdir.locked():
            run(config, workdir)
    except (InputError, OSError) as error:
        say(f"error: {error}")
        return 1
    return 0


def check(config: ConfigDict) -> None:
    """Raises InputError for a value that cannot be used."""
    checks.has("config", config, FIELDS)
    checks.folder_name("config.name", config.name)
    checks.at_least(1, "config", config, (*SIZES, "block_size", "gradient_batch"))
    checks.at_least(2, "config", config, ("gradient_masks",))
    for name in ("sources", "rates"):
        if not isinstance(config[name], tuple | list) or not config[name]:
            raise InputError(f"config.{name} must be a tuple of at least one: got {config[name]!r}")
    for name in config.sources:
        checks.one_of("each of config.sources", name, SOURCES)
    for rate in (config.rate, *config.rates):
        if not checks.is_number(rate) or not 0 < rate < 1:
            raise InputError(f"config.rate and config.rates must be inside of (0, 1): got {rate!r}")
    photos.check(config.photo_size, max(1, config.photo_step))
    for name in NETWORKS:
        try:
            settings.check(config[name])
        except InputError as error:
            raise InputError(str(error).replace("config.", f"config.{name}.")) from error


def run(config: ConfigDict, workdir: Workdir) -> None:
    """Measures all sources, and saves the results after each."""
    console = Console()
    results = report.start(config, measurements.law(config))
    workdir.set_aside()
    for name in config.sources:
        measure(name, config, results, console)
        for file, text in report.texts(results).items():
            replace_text(workdir.path / file, text)
        replace_figure(workdir.path / "results.png", figure.draw(results))
    console.print(f"Results are in {workdir.path}.")


def measure(name: str, config: ConfigDict, results: dict[str, Any], console: Console) -> None:
    """Adds the places of a source to the results."""
    read = SOURCES[name](config)
    for seed in range(config.seeds):
        reading = read(seed)
        for place, maps in reading.maps.items():
            measured = measurements.place(config, maps, seed)
            measured["noise"] = reading.noise.get(place)
            measured["test score"] = reading.test_score
            results["places"].setdefault(place, []).append(measured)
            console.print(report.line(place, seed, measured))
            if place == config.shown and not results["shown"]:
                results["shown"] = measurements.picture(config, maps)


if __name__ == "__main__":
    leave(main(sys.argv))
