"""Processes that train together, over 127.0.0.1."""

import json
import os
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from experiments import processes, settings
from experiments.errors import InputError

from ..errors import exactly
from . import twenty_steps
from .test_main import SMALL

SECONDS = 300
"""The limit for all processes of a test."""

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def run_all(commands, folder, codes=(0, 0)):
    """Runs Python with arguments, in processes of one device; returns what each has printed."""
    settings = {"JAX_PLATFORMS": "cpu", "MPLBACKEND": "agg"}
    settings["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # as the tests compile
    outputs = [folder / f"process-{number}.txt" for number in range(len(commands))]
    running = []
    deadline = time.monotonic() + SECONDS
    try:
        for arguments, output in zip(commands, outputs, strict=True):
            with output.open("w") as file:
                running.append(
                    subprocess.Popen(
                        [sys.executable, *arguments],
                        stdout=file,
                        stderr=subprocess.STDOUT,
                        env={**os.environ, **settings},
                    )
                )
        while any(process.poll() is None for process in running):
            check_ended(running, codes, outputs)
            if time.monotonic() > deadline:
                left = [process.poll() for process in running].index(None)
                pytest.fail(f"process {left} is not done after {SECONDS} s: {tail(outputs[left])}")
            time.sleep(0.05)
        check_ended(running, codes, outputs)
    finally:
        for process in running:
            process.kill()
            process.wait()
    return [output.read_text() for output in outputs]


def check_ended(running, codes, outputs):
    """Fails for the first process that ended with another code."""
    for number, (process, code) in enumerate(zip(running, codes, strict=True)):
        if process.poll() not in (None, code):
            pytest.fail(
                f"process {number} ended with {process.returncode}: {tail(outputs[number])}"
            )


def tail(path):
    return path.read_text()[-2000:]


def test_a_process_that_fails_is_named(tmp_path):
    sleep = "import time; time.sleep(60)"  # as one that waits for the other
    programs = (["-c", sleep], ["-c", "raise SystemExit('no port')"])
    with pytest.raises(pytest.fail.Exception, match=r"^process 1 ended with 1: no port\n$"):
        run_all(programs, tmp_path)


def test_two_processes_have_the_bits_of_two_devices(tmp_path):
    module = ["-m", "tests.experiments.twenty_steps", "language"]
    module += [str(tmp_path), f"127.0.0.1:{free_port()}"]
    run_all([[*module, process] for process in "01"], tmp_path)
    state, losses, scores = twenty_steps.train("language", data=2, runs=1)
    with np.load(tmp_path / "language.npz") as found:
        arrays = list(found.values())
    here = [losses, scores, *jax.tree.leaves(state.params)]
    assert losses.shape == (1, 20)
    for one, other in zip(arrays, here, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_checkpoint_that_one_process_cannot_read_is_used_by_none(tmp_path):
    folder, coordinator = tmp_path / "run", f"127.0.0.1:{free_port()}"
    module = ["-m", "tests.experiments.damaged_part", str(folder), coordinator]
    outputs = run_all([[*module, process] for process in "01"], tmp_path)
    first, second = ([line for line in of.splitlines() if "[Gloo]" not in line] for of in outputs)
    kept = folder / "damaged-1"
    assert first.pop(0).startswith(f"warning: training goes on from step 5, because {kept} cannot")
    assert first == second == ["5 5.0"]
    assert sorted(path.name for path in folder.iterdir()) == ["5", "9", "damaged-1"]


@pytest.mark.slow
def test_the_first_process_writes_and_prints(tmp_path, corpus_path):
    port = free_port()
    program = "import sys; from tests.experiments import small; small.run_and_leave(sys.argv)"
    commands = [
        [
            *("-c", program, *SMALL, f"--config.data.path={corpus_path}"),
            *("--distributed", f"--coordinator=127.0.0.1:{port}", "--num_processes=2"),
            *(f"--process_id={process}", f"--workdir={tmp_path / 'out'}", "--config.seeds=1"),
            "--config.checkpoint_every=3",
        ]
        for process in range(2)
    ]
    first, second = run_all(commands, tmp_path)
    assert "SpatialDropout1D: " in first
    assert "SpatialDropout1D" not in second
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["missing"] == []
    run = results["regularizers"]["SpatialDropout1D"]["runs"][0]
    assert run["train_loss"][1] < run["train_loss"][0]
    assert not (tmp_path / "out" / "earlier-1").exists()


def test_a_coordinator_that_is_not_there_gets_one_sentence(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    cluster = f"processes.Cluster('{address}', 2, 1, 3)"
    program = (
        "import time; from ml_collections import ConfigDict\n"
        "from experiments import main, processes, settings\n"
        f"options = settings.Options('', False, False, {cluster})\n"
        "main.settings.parse = lambda argv: (ConfigDict(), options)\n"
        "begin = time.monotonic()\n"
        "code = main.main([])\n"
        "print(time.monotonic() - begin < 10)\n"
        "main.leave(code)\n"
    )
    [output] = run_all([["-c", program]], tmp_path, codes=(1,))
    sentence = f"error: no coordinator answers at {address} after 3 s (--connect_seconds)"
    assert output.splitlines() == [sentence, "True"]


def test_an_unexpected_exception_ends_only_its_process(tmp_path):
    """Python's own end would wait for the other process."""
    port = free_port()

    def program(process, run):
        cluster = f"processes.Cluster('127.0.0.1:{port}', 2, {process}, 60)"
        return (
            "import time; from pathlib import Path; from ml_collections import ConfigDict\n"
            "from experiments import main, processes, settings\n"
            f"options = settings.Options(Path('{tmp_path}'), False, False, {cluster})\n"
            "main.settings.parse = lambda argv: (ConfigDict(), options)\n"
            f"main.experiment.run = lambda *_: {run}\n"
            "main.run_and_leave([])\n"
        )

    waits, fails = program(0, "time.sleep(5) or (1, {})"), program(1, "{}['a fault']")
    [_, output] = run_all([["-c", waits], ["-c", fails]], tmp_path, codes=(1, 1))
    assert output.startswith("Traceback")
    assert output.endswith("KeyError: 'a fault'\n")


GIVEN = ["--coordinator=host:1234", "--num_processes=2", "--process_id=1"]


def test_flags_describe_the_processes():
    config = "--config=configs/pos_tagging.py"
    assert settings.parse(["main", config])[1].cluster is None
    [_, options] = settings.parse(["main", config, "--distributed"])
    assert options.cluster == processes.Cluster(None, None, None, 60, 100)
    times = ["--connect_seconds=5", "--heartbeat_seconds=7"]
    [_, options] = settings.parse(["main", config, "--distributed", *GIVEN, *times])
    assert options.cluster == processes.Cluster("host:1234", 2, 1, 5, 7)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (GIVEN, "--coordinator, --num_processes and --process_id need --distributed"),
        (
            ["--distributed", *GIVEN[:2]],
            "--coordinator, --num_processes and --process_id must be given together",
        ),
        (
            ["--distributed", "--coordinator=host", *GIVEN[1:]],
            "--coordinator must be HOST:PORT: got 'host'",
        ),
        (
            ["--distributed", *GIVEN[:2], "--process_id=2"],
            "--process_id must be from 0 to --num_processes - 1: got 2 of 2",
        ),
        (
            ["--distributed", "--heartbeat_seconds=0"],
            "flag --heartbeat_seconds=0: 0 is not a positive integer",
        ),
    ],
)
def test_bad_flags_get_one_sentence(flags, message):
    with pytest.raises(InputError, match=exactly(message)):
        settings.parse(["main", "--config=configs/pos_tagging.py", *flags])


CLUSTER = processes.Cluster("127.0.0.1:1", 2, 1, 5, 7)


def test_the_times_are_given_to_jax(monkeypatch):
    given = {}
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **times: given.update(times))
    processes.connect(CLUSTER)
    assert given == {"initialization_timeout": 3600, "heartbeat_timeout_seconds": 7}


