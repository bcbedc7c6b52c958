"""The results of a run: the device, the versions, the date, and a record for every row."""

import dataclasses
import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

import jax

from ..errors import InputError
from ..files import replace_text
from . import libraries
from .libraries import FLAX, FLAX_AGAIN, OURS
from .timing import Time


@dataclasses.dataclass
class Record:
    """One quantity of one row: a value for each contender."""

    section: str
    row: str
    quantity: str
    """The measured quantity, with its unit."""
    values: dict[str, float]
    baseline: str | None = None
    """The contender that the report divides the others by."""
    spread: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    """The quartiles of each value, if it is a median of times."""
    is_cost: bool = True
    """Whether less is better, so that Flax's value can be divided by ours."""

    notes: dict[str, str] = dataclasses.field(default_factory=dict)
    """What the values of contenders leave out."""

    @property
    def id(self) -> tuple[str, str, str]:
        """Identifies the record in a run."""
        return self.section, self.row, self.quantity

    @property
    def speedup(self) -> float | None:
        """Flax's value divided by ours."""
        if not (self.is_cost and self.values.get(OURS) and FLAX in self.values):
            return None
        return self.values[FLAX] / self.values[OURS]

    @property
    def noise(self) -> float | None:
        """How much Flax's times vary: between two compiles, or half the distance of quartiles."""
        if FLAX_AGAIN not in self.values or FLAX not in self.spread:
            return None
        flax, (low, high) = self.values[FLAX], self.spread[FLAX]
        return max(abs(self.values[FLAX_AGAIN] / flax - 1), (high - low) / 2 / flax)


def timed(section: str, row: str, quantity: str, times: dict[str, Time], **more: Any) -> Record:
    """Returns a record of medians and their quartiles."""
    return Record(
        section,
        row,
        quantity,
        values={name: time.median for name, time in times.items()},
        spread={name: (time.low, time.high) for name, time in times.items()},
        **more,
    )


@dataclasses.dataclass
class Results:
    """All records of a run."""

    stem: str
    """The name of the files, without the suffix."""
    device: str
    versions: dict[str, str]
    missing: list[str]
    date: str
    records: list[Record] = dataclasses.field(default_factory=list)

    @classmethod
    def start(cls, stem: str, device: str) -> "Results":
        """Returns empty results with today's date."""
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        return cls(stem, device, libraries.versions(), libraries.missing(), today)

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Reads what `save` wrote."""
        fields = json.loads(path.read_text())
        records = [Record(**record) for record in fields.pop("records")]
        return cls(**fields, records=records)

    def join(self, path: Path) -> None:
        """Adds the rows of an earlier run, which must have the same device and versions."""
        if not path.exists():
            return
        earlier = Results.load(path)
        if (earlier.device, earlier.versions) != (self.device, self.versions):
            raise InputError(
                f"{path} has rows of another device or of other versions, which this run would "
                "replace: use another --name or --workdir, or move the file"
            )
        self.records = earlier.records

    def add(self, record: Record) -> None:
        """Replaces an earlier measurement of a record, or appends the record."""
        for place, other in enumerate(self.records):
            if other.id == record.id:
                self.records[place] = record
                return
        self.records.append(record)

    def save(self, path: Path) -> None:
        """Writes the results as JSON, atomically."""
        replace_text(path, json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def this_device() -> str:
    """Returns a name such as "2 cores of AMD EPYC" or "NVIDIA H200"."""
    kind = jax.devices()[0].device_kind
    if jax.default_backend() != "cpu":
        return kind
    return f"{os.cpu_count()} cores of {_processor()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
