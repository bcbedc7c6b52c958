"""Saves the state of runs while they train, and restores it."""

import dataclasses
import functools
from pathlib import Path
from types import TracebackType
from typing import Any

import orbax.checkpoint as ocp

from .errors import say
from .files import free_path
from .runs import Progress


class Checkpoints:
    """The checkpoints of runs that train side by side, in a folder of their own.

    A checkpoint holds arrays (the weights, the best ones so far and the optimizer's state) and the
    progress. It is written while training goes on. The last two are kept, because a damaged one
    falls back to the one before.
    """

    def __init__(self, folder: Path, every: int):
        """`every` is the number of steps from one checkpoint to the next, or 0 for none."""
        self._folder = folder.absolute()
        self._every = every
        self._last = 0  # the step of the last checkpoint

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if "_manager" in self.__dict__:
            self._wait()
            self._manager.close()

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        self._folder.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True)
        return ocp.CheckpointManager(self._folder, options=options)

    def restore(self, arrays: Any, progress: Progress) -> tuple[Any, Progress]:
        """Returns the state of the newest usable checkpoint, or else the given one."""
        steps = sorted(self._manager.all_steps()) if self._folder.exists() else []
        while steps:
            step = steps.pop()
            try:
                found = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        arrays=ocp.args.StandardRestore(arrays), progress=ocp.args.JsonRestore()
                    ),
                )
                restored = Progress.from_json(found.progress)
                if (restored.regularizer, restored.runs) != (progress.regularizer, progress.runs):
                    raise ValueError("it is of other runs")
            except Exception as error:  # Orbax raises many kinds
                kept = free_path(self._folder, "damaged")
                (self._folder / str(step)).replace(kept)
                self._manager.reload()
                instead = f"step {steps[-1]}" if steps else "the start"
                why = f"{kept} cannot be used: {_why(error)}"
                say(f"warning: training goes on from {instead}, because {why}")
            else:
                self._last = step
                return found.arrays, restored
        return arrays, progress

    def due(self, step: int) -> bool:
        """Returns whether `every` steps were taken since the last multiple of it was saved."""
        return self._every > 0 and step // self._every > self._last // self._every

    def save(self, arrays: Any, progress: Progress) -> None:
        """Begins to write a checkpoint, after the one before is written."""
        if self._every == 0 or progress.step <= self._last:
            return
        values = ocp.args.Composite(
            arrays=ocp.args.StandardSave(arrays),
            progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
        )
        try:
            self._manager.save(progress.step, args=values, force=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise self._error(error) from error
        self._last = progress.step

    def finish(self, arrays: Any, progress: Progress) -> None:
        """Keeps only the end of a run, if the run was long enough to have checkpoints."""
        if self._last:
            self.save(arrays, progress)
            self._wait()
            for step in sorted(self._manager.all_steps())[:-1]:
                self._manager.delete(step)

    def _wait(self) -> None:
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError, RuntimeError) as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> OSError:
        return OSError(f"cannot write a checkpoint in {self._folder}: {_why(error)}")


def _why(error: Exception) -> str:
    why = error.strerror if isinstance(error, OSError) else None
    return why or f"{error}".strip().split("\n")[0] or type(error).__name__
