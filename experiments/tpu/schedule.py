"""How many cycles does a compiled program need, by the compiler's own schedule?

The compiler's estimates leave out Pallas kernels, and assume less bandwidth than chips have. They
hide work of the vector units, such as hashing, behind waits for memory. The schedule of a fusion
is exact but for those waits. So an instruction takes the cycles of its schedule, or those that HBM
needs for its bytes at peak bandwidth, whichever is more.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from . import bundles
from .hlo import Instruction, Program, executions, instruction
from .topologies import Peak
from .traffic import traffic

_FILE = re.compile(r"\d+-(.+)-\d+-final_bundles\.txt")
_CALLED = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")
_COLLECTIVES = ("all-reduce", "all-gather", "collective", "all-to-all", "reduce-scatter")


class Schedule(NamedTuple):
    """The cycles of a program on one chip."""

    cycles: float
    unsure: float
    """The cycles of instructions with loops of unknown length, which count once."""
    without: float
    """The estimated cycles of instructions without a schedule, which are not in `cycles`."""

    @property
    def gap(self) -> str:
        """What is not counted, in words. Less than a hundredth does not matter."""
        whole, gaps = self.cycles + self.without, []
        if self.unsure > 0.01 * whole:
            share = f"{100 * self.unsure / whole:.0f} % of the cycles"
            gaps.append(f"{share} are of instructions with loops of unknown length, counted once")
        if self.without > 0.01 * whole:
            gaps.append(f"{self.without:,.0f} estimated cycles have no schedule and are left out")
        return ", and ".join(gaps)


def read(text: str, counts: dict[str, bundles.Count], peak: Peak, causal: bool = False) -> Schedule:
    """Adds up the cycles of a program from its text and the counts of its schedules.

    `causal` is as in `executions`. Waits for other chips are not counted.
    """
    program = Program(text)
    same = _by_what_is_computed(program, counts)
    fused = {each.called for each in program.instructions.values() if each.kind == "fusion"}
    cycles, unsure, without = 0.0, 0.0, 0.0
    for line, times in executions(text, causal):
        each = instruction(line)
        if each is None or program.computation_of[each.name] in fused:
            continue
        if each.kind.startswith(_COLLECTIVES):
            continue
        count = counts.get(each.name) or same.get(_computed(each, program))
        if count is None:
            without += times * each.estimate
            continue
        floor = traffic(each, program) / peak.bytes_a_cycle
        scheduled = times * max(count.cycles, floor)
        cycles += scheduled
        unsure += scheduled if count.unknown_loops else 0
    return Schedule(cycles, unsure, without)


def counts(folder: Path) -> dict[str, bundles.Count]:
    """Counts the schedules that the compiler wrote into a folder, by the instruction's name."""
    return {name: bundles.count(path.read_text()) for name, path in _schedules(folder)}


def _schedules(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.iterdir()):
        match = _FILE.fullmatch(path.name)
        if match and match.group(1) != "TLP" and not match.group(1).startswith("<"):
            yield match.group(1), path


def _by_what_is_computed(
    program: Program, counts: dict[str, bundles.Count]
) -> dict[int, bundles.Count]:
    """Returns the counts by the computation, since equal fusions share one schedule."""
    return {
        _computed(program.instructions[name], program): count
        for name, count in counts.items()
        if name in program.instructions
    }


def _computed(each: Instruction, program: Program) -> int:
    """Returns a hash of what an instruction computes, without names."""
    if each.called:
        return _result(each.called, program)
    operands = tuple(program.instructions[name].shape for name in each.operands)
    return hash((each.shape, each.kind, operands, _attributes(each, program)))


def _result(computation: str, program: Program) -> int:
    values = {"": 0}
    name = ""
    for each in program.computations.get(computation, []):
        inputs = tuple(values[name] for name in each.operands) or each.arguments
        name = each.name
        values[name] = hash((each.shape, each.kind, inputs, _attributes(each, program)))
    return values[name]


def _attributes(each: Instruction, program: Program) -> tuple[str, tuple[int, ...]]:
    attributes = re.sub(
        r", (channel_id=\d+|(frontend_attributes|metadata|backend_config)=.*)", "", each.rest
    )
    inner = tuple(_result(name, program) for name in _CALLED.findall(attributes))
    return re.sub(_CALLED, "", attributes), inner
