"""What tests read from the text of a compiled program."""

import math
import re


def sizes_of_words(text: str) -> list[int]:
    """How many elements each uint32 array of the program has."""
    found = re.findall(r"\bu32\[([\d,]*)\]", text)
    return [math.prod(map(int, dims.split(","))) if dims else 1 for dims in found]


def collectives(text: str) -> list[str]:
    """The instructions that cross devices."""
    kinds = "all-reduce|all-gather|collective-permute|all-to-all|reduce-scatter"
    return re.findall(rf"\b({kinds})(?:-start)?\(", text)


def always_run(text: str) -> str:
    """The part of a compiled program that runs whichever way its conditionals go."""
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
