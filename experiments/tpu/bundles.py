"""Counts the cycles of a schedule, the compiler's last text of one fusion or kernel.

A schedule has one line a bundle, and a chip issues a bundle a cycle. Loops and conditions are
branches between numbered regions:

    0x4 LB: > { %s1 = sphi %s0, %s2  ;;  %p1 = scmp.ge.s32.totalorder %s1, 5 } /* Start region 7 */
    0x5   : > { %9 = sbr.rel (%p1) target = $region8 }
    0x6   : > { ... }
    0x7   : > { %s2 = sadd.s32 1, %s1 } /* Start region 8 */
    0x8   : > { %p2 = scmp.ge.s32.totalorder %s2, 42 /* loop exit test */ }
    0x9   :  { %3 = sbr.rel (!%p2) target = $region7 }
"""

import operator
import re
from collections.abc import Callable
from typing import NamedTuple

MOST_TRIPS = 2**20
"""Loops that are longer count as loops of unknown length."""
_BUNDLE = re.compile(r"^\s*(?:0x[0-9a-f]+|0)\s+(\w\w)?\s*: ")
_DEFINITION = re.compile(r"(%\w+) = ([a-z][\w.]*)(?: (?![ }/]))?(.*?)(?= /\*|  ;;| \}|$)")
_BRANCH = re.compile(r"sbr\.rel \((!?%\w+)\) target = \$region(\d+)")
_START = re.compile(r"Start(?:/End empty)? region (\d+)")
_SPILL = re.compile(r"sst (\[smem:\[#\w+_spill\]\]) (%\w+)")
_BINARY: dict[str, Callable[[int, int], int]] = {
    "sadd.s32": operator.add,
    "ssub.s32": operator.sub,
    "smul": operator.mul,
    "pnand": lambda a, b: not (a and b),
    "pand": lambda a, b: a and b,
    "por": lambda a, b: a or b,
    **{
        f"scmp.{name}.{sign}32.totalorder": getattr(operator, name)
        for name in ("lt", "le", "gt", "ge", "eq", "ne")
        for sign in "su"
    },
}


class Count(NamedTuple):
    """The cycles of a schedule. Loops of unknown length count once, and branches taken too."""

    cycles: float
    unknown_loops: int


class _Branch(NamedTuple):
    place: int
    target: int
    predicate: str


class _Loop(NamedTuple):
    start: int
    end: int
    trips: list[dict[str, int | None]]
    """The scalars that the loop carries, in each iteration; empty if its length is unknown."""


def count(text: str) -> Count:
    """Returns the bundles of a schedule, each as often as the chip issues it.

    Waits for memory and for other chips are not in a schedule. Where a condition depends on
    anything but scalars that a loop carries, both sides count.
    """
    lines = [line for line in text.splitlines() if _BUNDLE.match(line)]
    if not lines:
        raise ValueError("a schedule must have bundles, lines such as '0x1   :  { ... }': got none")
    values, regions = _Values(lines), _regions(lines)
    branches = [
        _Branch(place, regions[region], predicate)
        for place, line in enumerate(lines)
        for predicate, region in _BRANCH.findall(line)
        if region in regions
    ]
    # The last branch back to a bundle ends its loop.
    ends = {branch.target: branch for branch in branches if branch.target <= branch.place}
    loops: list[_Loop] = []
    for start, end in ends.items():
        inside = [each.predicate for each in branches if start <= each.place <= end.place]
        inner = [other for other in ends if start < other <= end.place]
        own = set(range(start, end.place + 1))
        own -= {place for other in inner for place in range(other, ends[other].place + 1)}
        carried = values.carried(inside, own)
        loops.append(_Loop(start, end.place, _trips(values, end.predicate, carried)))
    times = [1.0] * len(lines)
    for loop in loops:
        for place in range(loop.start, loop.end + 1):
            times[place] *= len(loop.trips) or 1
    for branch in branches:
        skipped = range(branch.place + 1, branch.target)
        share = _share_taken(values, branch, loops) if skipped else 0
        for place in skipped:
            times[place] *= 1 - share
    return Count(sum(times), sum(not loop.trips for loop in loops))


