import contextlib
import errno
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import processes
from experiments.checkpoints import Checkpoints
from experiments.runs import Progress, Run

from .conftest import largest_file

MANY = {f"array {number}": jnp.zeros((1, 999)) for number in range(40)}
ZEROS = {"a": jnp.zeros((1, 3)), "step": jnp.int32([0])}


def opened(folder, every):
    return contextlib.closing(Checkpoints(folder, every))


def progress(step, seed=0):
    return Progress(
        "Dropout", [Run(0.5, seed)], step, [step / 3], [[np.nan]] * step, [[0.5]] * step
    )


def arrays(step):
    return jax.tree.map(lambda leaf: leaf + step, ZEROS)


def save(folder, *steps):
    with opened(folder, 1) as checkpoints:
        for step in steps:
            checkpoints.save(arrays(step), progress(step))


def save_many(folder):
    with opened(folder, 1) as checkpoints:
        checkpoints.save(MANY, progress(7))


def restore(folder):
    """Returns the step that is restored, after a look at all that is."""
    with opened(folder, 1) as checkpoints:
        found, reached = checkpoints.restore(ZEROS, progress(0))
    jax.tree.map(np.testing.assert_array_equal, found, arrays(reached.step))
    assert repr(reached) == repr(progress(reached.step))  # NaN does not equal itself
    return reached.step


def steps(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_last_checkpoint_is_restored_and_two_are_kept(tmp_path):
    assert restore(tmp_path / "run") == 0
    assert not (tmp_path / "run").exists()
    save(tmp_path / "run", 2, 5, 7)
    assert steps(tmp_path / "run") == ["5", "7"]
    assert restore(tmp_path / "run") == 7


def test_checkpoints_are_due_at_multiples(tmp_path):
    with opened(tmp_path, 10) as checkpoints:
        assert [checkpoints.due(step) for step in (0, 9, 10, 11)] == [False, False, True, True]
        checkpoints.save(arrays(12), progress(12))
        assert [checkpoints.due(step) for step in (12, 19, 20)] == [False, False, True]
    with opened(tmp_path, 10) as checkpoints:
        checkpoints.restore(ZEROS, progress(0))
        assert not checkpoints.due(19)


def test_without_an_interval_nothing_is_saved(tmp_path):
    with opened(tmp_path / "run", 0) as checkpoints:
        assert not checkpoints.due(100)
        checkpoints.save(arrays(1), progress(1))
        checkpoints.finish(arrays(2), progress(2))
    assert not (tmp_path / "run").exists()


def test_of_a_run_that_ended_its_end_is_kept(tmp_path):
    with opened(tmp_path / "short", 100) as checkpoints:
        checkpoints.finish(arrays(9), progress(9))
    assert not (tmp_path / "short").exists()
    with opened(tmp_path / "long", 4) as checkpoints:
        for step in (4, 8):
            checkpoints.save(arrays(step), progress(step))
        checkpoints.finish(arrays(9), progress(9))
    assert steps(tmp_path / "long") == ["9"]


def truncate_arrays(folder):
    truncate(folder / "arrays" / "d")


def truncate(folder):
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove_progress(folder):
    shutil.rmtree(folder / "progress")


def of_another_shape(folder):
    other = {**ZEROS, "a": jnp.zeros((1, 4))}
    replace(folder, other, progress(7))


def of_another_tree(folder):
    replace(folder, {"b": jnp.zeros(3)}, progress(7))


def replace(folder, *what):
    with opened(folder.parent / "other", 1) as checkpoints:
        checkpoints.save(*what)
    shutil.rmtree(folder, ignore_errors=True)
    (folder.parent / "other" / "7").replace(folder)
    shutil.rmtree(folder.parent / "other")


@pytest.mark.parametrize(
    "damage",
    [truncate, truncate_arrays, remove_progress, of_another_shape, of_another_tree],
)
def test_a_damaged_or_foreign_checkpoint_falls_back_to_the_one_before(tmp_path, capsys, damage):
    save(tmp_path, 5, 7)
    damage(tmp_path / "7")
    capsys.readouterr()
    assert restore(tmp_path) == 5
    err = capsys.readouterr().err
    kept = tmp_path / "damaged-1"
    assert err.startswith(f"warning: training goes on from step 5, because {kept} cannot be used: ")
    assert err.count("\n") == 1
    assert steps(tmp_path) == ["5", "damaged-1"]
    save(tmp_path, 7, 8)
    assert restore(tmp_path) == 8


def test_a_checkpoint_of_another_number_of_runs_is_set_aside_as_sound(tmp_path, capsys):
    save(tmp_path, 5)
    both = Progress("Dropout", [Run(0.5, 0), Run(0.5, 1)], 7)
    replace(tmp_path / "7", jax.tree.map(lambda leaf: leaf.repeat(2, 0), arrays(7)), both)
    assert restore(tmp_path) == 5
    assert capsys.readouterr().err == (
        f"warning: training goes on from step 5, because {tmp_path / 'other-runs-1'} is of other "
        "runs (by config.mesh, 2 trained side by side there and 1 here)\n"
    )
    assert steps(tmp_path) == ["5", "other-runs-1"]


def test_a_checkpoint_that_another_process_cannot_read_is_not_used(tmp_path, capsys, monkeypatch):
    save(tmp_path, 5, 7)
    verdicts = iter([[False, True], [False, False]])
    monkeypatch.setattr(processes, "gather", lambda failed: np.array(next(verdicts)))
    assert restore(tmp_path) == 5
    assert capsys.readouterr().err == (
        f"warning: training goes on from step 5, because {tmp_path / 'damaged-1'} cannot be read "
        "by another process\n"
    )


def test_if_all_are_damaged_a_run_starts_anew(tmp_path, capsys):
    save(tmp_path, 5, 7)
    truncate(tmp_path)
    assert restore(tmp_path) == 0
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("warning: training goes on from step 5, because ")
    assert second.startswith("warning: training goes on from the start, because ")


# Threads of Orbax that are at work on other arrays may fail too. They must print nothing.


@pytest.mark.parametrize("_", range(5))  # they are not always at work
def test_a_failed_read_prints_one_sentence(tmp_path, capfd, _):
    save_many(tmp_path)
    truncate_arrays(tmp_path / "7")
    with opened(tmp_path, 1) as checkpoints:
        checkpoints.restore(MANY, progress(0))
    err = capfd.readouterr().err
    assert err.startswith("warning: training goes on from the start, because ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("_", range(5))
def test_a_failed_write_prints_nothing(tmp_path, capfd, _):
    with largest_file(1), pytest.raises(OSError, match="checkpoint") as caught:
        save_many(tmp_path)
    assert str(caught.value) == f"cannot write a checkpoint in {tmp_path}: File too large"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("call", ["save", "wait_until_finished"])
def test_a_full_disk_is_one_sentence_and_the_checkpoints_before_stay(tmp_path, monkeypatch, call):
    save(tmp_path, 5)

    def no_space(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    def full():
        with opened(tmp_path, 1) as checkpoints:
            checkpoints.save(arrays(7), progress(7))

    with monkeypatch.context() as patch:
        patch.setattr(f"orbax.checkpoint.CheckpointManager.{call}", no_space)
        with pytest.raises(OSError, match="checkpoint") as caught:
            full()
    assert str(caught.value) == f"cannot write a checkpoint in {tmp_path}: No space left on device"
    assert restore(tmp_path) in (5, 7)
