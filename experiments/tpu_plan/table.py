"""The report of a plan, in Markdown."""

from typing import NamedTuple

from ..tables import markdown
from .results import PARTS, Plan, Row

MIB = 2**20


def report(plans: list[Plan]) -> str:
    """Returns the report of plans: what dropout adds, then every program."""
    versions = ", ".join(f"{name} {version}" for name, version in plans[0].versions.items())
    dates = sorted({plan.date for plan in plans})
    costs = [
        (row.config, row.topology, f"{row.chips:,}", f"{row.batch_a_chip:g}", row.arm, *found)
        for plan in plans
        for row in ordered(plan.rows)
        if (found := added(plan, row))
    ]
    lines = [
        "# A pod, planned",
        "",
        f"Compiled for TPUs and not run, {' and '.join(dates)}; {versions}. All numbers are for "
        "one chip and one step. Cycles are those of the compiler's schedule, and its estimate is "
        "beside them.",
        "",
        *slices(plans),
        "## What dropout adds",
        "",
        *markdown(("config", "topology", "chips", "batch a chip", "dropout", *ADDED), costs),
        "",
        "## Every program",
    ]
    for plan in plans:
        for topology in dict.fromkeys(row.topology for row in ordered(plan.rows)):
            rows = [row for row in ordered(plan.rows) if row.topology == topology]
            lines += ["", f"### {rows[0].config} on {topology}", ""]
            lines += markdown(HEADER, (cells(row) for row in rows if not row.failure))
            notes = [(row.arm, row.failure or row.not_scheduled) for row in rows]
            lines += [f"\n{arm}: {note}." for arm, note in notes if note]
    return "\n".join(lines) + "\n"


class Added(NamedTuple):
    """What a row adds to the row without dropout, as cells. Unknown cycles are empty."""

    share: str
    millions: str
    estimated_share: str
    estimated_millions: str
    memory: str
    collectives: str


ADDED = Added(
    *("cycles", "in millions", "estimated cycles", "in millions", "memory in MiB", "collectives")
)
HEADER = (
    "dropout",
    "peak in MiB",
    *PARTS,
    "cycles in millions",
    "estimate in millions",
    "FLOPs in billions",
    "collectives",
    "compile time in s",
)


def slices(plans: list[Plan]) -> list[str]:
    """Returns a table of what the same dropout adds on several slices of one kind of chips."""
    found = on_slices(plans)
    sizes = sorted({chips for costs in found.values() for chips in costs})
    if not sizes:
        return []
    header = ("config", "dropout", "TPU", *(f"{size:,} chips" for size in sizes), "collectives")
    rows = []
    for name, costs in found.items():
        shown = [cell(costs, size) for size in sizes]
        collectives = sorted({cost.collectives for cost in costs.values()})
        rows.append((*name, *shown, " to ".join(collectives)))
    title = "## The same dropout on more chips"
    about = (
        "Cycles that dropout adds to a step of one chip, in millions and as a share of the step. "
        "(E: by the estimate.)"
    )
    return [title, "", about, "", *markdown(header, rows), ""]


def on_slices(plans: list[Plan]) -> dict[tuple[str, str, str], dict[int, Added]]:
    """Returns what dropout adds by the number of chips, for each config, arm and kind of chips."""
    found: dict[tuple[str, str, str], dict[int, Added]] = {}
    for plan in plans:
        for row in ordered(plan.rows):
            if cost := added(plan, row):
                kind = row.topology.partition(":")[0]
                found.setdefault((row.config, row.arm, kind), {})[row.chips] = cost
    return {name: costs for name, costs in found.items() if len(costs) > 1}


def cell(costs: dict[int, Added], size: int) -> str:
    """Formats what dropout adds on a slice: by the schedule, if it is known on each slice."""
    cost = costs.get(size)
    if cost is None:
        return ""
    if all(cost.millions for cost in costs.values()):
        return f"{cost.millions} ({cost.share})"
    return f"{cost.estimated_millions} ({cost.estimated_share}, E)"


def ordered(rows: list[Row]) -> list[Row]:
    """Sorts rows by the kind and the number of chips. Rows of a slice stay in their order."""

    def key(row: Row) -> tuple[str, int, str, float]:
        return row.topology.partition(":")[0], row.chips, row.topology, row.batch_a_chip

    return sorted(rows, key=key)


def cells(row: Row) -> tuple[str, ...]:
    """Returns the cells of a program."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in row.collectives.items())
    return (
        row.arm,
        mib(row.peak),
        *(mib(row.memory[part]) for part in PARTS),
        number(row.scheduled / 1e6) if row.scheduled else "",
        number(row.cycles / 1e6),
        number(row.flops / 1e9),
        kinds or "none",
        f"{row.compile_seconds:.0f}",
    )


def added(plan: Plan, row: Row) -> Added | None:
    """Returns what a row adds to the row without dropout, if both were compiled."""
    plain = baseline(plan, row)
    if plain is None or row.failure:
        return None
    collectives = sum(row.collectives.values()) - sum(plain.collectives.values())
    scheduled = _more(row.scheduled, plain.scheduled)
    estimated = _more(row.cycles, plain.cycles)
    memory = (row.peak - plain.peak) / MIB
    return Added(*scheduled, *estimated, f"{memory:+,.1f}", f"{collectives:+d}")


def _more(cycles: float, plain: float) -> tuple[str, str]:
    if not (cycles and plain):
        return "", ""
    return f"{100 * (cycles - plain) / plain:+.1f} %", f"{(cycles - plain) / 1e6:+.3g}"


def baseline(plan: Plan, row: Row) -> Row | None:
    """Returns the row without dropout that a row is compared to, if that was compiled."""
    same = (
        other
        for other in plan.rows
        if (other.topology, other.batch_a_chip) == (row.topology, row.batch_a_chip)
        if other.arm == row.compared_to and not other.failure
    )
    return next(same, None)


def line(plan: Plan, row: Row) -> str:
    """Formats a row for the terminal."""
    row = plan.find(row) or row
    name = f"{row.config} on {row.topology}: {row.arm}"
    if row.failure:
        return f"{name}: {row.failure}"
    parts = ", ".join(f"{part} {mib(size)}" for part, size in row.memory.items())
    text = (
        f"{name}: {mib(row.peak)} MiB a chip ({parts}), {number(row.scheduled / 1e6)} million "
        f"cycles (estimate {number(row.cycles / 1e6)}), {number(row.flops / 1e9)} billion FLOPs, "
        f"{cells(row)[-2]}"
    )
    if found := added(plan, row):
        cycles = found.share or found.estimated_share
        text += f"; beyond {row.compared_to}: {cycles} cycles, {found.memory} MiB"
    return text


def mib(size: float) -> str:
    """Formats bytes in MiB."""
    return number(size / MIB)


def number(value: float) -> str:
    """Formats a number with three digits, or all digits before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
