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
