"""The report: a table for each section and quantity."""

import itertools
from collections.abc import Iterable

from ..tables import markdown
from .cases import COPY
from .libraries import FAST_KERNEL, FLAX_AGAIN, LIBRARIES, OURS, OURS_FAST
from .pytorch import PYTORCH, PYTORCH_COPY
from .results import Record, Results
from .tpu import SCHEDULE

QUESTIONS = {
    "layers": "What does one layer cost, beside a copy of x?",
    "line": "Should a mask shared by a few be drawn once, or hashed at every element?",
    "networks": "What does dropout add to the gradient of 12 layers of tanh(h @ w)?",
    "attention": "What does dropout of attention weights cost, beside attention without any?",
    "attention kernel": (
        "What does dropout cost inside the kernel of attention, beside the kernel without any? A "
        "gradient has both passes."
    ),
    "drop block": "What does DropBlock cost, beside a copy of x or a step without any?",
    "drop path": "How much time does stochastic depth save, where what is dropped is skipped?",
    "recurrent": "What does dropout inside a recurrence cost, beside loops without any?",
    "overheads": "What does a layer cost besides its arithmetic?",
    "training": "What changes in training when ours runs, by the import or by drop_in()?",
    "training at scale": "What does dropout add to a step of training that fills the device?",
    "stacks": (
        "What does dropout cost in the layers of training stacks, beside none? The column Flax has "
        "the dropout of the stack: Flax's layer in MaxText and T5X, written by hand in the others."
    ),
}


def report(results: Results) -> str:
    """Returns the report in Markdown."""
    about = [
        "# Benchmarks",
        "",
        f"{results.device}, {results.date}; "
        + ", ".join(f"{name} {version}" for name, version in results.versions.items()),
    ]
    if results.missing:
        about.append(f"Not installed, so left out: {', '.join(results.missing)}.")
    about += ["", *sentences(results)]
    for section, question in QUESTIONS.items():
        found = [record for record in results.records if record.section == section]
        for quantity in dict.fromkeys(record.quantity for record in found):
            about += ["", f"## {section.capitalize()}: {quantity}", "", question, ""]
            shown = [record for record in found if record.quantity == quantity]
            about += table(shown)
            notes = [(r.row, *note) for r in shown for note in r.notes.items()]
            about += [f"\n{row}, {name}: {note}." for row, name, note in notes]
    return "\n".join(about) + "\n"


def sentences(results: Results) -> list[str]:
    """Explains the tables, and lists the rows in which ours is slower than Flax's."""
    slower = [
        f"{record.section}: {record.row}, {record.quantity} ({1 / record.speedup:.2f} of Flax's)"
        for record in results.records
        if record.speedup and (record.spread or record.baseline)
        if 1 / record.speedup > 1 + (record.noise or 0)  # an estimate has no noise
    ]
    lines = [
        "Where a table begins with a copy or with no dropout, times and cycles of the others are "
        'ratios to it. "Flax / ours" above 1 is how many times faster, smaller or fewer ours is.'
    ]
    if any(record.quantity == SCHEDULE for record in results.records):
        lines.append(
            "In the compiler's schedule, an instruction takes the cycles of its code, or those "
            "that HBM needs for its bytes at peak bandwidth, whichever is more. The floor is what "
            "HBM needs for the arguments and results of the program. The estimates assume less "
            "bandwidth than chips have, which hides code of the vector units, and 1,800 cycles "
            "to start each instruction."
        )
    if any(record.noise is not None for record in results.records):
        lines.append(
            "The noise of a row is how far Flax is from itself: between two compiles or within "
            "half the distance of its quartiles, whichever is more."
        )
    if any(PYTORCH in record.values for record in results.records):
        lines.append("PyTorch is compared to a copy of its own; its pullback is both passes.")
    lines = [" ".join(lines), ""]
    if not slower:
        return [*lines, "No row is slower than Flax's beyond the noise of that row."]
    return [
        *lines,
        "Slower than Flax's beyond the noise of the row:",
        "",
        *map("- {}".format, slower),
    ]


def table(records: list[Record]) -> list[str]:
    """Returns a table with a row for each record, as ratios to the baseline if there is one."""
    names = contenders(records)
    lines = [["row", *names, "Flax / ours", "noise"]]
    for record in records:
        cells = [_cell(record, name) for name in names]
        speedup = "" if record.speedup is None else _ratio(record.speedup)
        noise = "" if record.noise is None else f"± {100 * record.noise:.0f} %"
        lines.append([record.row, *cells, speedup, noise])
    used = [any(line[column] for line in lines[1:]) for column in range(len(lines[0]))]
    header, *rows = [list(itertools.compress(line, used)) for line in lines]
    return markdown(header, rows)


def _cell(record: Record, name: str) -> str:
    if name not in record.values:
        return ""
    value = record.values[name]
    baseline = PYTORCH_COPY if name == PYTORCH else record.baseline
    if baseline is None or name == record.baseline:
        unit = " ms" if name == COPY and " ms" in record.quantity else ""
        return f"{_number(value)}{unit}"
    return _ratio(value / record.values[baseline])


def contenders(records: Iterable[Record]) -> list[str]:
    """Returns the contenders of records in a fixed order, with ours first."""
    order = [OURS, OURS_FAST, FAST_KERNEL, *LIBRARIES, PYTORCH]
    names = dict.fromkeys(name for record in records for name in record.values)
    shown = [name for name in names if name not in (FLAX_AGAIN, PYTORCH_COPY)]
    return sorted(shown, key=lambda name: order.index(name) if name in order else -1)


def _ratio(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"


def _number(value: float) -> str:
    if value == 0 or value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
