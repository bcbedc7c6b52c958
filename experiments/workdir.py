"""The folder for results: one run at a time writes to it, and earlier results are never lost."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from . import processes, report
from .errors import InputError
from .files import free_path, prepare, replace_text
from .tasks import TASKS

FIGURES = {
    "results.png",
    *(name for t in TASKS.values() for name in (*t.figures, *t.study_figures)),
}
"""The names of the figures of all tasks."""


class Workdir:
    """A folder for results.

    Attributes:
      path: the folder.
      checkpoints, metrics, profile: the folders in it for these.
      resumes: whether this run goes on from the results in the folder.
      is_ours: whether the results in the folder are those of this run.
    """

    def __init__(self, path: Path):
        if "[" in str(path.absolute()):
            why = "because Orbax takes it for a pattern and cannot read checkpoints"
            raise InputError(f"the path of the workdir must not contain [, {why}: got {path}")
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics"
        self.profile = path / "profile"
        self.resumes = self.is_ours = False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder, and locks it, because two runs would overwrite each other's results.

        A new folder is removed if nothing was written to it.
        """
        is_new = not self.path.exists()
        prepare(self.path)
        folder = os.open(self.path, os.O_RDONLY)
        try:
            if processes.is_first():
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(folder)
            raise InputError(
                f"another run is using the workdir {self.path}: wait for it, or give another "
                "--workdir"
            ) from error
        except OSError:
            pass  # the file system has no locks
        try:
            yield
        finally:
            os.close(folder)
            if is_new:
                with contextlib.suppress(OSError):  # it is not empty
                    self.path.rmdir()

    def begin(self, results: dict[str, Any], resume: bool) -> dict[str, Any]:
        """Returns the results to start from: with `resume` those in the folder, if there are any.

        Raises InputError if those are of another config or of other data (the mesh may be another),
        or if other processes have other ones.
        """
        path = self.path / "results.json"
        found, differs = _read(path, results)
        self._agree([results["config"], results["data"], resume, found])
        if found is None:
            return results
        if resume and differs:
            raise InputError(f"{self.path} {differs}")
        if resume:
            if found["versions"] != results["versions"]:
                processes.say(
                    "warning: other versions began this run, so its last digits may differ."
                )
            self.resumes = self.is_ours = True
            return report.resumed(found, results)
        if not differs and found["missing"]:
            processes.say(f"This starts anew, but --resume would continue the run in {self.path}.")
        return results

    def _agree(self, values: Any) -> None:
        """Raises InputError if other processes have other values, or another folder."""
        mark = self.path / "shared.part"  # processes that do not see it have another folder
        if processes.is_first():
            mark.touch()
        try:
            processes.meet("the workdir is marked")
            different = processes.others(json.dumps([values, mark.exists()]))
        finally:
            if processes.is_first():
                mark.unlink(missing_ok=True)
        if different:
            raise InputError(
                "all processes need the same config, data, --resume and workdir: "
                f"process {different[0]} has others than process 0"
            )

    def save(self, results: dict[str, Any], markdown: str) -> None:
        """Writes results.json, and results.md with a report. A crash never leaves half a file.

        Before that, the first call sets an earlier run aside. Only the first process writes.
        """
        numbers = json.dumps(results, indent=1, allow_nan=False) + "\n"
        if not self.is_ours:
            if processes.is_first():
                self.set_aside()
            self.is_ours = True
            processes.meet("the workdir is free")
        if processes.is_first():
            replace_text(self.path / "results.json", numbers)
            replace_text(self.path / "results.md", markdown)

    def set_aside(self) -> None:
        """Moves all of an earlier run to earlier-N, for a new N."""
        folder = free_path(self.path, "earlier")
        files = [self.path / name for name in ("results.json", "results.md", *FIGURES)]
        for path in (*files, self.checkpoints, self.metrics, self.profile):
            if path.exists():
                folder.mkdir(exist_ok=True)
                path.replace(folder / path.name)


def _read(path: Path, results: dict[str, Any]) -> tuple[Any, str]:
    """Returns the results of a file, or None, and in words how they differ from those here."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError) as error:
        return {}, f"has a results.json that cannot be read ({error}): use another --workdir"
    return found, _difference(found, results)


def _difference(found: Any, results: dict[str, Any]) -> str:
    """Returns in words what differs in the config or the data, or nothing."""
    if not isinstance(found, dict) or "measures" not in found:
        return "has results of another program: use another --workdir"
    results = json.loads(json.dumps(results))
    old, new = (
        flatten_dict({part: of.get(part) for part in ("config", "data")}, sep=".")
        for of in (found, results)
    )
    for field in ("config.name", "config.task", *new, *old):
        if old.get(field) != new.get(field) and not field.startswith("config.mesh."):
            return (
                f"was made with {field}={old.get(field)!r}, not {new.get(field)!r}: use the same "
                f"{field.partition('.')[0]} or another --workdir"
            )
    return ""
