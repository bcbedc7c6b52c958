"""Compiles a config's training step for a slice of TPUs, and prints what each chip needs.

    python -m experiments.tpu_plan --config=configs/resnet50.py --topology=v5e:16x16
    python -m experiments.tpu_plan --config=configs/decoder.py --topology=v5p:2x2x4,v5p:4x8x8

No TPU is needed: the extra `tpu` installs the compiler. Every regularizer of the config is
compiled with this library's layers, each in a process of its own. Those of `config.fast_key` are
compiled again with masks from fast keys, and those of `config.flax` with Flax's own layers. For
the tasks of `experiments.main`, `steps.FLAX` names the latter. `--only` is a regular expression for
names such as "none" or "Flax all". Without `--batch_a_chip` all chips share the config's batch. A
compile may use `--memory_limit` gigabytes and `--time_limit` seconds. Results are saved after each
compile, and a plan that was stopped continues where it was. The workdir has
NAME_OF_THE_CONFIG.json, and report.md and figure.png of all configs in it. Cycles are those of the
compiler's schedule, and its estimate is beside them. Both are good for ratios.
"""

import sys

from ..interrupt import leave, leave_at_ctrl_c

if __name__ == "__main__":
    leave_at_ctrl_c("Interrupted: finished compiles are saved.")

import datetime
from collections.abc import Iterator
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict

from .. import checks, settings
from ..benchmarks import libraries
from ..errors import InputError, say
from ..files import replace_figure, replace_text
from ..output import Console
from ..workdir import Workdir
from . import compiling, figure, steps, table
from .limited import Limits
from .results import Plan, Row


def main(argv: list[str]) -> int:
    """Plans, and returns the exit code: 0, or 1 for bad input."""
    values = flags.FlagValues()
    flags.DEFINE_list("topology", ["v5e:16x16"], "Slices of TPUs.", flag_values=values)
    flags.DEFINE_integer(
        "batch_a_chip", 0, "Examples on each chip.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_string("only", "", "A regular expression for names.", flag_values=values)
    for name, limit, what in (("memory", 20, "Gigabytes"), ("time", 3600, "Seconds")):
        flags.DEFINE_float(
            f"{name}_limit", limit, f"{what} of a compile.", lower_bound=0, flag_values=values
        )
    flags.DEFINE_string("programs", "", "A folder for the programs' text.", flag_values=values)
    flags.DEFINE_string("workdir", "runs/tpu_plan", "The folder for results.", flag_values=values)
    if "--help" in argv:
        print(f"{__doc__}\n{values.get_help()}")
        return 0
    jax.config.update("jax_platforms", "cpu")  # leaves libtpu to the processes that compile
    try:
        config = settings.read(argv, values)
        steps.check(config)
        workdir = Path(values.workdir)
        with Workdir(workdir).locked():
            run(config, values, workdir)
    except (InputError, OSError) as error:
        say(f"error: {error}")
        return 1
    return 0


def run(config: ConfigDict, values: flags.FlagValues, workdir: Path) -> None:
    """Compiles all programs that are missing, and writes the report."""
    console, path = Console(), workdir / f"{config.name}.json"
    limits = Limits(values.memory_limit, values.time_limit)
    versions = {name: libraries.versions()[name] for name in ("jax", "flax", "flax-spatialdrop")}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    plan = Plan(config.to_dict(), versions, today)
    plan.resume(path)
    try:
        for arm, row in rows(config, values, limits):
            earlier = plan.find(row)
            if earlier is None or earlier.failure:
                texts = Path(values.programs) if values.programs else None
                compiling.fill(row, config, arm, limits, texts)
                plan.add(row)
                plan.save(path)
            console.print(table.line(plan, row))
    finally:
        if plan.rows:
            write_report(workdir)
            console.print(f"Results are in {path}, report.md and figure.png.")


def rows(
    config: ConfigDict, values: flags.FlagValues, limits: Limits
) -> Iterator[tuple[steps.Arm, Row]]:
    """Yields what to compile, with rows to fill in."""
    only = checks.pattern("--only", values.only)
    chosen = [arm for arm in steps.arms(config) if only.search(arm.name)]
    if not chosen:
        names = ", ".join(arm.name for arm in steps.arms(config))
        raise InputError(f"no program matches --only={values.only}: there are {names}")
    counts = {name: compiling.count_chips(name, limits) for name in values.topology}
    for chips in counts.values():
        batch = values.batch_a_chip * chips or config.batch_size
        steps.check_batch(config, batch, chips)
    for topology, chips in counts.items():
        batch = values.batch_a_chip * chips or config.batch_size
        for arm in chosen:
            baseline = steps.compared_to(config, arm)
            row = Row(config.name, topology, chips, batch / chips, arm.name, None)
            row.compared_to = baseline.name if baseline else None
            yield arm, row


def write_report(workdir: Path) -> None:
    """Writes the report and the figure of all plans in the workdir."""
    plans = [Plan.load(path) for path in sorted(workdir.glob("*.json"))]
    replace_text(workdir / "report.md", table.report(plans))
    replace_figure(workdir / "figure.png", figure.draw(plans))


if __name__ == "__main__":
    leave(main(sys.argv))
