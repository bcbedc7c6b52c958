"""The report of a plan, in Markdown."""

from .results import PARTS, Plan, Row

MIB = 2**20


def report(plans: list[Plan]) -> str:
    """Returns the report of plans: what dropout adds, then every program."""
    versions = ", ".join(f"{name} {version}" for name, version in plans[0].versions.items())
    dates = sorted({plan.date for plan in plans})
    lines = [
        "# A pod, planned",
        "",
        f"Compiled for TPUs and not run, {' and '.join(dates)}; {versions}. All numbers are for "
        "one chip and one step. Cycles are the compiler's estimate, which is good for ratios.",
        "",
        "## What dropout adds",
        "",
        *markdown([("config", "topology", "chips", "batch a chip", "dropout", *ADDED)]),
    ]
    for plan in plans:
        for row in ordered(plan.rows):
            if row.compared_to is not None and not row.failure:
                where = (row.config, row.topology, f"{row.chips:,}", f"{row.batch_a_chip:g}")
                if found := added(plan, row):
                    lines += markdown([(*where, row.arm, *found)], header=False)
    lines += ["", "## Every program"]
    for plan in plans:
        for topology in dict.fromkeys(row.topology for row in ordered(plan.rows)):
            rows = [row for row in ordered(plan.rows) if row.topology == topology]
            lines += ["", f"### {rows[0].config} on {topology}", ""]
            lines += markdown([HEADER, *(cells(row) for row in rows if not row.failure)])
            lines += [f"\n{row.arm}: {row.failure}." for row in rows if row.failure]
    return "\n".join(lines) + "\n"


ADDED = ("cycles", "in millions", "memory in MiB", "collectives")
HEADER = (
    "dropout",
    "peak in MiB",
    *PARTS,
    "cycles in millions",
    "FLOPs in billions",
    "collectives",
    "compile time in s",
)


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
        number(row.cycles / 1e6),
        number(row.flops / 1e9),
        kinds or "none",
        f"{row.compile_seconds:.0f}",
    )


def added(plan: Plan, row: Row) -> tuple[str, ...] | None:
    """Returns what a row adds to the row without dropout, if that was compiled."""
    plain = baseline(plan, row)
    if plain is None:
        return None
    collectives = sum(row.collectives.values()) - sum(plain.collectives.values())
    memory = (row.peak - plain.peak) / MIB
    cycles = row.cycles - plain.cycles
    share = f"{100 * cycles / plain.cycles:+.1f} %"
    return share, f"{cycles / 1e6:+.3g}", f"{memory:+,.1f}", f"{collectives:+d}"


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
        f"{name}: {mib(row.peak)} MiB a chip ({parts}), {number(row.cycles / 1e6)} million cycles, "
        f"{number(row.flops / 1e9)} billion FLOPs, {cells(row)[-2]}"
    )
    if found := added(plan, row):
        text += f"; beyond {row.compared_to}: {found[0]} cycles, {found[2]} MiB"
    return text


def mib(size: float) -> str:
    """Formats bytes in MiB."""
    return number(size / MIB)


def number(value: float) -> str:
    """Formats a number with three digits, or all digits before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def markdown(lines: list[tuple[str, ...]], header: bool = True) -> list[str]:
    """Returns the lines of a table."""
    found = [f"| {' | '.join(line)} |" for line in lines]
    if header:
        found.insert(1, f"|{' --- |' * len(lines[0])}")
    return found
