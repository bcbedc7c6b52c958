"""Reads a compiled step: what its memory holds, and the products that it computes."""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from ..tpu.hlo import Instruction, instruction, size


def kept_for_backward(text: str) -> int:
    """Returns the bytes of all values that the forward pass computes and the backward pass reads.

    The text is that of a compiled program, for one chip. Arguments do not count.
    """
    found = {each.name: each for each in entry_instructions(text)}
    kept: set[str] = set()
    for each in found.values():
        if each.is_backward:
            for operand in each.operands:
                kept |= _computed(operand, found, kept)
    return sum(size(found[name].shape) for name in kept)


def entry_instructions(text: str) -> Iterator[Instruction]:
    """Yields the instructions of the entry computation."""
    body = text[text.index("\nENTRY ") :]
    for line in body[: body.index("\n}")].splitlines():
        if found := instruction(line):
            yield found


def _computed(name: str, found: dict[str, Instruction], known: set[str]) -> set[str]:
    """Returns the forward values behind a name. What moves a value has no trace of JAX."""
    values, waiting, seen = set(), [name], set(known)
    while waiting:
        name = waiting.pop()
        if name in seen or name not in found:
            continue
        seen.add(name)
        value = found[name]
        parents = [found[operand] for operand in value.operands if operand in found]
        part = value.kind == "get-tuple-element"
        if value.kind == "constant":
            continue
        if value.is_forward or (part and parents and parents[0].is_forward):
            values.add(name)
        elif not value.is_backward and not (part and parents and parents[0].is_backward):
            waiting += value.operands
    return values


def flops(jaxpr: Any, causal: bool = False, around: float | None = None) -> float:
    """Returns the FLOPs of all matrix products and convolutions of a traced program.

    Products in a loop count as often as it runs. `causal` is as in `executions` of tpu.hlo;
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
