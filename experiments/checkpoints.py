"""Saves the state of runs while they train, and restores it."""

import asyncio
import dataclasses
import functools
import os
import re
import textwrap
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from . import processes
from .errors import say
from .files import free_path
from .runs import Progress


class _PatientLoop(asyncio.SelectorEventLoop):
    """Waits for its tasks before it closes.

    Orbax closes its loop as soon as one array cannot be read or written. The threads that are at
    work on the others would then fail at the closed loop, and each would print a traceback.
    """

    def close(self) -> None:
        if not self.is_closed() and (tasks := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.wait(tasks))
        super().close()


asyncio.new_event_loop = _PatientLoop  # Orbax has no option for its loop


class _OtherRunsError(Exception):
    """A checkpoint is sound, but not of the runs that train."""


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

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        self._folder.mkdir(parents=True, exist_ok=True)
        logging.set_verbosity(logging.FATAL)  # Orbax logs what it raises, with tracebacks
        options = ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True)
        return ocp.CheckpointManager(self._folder, options=options)

    def restore(self, arrays: Any, progress: Progress) -> tuple[Any, Progress]:
        """Returns the state of the newest usable checkpoint, or else the given one."""
        steps = sorted(self._manager.all_steps()) if self._folder.exists() else []
        while steps:
            step = steps.pop()
            name, found = "", None
            try:
                found = self._read(step, arrays, progress)
            except _OtherRunsError as error:
                name, why = "other-runs", f"{error}"
            except Exception as error:  # Orbax raises many kinds
                name, why = "damaged", f"cannot be used: {_why(error)}"
            # A process may be unable to read its part of a checkpoint that others can read.
            if not processes.gather(np.array(found is None)).any():
                assert found is not None
                self._last = step
                return found
            if found is not None:
                name, why = "damaged", "cannot be read by another process"
            if processes.is_first():
                kept = free_path(self._folder, name)
                (self._folder / str(step)).replace(kept)
                instead = f"step {steps[-1]}" if steps else "the start"
                say(f"warning: training goes on from {instead}, because {kept} {why}")
            processes.meet("a checkpoint is set aside")
            self._manager.reload()
        return arrays, progress

    def _read(self, step: int, arrays: Any, progress: Progress) -> tuple[Any, Progress]:
        """Returns a checkpoint. Waits for no other process, because one may fail alone."""
        process = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(process, {process}, f"process-{process}")
        options = ocp.CompositeOptions(multiprocessing_options=alone)
        handler = ocp.CompositeCheckpointHandler(composite_options=options)
        folder = self._folder / str(step)
        with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
            args = ocp.args.Composite(progress=ocp.args.JsonRestore())
            reached = Progress.from_json(reader.restore(folder, args=args).progress)
            if (reached.regularizer, reached.runs) != (progress.regularizer, progress.runs):
                there, here = len(set(reached.runs)), len(set(progress.runs))
                raise _OtherRunsError(
                    f"is of other runs (by config.mesh, {there} trained side by side there and "
                    f"{here} here)"
                )
            args = ocp.args.Composite(arrays=ocp.args.StandardRestore(arrays))
            return reader.restore(folder, args=args).arrays, reached

    def due(self, step: int) -> bool:
        """Returns whether a multiple of `every` lies after the last saved step, up to `step`."""
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

    def last(self) -> int:
        """Waits until all is written. Returns the step of the last checkpoint, or 0."""
        if self._last:
            self._wait()
        return self._last

    def finish(self, arrays: Any, progress: Progress) -> None:
        """Keeps only the end of a run, if the run was long enough to have checkpoints."""
        if self._last:
            self.save(arrays, progress)
            self._wait()
            for step in sorted(self._manager.all_steps())[:-1]:
                self._manager.delete(step)

    def close(self) -> None:
        """Waits until all is written."""
        if "_manager" in self.__dict__:
            self._wait()
            self._manager.close()

    def _wait(self) -> None:
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError, RuntimeError) as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> OSError:
        return OSError(f"cannot write a checkpoint in {self._folder}: {_why(error)}")


def _why(error: Exception) -> str:
    """Returns the operating system's words, or else the beginning of a message."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if code := re.search(r"os_error_code='(\d+)'", f"{error}"):
        return os.strerror(int(code[1]))
    return textwrap.shorten(f"{error}", 200, placeholder=" ...") or type(error).__name__