class _Values:
    """Computes predicates and scalars of a schedule from the counters of its loops."""

    def __init__(self, lines: list[str]) -> None:
        self.definitions: dict[str, tuple[str, list[str]]] = {}
        self.places: dict[str, int] = {}
        for place, line in enumerate(lines):
            for name, kind, operands in _DEFINITION.findall(line):
                self.definitions[name] = kind.removesuffix(".u32"), _operands(operands)
                self.places[name] = place
        stored: dict[str, set[str]] = {}  # the scalars that a schedule keeps in memory for later
        for line in lines:
            for slot, name in _SPILL.findall(line):
                stored.setdefault(slot, set()).add(name)
        self.spilled = {slot: names.pop() for slot, names in stored.items() if len(names) == 1}

    def get(self, word: str, known: dict[str, int | None]) -> int | None:
        """Returns the value of an operand, or None if it depends on anything that is not known."""
        if word.startswith("!"):
            value = self.get(word[1:], known)
            return None if value is None else not value
        if not word.startswith("%"):
            return _number(word)
        if word not in known:
            known[word] = None  # for a value that depends on itself
            known[word] = self._compute(word, known)
        return known[word]

    def _compute(self, word: str, known: dict[str, int | None]) -> int | None:
        kind, operands = self.definitions.get(word, ("", []))
        if kind == "sld":
            return self.get(self.spilled.get(operands[0], ""), known)
        if kind == "smov" and len(operands) == 3:  # (condition, else), then
            is_then = self.get(operands[0], known)
            return None if is_then is None else self.get(operands[2 if is_then else 1], known)
        if len(operands) == 1 and kind in ("smov", "pmov", "pneg"):
            value = self.get(operands[0], known)
            return not value if kind == "pneg" and value is not None else value
        if len(operands) != 2 or kind not in _BINARY:
            return None
        a, b = (self.get(operand, known) for operand in operands)
        if a is None or b is None:
            # One side decides a conjunction or a disjunction.
            decides = {"pand": False, "pnand": False, "por": True}.get(kind)
            sides = {bool(side) for side in (a, b) if side is not None}
            return decides != (kind == "pnand") if decides in sides else None
        return _BINARY[kind](a, b)

    def carried(self, words: list[str], places: set[int]) -> dict[str, list[str]]:
        """Returns the scalars at these places that a loop carries and that operands depend on.

        Each has two operands: its first value, and the one of the following trip.
        """
        found: dict[str, list[str]] = {}
        waiting, seen = list(words), set()
        while waiting:
            word = waiting.pop().lstrip("!")
            if word in seen:
                continue
            seen.add(word)
            kind, operands = self.definitions.get(word, ("", []))
            if kind == "sphi" and len(operands) == 2 and self.places[word] in places:
                found[word] = operands
            waiting += [self.spilled.get(operands[0], "")] if kind == "sld" else operands
        return found


def _operands(text: str) -> list[str]:
    """Returns the operands of a definition, without the predicate under which it is done."""
    without = re.sub(r"^\(!?%\w+\),? ?", "", text)
    return [word.strip(" ()") for word in without.split(",")]


def _number(word: str) -> int | None:
    if not re.fullmatch(r"-?\d+", word):
        return None
    value = int(word)
    return value - 2**32 if value >= 2**31 else value


def _regions(lines: list[str]) -> dict[str, int]:
    """Returns the first bundle of each region."""
    starts: dict[str, int] = {}
    for place, line in enumerate(lines):
        for region in _START.findall(line):
            starts.setdefault(region, place)
    return starts


def _trips(
    values: _Values, predicate: str, carried: dict[str, list[str]]
) -> list[dict[str, int | None]]:
    """Returns the scalars that a loop carries at the start of each trip, [] if they are unknown."""
    state = {name: values.get(first, {}) for name, (first, _) in carried.items()}
    trips: list[dict[str, int | None]] = []
    while len(trips) < MOST_TRIPS:
        trips.append(state)
        known = dict(state)
        stays = values.get(predicate, known)
        if not stays:
            return [] if stays is None else trips
        state = {name: values.get(following, known) for name, (_, following) in carried.items()}
    return []


def _share_taken(values: _Values, branch: _Branch, loops: list[_Loop]) -> float:
    """Returns how often a branch is taken, as a share of how often the chip comes to it."""
    around = [loop for loop in loops if loop.start <= branch.place <= loop.end and loop.trips]
    for loop in sorted(around, key=lambda loop: loop.end - loop.start):
        taken = [values.get(branch.predicate, dict(state)) for state in loop.trips]
        if None not in taken:
            return sum(map(bool, taken)) / len(taken)
    return 0.0
