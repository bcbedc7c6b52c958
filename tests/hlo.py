"""Reads properties of a compiled program from its text."""

import math
import re


def sizes_of_words(text: str) -> list[int]:
    """Returns the number of elements of each uint32 array in the program."""
    found = re.findall(r"\bu32\[([\d,]*)\]", text)
    return [math.prod(map(int, dims.split(","))) if dims else 1 for dims in found]


def shapes(text: str) -> set[tuple[int, ...]]:
    """Returns the shapes of all arrays in the program."""
    found = re.findall(r"\b[a-z]+\d*\[([\d,]+)\]", text)
    return {tuple(map(int, dims.split(","))) for dims in found}


def collectives(text: str) -> list[str]:
    """Returns the instructions that communicate between devices."""
    kinds = "all-reduce|all-gather|collective-permute|all-to-all|reduce-scatter"
    return re.findall(rf"\b({kinds})(?:-start)?\(", text)


def always_run(text: str) -> str:
    """Returns the part of a compiled program that always runs, outside of its conditionals."""
    bodies = re.split(r"^(?=(?:ENTRY )?%[\w.\-]+ \()", text, flags=re.MULTILINE)
    named = {match[1]: b for b in bodies if (match := re.match(r"(?:ENTRY )?%([\w.\-]+) ", b))}
    todo = [name for name, body in named.items() if body.startswith("ENTRY")]
    found: dict[str, str] = {}
    while todo:
        name = todo.pop()
        lines = named[name].splitlines()
        found[name] = "\n".join(line for line in lines if " conditional(" not in line)
        todo += {*re.findall(r"%([\w.\-]+)", found[name])} & named.keys() - found.keys()
    return "\n".join(found.values())
