"""The results of a plan: a row for every compiled program, kept as JSON."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import replace_text

PARTS = ("parameters", "optimizer state", "batch", "kept for backward", "scratch")
"""The parts of the peak memory of a chip."""


@dataclasses.dataclass
class Row:
    """What the compiler says of one program, for each chip."""

    config: str
    """The name of the config."""
    topology: str
    chips: int
    batch_a_chip: float
    arm: str
    compared_to: str | None
    """The arm without dropout, with the same attention."""
    memory: dict[str, int] = dataclasses.field(default_factory=dict)
    """Bytes of each part. They add up to the peak."""
    cycles: float = 0
    """The compiler's estimate."""
    scheduled: float = 0
    """The cycles of the compiler's schedule, or 0 if they are not known."""
    not_scheduled: str = ""
    """What `scheduled` leaves out, in words."""
    flops: float = 0
    collectives: dict[str, int] = dataclasses.field(default_factory=dict)
    compile_seconds: float = 0
    compile_bytes: int = 0
    """Memory of the machine that compiled."""
    failure: str = ""
    """Why there are no numbers, as a sentence."""

    @property
    def id(self) -> tuple[str, str, float, str]:
        """Identifies the row in a plan."""
        return self.config, self.topology, self.batch_a_chip, self.arm

    @property
    def peak(self) -> int:
        """Bytes of memory that a chip needs."""
        return sum(self.memory.values())


@dataclasses.dataclass
class Plan:
    """All rows of a config, with the config and the versions that they were compiled with."""

    config: dict[str, Any]
    versions: dict[str, str]
    date: str
    rows: list[Row] = dataclasses.field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> "Plan":
        """Reads what `save` wrote."""
        try:
            fields = json.loads(path.read_text())
            rows = [Row(**row) for row in fields.pop("rows")]
            return cls(**fields, rows=rows)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is not a plan that this program wrote: {error}") from error

    def resume(self, path: Path) -> None:
        """Takes over the rows of an earlier plan of the same config and versions."""
        if not path.exists():
            return
        earlier = Plan.load(path)
        ours = json.loads(json.dumps([self.config, self.versions]))
        if [earlier.config, earlier.versions] != ours:
            raise InputError(
                f"{path} has rows of another config or of other versions, which this plan would "
                "replace: use another --workdir or --config.name, or move the file"
            )
        self.rows = earlier.rows

    def find(self, row: Row) -> Row | None:
        """Returns the row of the same program."""
        return next((other for other in self.rows if other.id == row.id), None)

    def add(self, row: Row) -> None:
        """Adds a row, in place of an earlier one of the same program."""
        self.rows = [other for other in self.rows if other.id != row.id] + [row]

    def save(self, path: Path) -> None:
        """Writes the plan as JSON, atomically."""
        replace_text(path, json.dumps(dataclasses.asdict(self), indent=1) + "\n")