@pytest.mark.parametrize("wait", [lambda: processes.meet("here"), lambda: processes.others("text")])
def test_the_end_of_another_process_gets_one_sentence(monkeypatch, wait):
    def fail(*_):
        raise jax.errors.JaxRuntimeError("Gloo context initialization failed: ...")

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "sync_global_devices", fail)
    monkeypatch.setattr(multihost_utils, "process_allgather", fail)
    message = "another process has ended, and its own output says why"
    with pytest.raises(InputError, match=exactly(message)):
        wait()


def test_processes_that_disagree_on_their_number_get_one_sentence(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: None)
    message = "--num_processes must be the same for all processes: got 2, but the coordinator has 1"
    with pytest.raises(InputError, match=exactly(message)):
        processes.connect(CLUSTER)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ValueError("coordinator_address should be defined."),
            "--distributed needs Slurm, Cloud TPU or another cluster that JAX knows, or "
            "--coordinator, --num_processes and --process_id",
        ),
        (
            RuntimeError("the port is taken\nand more"),
            "cannot connect to the other processes: the port is taken",
        ),
        (TimeoutError(), "not all processes have connected after 5 s (--connect_seconds)"),
    ],
)
def test_an_error_of_jax_becomes_one_sentence(monkeypatch, error, message):
    def initialize(*_, **__):
        raise error

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(processes, "_answers", lambda address: True)
    with pytest.raises(InputError, match=exactly(message)):
        processes.connect(CLUSTER)
