"""Reads a compiled step: what its memory holds, and the products that it computes."""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64} | {
    f"{sign}{bits}": bits for sign in "su" for bits in (8, 16, 32, 64)
}
_SHAPE = re.compile(r"\b(\w+)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)")


class Instruction(NamedTuple):
    """An instruction of a program's main computation. `op_name` is the trace of JAX."""

    shape: str
    kind: str
    operands: list[str]
    op_name: str

    @property
    def is_forward(self) -> bool:
        """Whether the forward pass computes the value."""
        return "jvp(" in self.op_name and not self.is_backward

    @property
    def is_backward(self) -> bool:
        """Whether the backward pass computes the value."""
        return "transpose(" in self.op_name


def kept_for_backward(text: str) -> int:
    """Returns the bytes of all values that the forward pass computes and the backward pass reads.

    The text is that of a compiled program, for one chip. Arguments do not count.
    """
    found = dict(instructions(text))
    kept: set[str] = set()
    for instruction in found.values():
        if instruction.is_backward:
            for operand in instruction.operands:
                kept |= _computed(operand, found, kept)
    return sum(size(found[name].shape) for name in kept)


def instructions(text: str) -> Iterator[tuple[str, Instruction]]:
    """Yields the instructions of the main computation by name."""
    main = text[text.index("\nENTRY ") :]
    for line in main[: main.index("\n}")].splitlines():
        if match := _INSTRUCTION.match(line):
            name, shape, kind, rest = match.groups()
            operands = re.findall(r"%([\w.\-]+)", rest.partition(")")[0])
            op_name = re.search(r'op_name="([^"]*)"', rest)
            yield name, Instruction(shape, kind, operands, op_name.group(1) if op_name else "")


def _computed(name: str, found: dict[str, Instruction], known: set[str]) -> set[str]:
    """Returns the forward values behind a name. What moves a value has no trace of JAX."""
    values, waiting, seen = set(), [name], set(known)
    while waiting:
        name = waiting.pop()
        if name in seen or name not in found:
            continue
        seen.add(name)
        instruction = found[name]
        parents = [found[operand] for operand in instruction.operands if operand in found]
        part = instruction.kind == "get-tuple-element"
        if instruction.kind == "constant":
            continue
        if instruction.is_forward or (part and parents and parents[0].is_forward):
            values.add(name)
        elif not instruction.is_backward and not (part and parents and parents[0].is_backward):
            waiting += instruction.operands
    return values


def size(shape: str) -> int:
    """Returns the bytes of a shape as in "bf16[16,1000]{1,0:T(8,128)(2,1)}", with its padding."""
    total = 0
    for dtype, sizes, order, layout in _SHAPE.findall(shape):
        if dtype in BITS:
            dims = [int(size) for size in sizes.split(",") if size]
            if tile := re.search(r"T\(([\d,]+)\)", layout):
                minor_first = [int(axis) for axis in order.split(",") if axis]
                tiles = [int(size) for size in reversed(tile.group(1).split(","))]
                for axis, unit in zip(minor_first, tiles, strict=False):
                    dims[axis] = -(-dims[axis] // unit) * unit
            total += math.prod(dims) * BITS[dtype] // 8
    return total


def flops(jaxpr: Any, causal: bool = False, around: float | None = None) -> float:
    """Returns the FLOPs of all matrix products and convolutions of a traced program.

    Products in a loop count as often as it runs. `causal` is as in `executions` of benchmarks.tpu;
    `around` is the length of the loop around the program.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        parameters = equation.params
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            products = math.prod(shape[axis] for axis in contracted)
            total += 2 * products * math.prod(equation.outvars[0].aval.shape)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            outputs = kernel[parameters["dimension_numbers"].rhs_spec[0]]
            spread = math.prod(parameters["lhs_dilation"])  # zeros between inputs
            products = math.prod(kernel) / outputs / spread
            total += 2 * products * math.prod(equation.outvars[0].aval.shape)
        elif equation.primitive.name == "cond":
            branches = [flops(branch.jaxpr, causal, around) for branch in parameters["branches"]]
            total += max(branches)
        elif equation.primitive.name == "while":
            body = flops(parameters["body_jaxpr"].jaxpr, causal)
            if body and (around is None or not causal):
                raise ValueError("a loop must count up to a constant: one with products has none")
            total += body * ((around or 0) + 1) / 2
        elif equation.primitive.name == "scan":
            length = parameters["length"]
            total += length * flops(parameters["jaxpr"].jaxpr, causal, length)
        else:
            for inner in jax.tree.leaves(list(parameters.values()), is_leaf=_is_program):
                if _is_program(inner):
                    total += flops(getattr(inner, "jaxpr", inner), causal, around)
    return total


def _is_program(value: Any) -> bool:
    return isinstance(value, Jaxpr | ClosedJaxpr)
