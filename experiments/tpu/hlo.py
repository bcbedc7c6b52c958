"""Reads the text of a compiled program: how often instructions run, and what they cost.

A program's text has one computation after the other, and one instruction a line.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64} | {
    f"{sign}{bits}": bits for sign in "su" for bits in (8, 16, 32, 64)
}
_SHAPE = re.compile(r"\b(\w+)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)")
_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_COLLECTIVE = re.compile(
    r"\b(all-reduce|all-gather|collective-permute|all-to-all|reduce-scatter)(?:-start)?\("
)


class Instruction(NamedTuple):
    """An instruction of a program."""

    name: str
    shape: str
    kind: str
    arguments: str
    """The text in parentheses: operands, or the number of a parameter."""
    rest: str
    """The text after the parentheses."""

    @property
    def operands(self) -> list[str]:
        """The names of the values that it takes."""
        return re.findall(r"%([\w.\-]+)", self.arguments)

    @property
    def op_name(self) -> str:
        """The trace of JAX."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found.group(1) if found else ""

    @property
    def is_forward(self) -> bool:
        """Whether the forward pass computes the value."""
        return "jvp(" in self.op_name and not self.is_backward

    @property
    def is_backward(self) -> bool:
        """Whether the backward pass computes the value."""
        return "transpose(" in self.op_name

    @property
    def called(self) -> str:
        """The name of the computation of a fusion."""
        found = re.search(r"\bcalls=%?([\w.\-]+)", self.rest)
        return found.group(1) if found else ""

    @property
    def estimate(self) -> int:
        """The cycles that the compiler estimates for one execution."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.rest)
        return int(found.group(1)) if found else 0


class Program:
    """The instructions of a program, by name and by computation."""

    def __init__(self, text: str) -> None:
        self.computations: dict[str, list[Instruction]] = {}
        self.instructions: dict[str, Instruction] = {}
        self.computation_of: dict[str, str] = {}
        name = ""
        for line in text.splitlines():
            if header := _HEADER.match(line):
                name = header.group(1)
            if each := instruction(line):
                self.computations.setdefault(name, []).append(each)
                self.instructions[each.name] = each
                self.computation_of[each.name] = name


def instruction(line: str) -> Instruction | None:
    """Returns the instruction of a line, if it has one."""
    match = _INSTRUCTION.match(line)
    if match is None:
        return None
    name, shape, kind, rest = match.groups()
    arguments, _, rest = rest.partition(")")
    return Instruction(name, shape, kind, arguments, rest)


def total_cycles(text: str, causal: bool = False) -> float:
    """Returns the estimated cycles of a program. A loop's body counts as often as it runs."""
    return sum(cycles * times for cycles, times in estimates(text, causal))


def estimates(text: str, causal: bool = False) -> Iterator[tuple[int, float]]:
    """Yields the cycles of each instruction that has an estimate, and how often it runs."""
    for line, times in executions(text, causal):
        for cycles in re.findall(r'"estimated_cycles":"(\d+)"', line):
            yield int(cycles), times


def collectives(text: str, causal: bool = False) -> Counter[str]:
    """Returns how often each kind of collective runs.

    A collective that runs beside computations is in several of them, with one channel.
    """
    channels: dict[tuple[str, str], float] = {}
    for line, times in executions(text, causal):
        for kind in _COLLECTIVE.findall(line):
            channel = re.search(r"channel_id=\d+", line)
            id = kind, channel.group() if channel else line
            channels[id] = max(times, channels.get(id, 0))
    counts: Counter[str] = Counter()
    for (kind, _), times in channels.items():
        counts[kind] += round(times)
    return counts


def executions(text: str, causal: bool) -> Iterator[tuple[str, float]]:
    """Yields each line of a compiled program's text, and how often it runs.

    JAX's scans count from 0 up to a constant in their conditions, and so do the compiler's loops
    that send the parts of a product while others are computed. Causal attention in blocks has a
    loop without: for block i of n, it visits i blocks. With `causal`, such a loop has the mean
    length, (n + 1) / 2, if it is inside a loop of length n.
    """
    lines: list[tuple[str, str]] = []  # (computation, line)
    constants: dict[str, int] = {}
    lengths: dict[str, int | None] = {}  # condition -> number of iterations
    callers: dict[str, tuple[str, str | None]] = {}  # -> (the computation around, condition)
    name = ""
    for line in text.splitlines():
        if header := _HEADER.match(line):
            name = header.group(1)
        lines.append((name, line))
        if constant := re.match(r"\s*%?([\w.\-]+) = [su]32\[\]\S* constant\((\d+)\)", line):
            constants[constant.group(1)] = int(constant.group(2))
        if limit := re.match(r"\s*ROOT .* compare\(.*%([\w.\-]+)\), direction=LT", line):
            lengths[name] = constants.get(limit.group(1))
        if loop := re.search(r" while\(.*\bcondition=%?([\w.\-]+), body=%?([\w.\-]+)", line):
            callers[loop.group(2)] = name, loop.group(1)
        elif call := re.search(r"\bcalls=%?([\w.\-]+)", line):
            callers[call.group(1)] = name, None

    def length(condition: str, outside: str) -> float:
        if (known := lengths.get(condition)) is not None:
            return known
        around = callers.get(outside, ("", None))
        if not causal or around[1] is None:
            raise ValueError(f"a loop must count up to a constant: {condition} has none")
        return (length(around[1], around[0]) + 1) / 2

    def runs(name: str) -> float:
        if name not in callers:
            return 1
        outside, condition = callers[name]
        return runs(outside) * (1 if condition is None else length(condition, outside))

    times = {name: runs(name) for name in dict.fromkeys(name for name, _ in lines)}
    for name, line in lines:
        yield line, times[name]


def size(shape: str) -> int:
    """Returns the bytes of a shape as in "bf16[16,1000]{1,0:T(8,128)(2,1)}", with its padding."""
    return sum(bytes for bytes, _ in _arrays(shape))


def size_in_hbm(shape: str) -> int:
    """Returns the bytes of a shape without the arrays in other memories, such as S(1), the VMEM."""
    return sum(bytes for bytes, layout in _arrays(shape) if "S(" not in layout)


def _arrays(shape: str) -> Iterator[tuple[int, str]]:
    for dtype, sizes, order, layout in _SHAPE.findall(shape):
        if dtype in BITS:
            dims = [int(size) for size in sizes.split(",") if size]
            if tile := re.search(r"T\(([\d,]+)\)", layout):
                minor_first = [int(axis) for axis in order.split(",") if axis]
                tiles = [int(size) for size in reversed(tile.group(1).split(","))]
                for axis, unit in zip(minor_first, tiles, strict=False):
                    dims[axis] = -(-dims[axis] // unit) * unit
            yield math.prod(dims) * BITS[dtype] // 8, layout
