"""A run that was killed and resumed ends with the results of a run without a break."""

import json
import multiprocessing
import os
import signal
import time

import jax
import pytest
from matplotlib.figure import Figure

from experiments import figure
from experiments.interrupt import INTERRUPTED

from . import small

# ml_collections loads a config file in a way that Python deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

FIELDS = {
    **{"regularizers": ("none", "SpatialDropout1D"), "rates": (0.1, 0.5), "seeds": 1},
    **{"batch_size": 8, "epochs": 8, "patience": 8, "steps_per_call": 4, "checkpoint_every": 4},
    "optimizer.learning_rate": 0.03,  # so high that the best epoch is an early one
}
LIMIT = 120  # seconds


@pytest.fixture(scope="module")
def processes():
    """Starts processes from one that has imported all, so that a start takes no seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([small.__name__])
    return context


@pytest.fixture(scope="module")
def args(corpus_path):
    fields = [f"--config.{name}={value}" for name, value in FIELDS.items()]
    config = ["main", "--config=configs/pos_tagging.py:smoke", *fields]
    return [*config, f"--config.data.path={corpus_path}"]


def play(args, log, cache):
    """Runs the program in a process of its own, with what other processes have compiled."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    os.dup2(1, 2)
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    figure.draw = lambda results: Figure()
    os._exit(small.run(args))


def saved_steps(workdir):
    """Returns the number of steps that all checkpoints have together."""
    steps = 0
    for folder in (workdir / "checkpoints").glob("*"):
        names = [name for name in os.listdir(folder) if name.isdecimal()]
        steps += max(map(int, names), default=0)
    return steps


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(args, processes, cache, tmp_path):
    """Runs the program; with `until` it gets a signal once so many steps were saved."""
    workdir = tmp_path / "out"

    def run(*flags, until=None, number=signal.SIGKILL):
        log = tmp_path / "log"
        given = [*args, f"--workdir={workdir}", *flags]
        process = processes.Process(target=play, args=(given, log, cache))
        process.start()
        end = time.monotonic() + LIMIT
        while until and process.is_alive() and saved_steps(workdir) < until:
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.001)
        if until:
            os.kill(process.pid, number)
        process.join(LIMIT)
        return process.exitcode, log.read_text()

    run.workdir = workdir
    return run


def starts(workdir):
    """Returns the steps from which processes have trained runs, by their files of metrics."""
    return [int(path.suffix[1:]) for path in workdir.glob("metrics/*/events*")]


def results(workdir):
    """Returns the results without times."""

    def timeless(value):
        if isinstance(value, dict):
            times = [name for name in value if name in ("date", "starts") or "seconds" in name]
            return {name: timeless(part) for name, part in value.items() if name not in times}
        return [timeless(part) for part in value] if isinstance(value, list) else value

    return timeless(json.loads((workdir / "results.json").read_text()))


@pytest.fixture(scope="module")
def unbroken(args, processes, cache, tmp_path_factory):
    """Returns the results of a run without a break."""
    folder = tmp_path_factory.mktemp("unbroken")
    given = [*args, f"--workdir={folder / 'out'}"]
    process = processes.Process(target=play, args=(given, folder / "log", cache))
    process.start()
    process.join(LIMIT)
    assert process.exitcode == 0, (folder / "log").read_text()
    return results(folder / "out")


def test_a_run_that_is_killed_and_stopped_ends_as_one_without_a_break(run, unbroken):
    """It is killed twice. In between, Ctrl-C stops it after the call in progress."""
    code, log = run(until=20)
    assert code == -signal.SIGKILL, log
    code, log = run("--resume", until=60, number=signal.SIGINT)
    assert code == INTERRUPTED, log
    assert f"Results are in {run.workdir}.\n--resume continues this run.\n" in log
    code, log = run("--resume", until=110)
    assert code == -signal.SIGKILL, log
    code, log = run("--resume")
    assert (code, "warning" in log) == (0, False), log
    assert results(run.workdir) == unbroken
    assert any(starts(run.workdir))  # one that starts anew at step 0 ends with the same results


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 48, 100])
def test_a_run_that_is_killed_once_ends_as_one_without_a_break(run, unbroken, step):
    """It is killed at the first checkpoint, at the end of the first of three runs, and later."""
    code, log = run(until=step)
    assert code == -signal.SIGKILL, log
    code, log = run("--resume")
    assert (code, "warning" in log) == (0, False), log
    assert results(run.workdir) == unbroken
