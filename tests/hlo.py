"""What tests read from the text of a compiled program."""

import math
import re


def sizes_of_words(text: str) -> list[int]:
    """How many elements each uint32 array of the program has."""
    found = re.findall(r"\bu32\[([\d,]*)\]", text)
    return [math.prod(map(int, dims.split(","))) if dims else 1 for dims in found]
