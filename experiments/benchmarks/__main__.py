"""Compares every library's dropout to a copy of x, and reports times, memory and cycles.

    python -m experiments.benchmarks [--only=PATTERN] [--seconds=2] [--workdir=runs/benchmarks]
    python -m experiments.benchmarks --name=cpu-jax-0.12
    python -m experiments.benchmarks --device=tpu:v5e:4x4

The extra `peers` installs the libraries other than Flax, and the extra `tpu` the TPU's compiler.
The report names the libraries that are not installed and leaves them out. `--only` is a regular
expression for rows, such as "layers: spatial" or "networks|training". `--seconds` is the least time
for each row. Results are NAME.json, saved after every row, NAME.md and, for layers, NAME.png in the
workdir. Rows of an earlier run stay unless they are measured again. `--name` is for a second report
of a device, such as one with other versions. Without it, the name is that of the device.
"""

import sys

from ..interrupt import INTERRUPTED, deferred_interrupt, leave, leave_at_ctrl_c

if __name__ == "__main__":
    leave_at_ctrl_c("Interrupted before the first row.")  # the imports below take seconds

import importlib.metadata
import itertools
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
from absl import flags

from .. import checks
from ..errors import InputError, say
from ..files import prepare, replace_text
from ..output import Console
from . import (
    attention,
    attention_kernel,
    drop_block,
    drop_in,
    drop_path,
    figure,
    here,
    overheads,
    recurrent,
    stacks,
    table,
    tpu,
    training,
)
from .cases import Case, cases
from .results import Record, Results, this_device

HERE = "here"


def main(argv: list[str]) -> int:
    """Runs the benchmarks and returns the exit code: 0, 1 for bad input, 130 for Ctrl-C."""
    values = flags.FlagValues()
    flags.DEFINE_string("device", HERE, "This machine, or tpu:TOPOLOGY.", flag_values=values)
    flags.DEFINE_string("only", "", "A regular expression for rows.", flag_values=values)
    flags.DEFINE_float("seconds", 2.0, "Time for each row.", lower_bound=0, flag_values=values)
    flags.DEFINE_string("name", "", "The name of the files for results.", flag_values=values)
    flags.DEFINE_bool("pages_kept", False, "Internal: only the large layers.", flag_values=values)
    flags.DEFINE_string("workdir", "runs/benchmarks", "The folder for results.", flag_values=values)
    if "--help" in argv:
        print(f"{__doc__}\n{values.get_help()}")
        return 0
    try:
        rest = values(argv)
        if len(rest) > 1:
            raise InputError(f"every argument must be a flag: got {' '.join(rest[1:])!r}")
        only, workdir = checks.pattern("--only", values.only), Path(values.workdir)
        if Path(values.name).name != values.name:
            raise InputError(f"--name must be a name without a folder: got {values.name!r}")
        if values.device != HERE:
            results, records = compiled_for(values.device, only)
        elif values.pages_kept:
            results, records = large_layers(only, values.seconds)
        else:
            results, records = on_this_machine(only, values.seconds)
        results.stem = values.name or results.stem
        run(results, records, workdir)
    except (InputError, OSError, flags.Error) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("Interrupted: finished rows are saved.")
        return INTERRUPTED
    return 0


def run(results: Results, records: Iterator[Record], workdir: Path) -> None:
    """Measures all records, and saves after each."""
    console = Console()
    prepare(workdir)
    for name in results.missing:
        console.print(f"{name} is not installed, so it is left out.")
    path = workdir / f"{results.stem}.json"
    results.join(path)
    measured = False
    with deferred_interrupt() as check:
        check("this row")
        try:
            for record in records:
                measured = True
                results.add(record)
                results.save(path)
                console.print(line(record))
                check("this row")
        finally:
            if measured:
                replace_text(path.with_suffix(".md"), table.report(results))
                if not figure.save(results, path.with_suffix(".png")):
                    path.with_suffix(".png").unlink(missing_ok=True)
                console.print(f"Results are in {path} and .md.")
    if not measured:
        raise InputError(
            "no row matches --only, a regular expression for names such as "
            "'layers: spatial f32[8, 32, 32, 128] forward' (write \\[ for a bracket)"
        )


def on_this_machine(only: re.Pattern[str], seconds: float) -> tuple[Results, Iterator[Record]]:
    """Measures every matching row on this machine."""

    def records() -> Iterator[Record]:
        for case in matching(only, itertools.chain(cases(), drop_block.cases(), attention.cases())):
            yield from here.measure(case, seconds)
        if jax.default_backend() == "cpu" and any(map(here.is_large, matching(only, cases()))):
            yield from here.measure_pages_kept(only.pattern, seconds)
        yield from attention.measure(only, seconds)
        yield from drop_path.measure(only, seconds)
        yield from drop_block.measure(only)
        yield from recurrent.measure(only, seconds)
        yield from overheads.measure(only, seconds)
        yield from drop_in.measure(only)
        yield from stacks.measure(only, seconds)
        if jax.default_backend() != "cpu":
            yield from training.measure(only, seconds)

    return Results.start(jax.default_backend(), this_device()), records()


def large_layers(only: re.Pattern[str], seconds: float) -> tuple[Results, Iterator[Record]]:
    """Measures the large layers. The program runs this in a second process that keeps its pages."""
    found = filter(here.is_large, matching(only, cases()))
    records = (r for case in found for r in here.measure(case, seconds, here.TIME_PAGES_KEPT))
    return Results.start(jax.default_backend(), this_device()), records


def compiled_for(device: str, only: re.Pattern[str]) -> tuple[Results, Iterator[Record]]:
    """Compiles every matching JAX program for a TPU, without running it."""
    kind, _, topology = device.partition(":")
    if kind != "tpu" or not topology:
        raise InputError(f"--device must be {HERE} or tpu:TOPOLOGY: got {device!r}")
    jax.config.update("jax_platforms", "cpu")  # nothing runs, so no accelerator is needed
    folder = tempfile.TemporaryDirectory()
    target = tpu.target(topology, Path(folder.name))
    rows = (
        cases(),
        recurrent.cases(),
        drop_block.cases_for_tpu(),
        attention.cases_for_tpu(),
        attention_kernel.cases(),
    )
    found = matching(only, itertools.chain(*rows))

    def records() -> Iterator[Record]:
        with folder:
            for case in found:
                yield from tpu.measure(case, target)

    results = Results.start(device.replace(":", "-"), f"TPU {topology}, compiled for and not run")
    results.versions["libtpu"] = importlib.metadata.version("libtpu")  # the compiler
    return results, records()


def matching(only: re.Pattern[str], found: Iterable[Case]) -> Iterator[Case]:
    """Returns the matching rows."""
    return (case for case in found if only.search(case.id))


def line(record: Record) -> str:
    """Formats a record for the terminal."""
    values = ", ".join(f"{name} {value:.4g}" for name, value in record.values.items())
    return f"{record.section}: {record.row}: {record.quantity}: {values}"


if __name__ == "__main__":
    leave(main(sys.argv))
