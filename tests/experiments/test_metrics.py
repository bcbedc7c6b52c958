import json
import math
import os
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from experiments import metrics

from ..errors import exactly
from .conftest import largest_file


def events(folder):
    """Returns the scalars that TensorBoard shows: {name: {step: value}}, in the order of files.

    A file holds records: the length in 8 bytes, 4 bytes of checksum, the event, 4 of checksum.
    """
    shown = {}
    for path in sorted(folder.glob("events.*"), key=os.path.getmtime):
        content = path.read_bytes()
        while content:
            size = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]
            if event.session_log.status == SessionLog.START:
                for steps in shown.values():
                    for step in [step for step in steps if step >= event.step]:
                        del steps[step]
            for value in event.summary.value:
                steps = shown.setdefault(value.tag, {})
                assert event.step not in steps
                steps[event.step] = value.simple_value
    return shown


def write(folder, steps, after=0):
    with metrics.Writer(folder, after) as writer:
        for step in steps:
            writer.write(step, {"loss": step / 4})


def test_every_row_is_in_both_files(tmp_path):
    write(tmp_path / "run", [1, 2])
    rows = metrics.read(tmp_path / "run")
    assert [(row["step"], row["loss"], row["diverged"]) for row in rows] == [
        (1, 0.25, False),
        (2, 0.5, False),
    ]
    assert events(tmp_path / "run") == {"loss": {1: 0.25, 2: 0.5}}


def test_a_resumed_run_has_no_step_twice(tmp_path):
    """The run was killed after step 5, in the middle of a row. Its checkpoint is of step 3."""
    write(tmp_path, [1, 2, 3, 4, 5])
    with (tmp_path / metrics.LINES).open("a") as file:
        file.write('{"step": 6, "lo')
    write(tmp_path, [4, 5, 6], after=3)
    assert [row["step"] for row in metrics.read(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert list(events(tmp_path)["loss"]) == [1, 2, 3, 4, 5, 6]


def test_a_row_is_on_disk_before_the_writer_is_closed(tmp_path):
    with metrics.Writer(tmp_path) as writer:
        writer.write(1, {"loss": 2.0})
        assert metrics.read(tmp_path)[0]["loss"] == events(tmp_path)["loss"][1] == 2.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_is_null_and_diverged(tmp_path, value):
    with metrics.Writer(tmp_path) as writer:
        writer.write(1, {"loss": jnp.float32(value), "steps_per_second": 2})
    (row,) = map(json.loads, (tmp_path / metrics.LINES).read_text().splitlines())
    assert (row["loss"], row["steps_per_second"], row["diverged"]) == (None, 2.0, True)
    assert not math.isfinite(events(tmp_path)["loss"][1])


def test_a_full_disk_gets_one_sentence_and_keeps_the_rows(tmp_path):
    with metrics.Writer(tmp_path) as writer:
        writer.write(1, {"loss": 2.0})
        with largest_file(1), pytest.raises(OSError, match="cannot write") as caught:
            writer.write(2, {"loss": 1.0})
    assert str(caught.value) == f"cannot write metrics to {tmp_path}: File too large"
    assert [row["step"] for row in metrics.read(tmp_path)] == [1]


def test_throughput_is_that_of_a_run():
    """Two runs took 4 steps of 3 examples side by side. Each example has 2 targets and padding."""
    counted = np.broadcast_to([True, True, False], (2, 4, 3, 3))
    rates = {"steps_per_second": 2.0, "examples_per_second": 6.0}
    assert metrics.throughput(2.0, counted) == {**rates, "tokens_per_second": 12.0}
    assert metrics.throughput(2.0, counted[..., 0]) == rates


def test_memory_is_that_of_the_process_where_devices_do_not_tell():
    assert 1e7 < metrics.memory()["process_peak_bytes"] < 1e12


def test_memory_is_that_of_the_fullest_device_that_tells(monkeypatch):
    stats = [{"peak_bytes_in_use": 5}, None, {"num_allocs": 9}, {"peak_bytes_in_use": 7}]
    devices = [SimpleNamespace(memory_stats=lambda one=one: one) for one in stats]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert metrics.memory() == {"device_peak_bytes": 7}


def test_the_profile_is_of_the_second_call(tmp_path, capsys):
    profiler, found = metrics.Profiler(tmp_path), []
    for _ in range(3):
        with profiler(101):
            (jnp.ones(3) + 1).block_until_ready()
        found.append(len(list(tmp_path.rglob("*.xplane.pb"))))
    assert found == [0, 1, 1]
    profiler.say_if_nothing_was_traced()
    sentence = "--profile traces 101 steps, as config.steps_per_call sets no fewer.\n"
    assert capsys.readouterr().err == sentence


def test_a_trace_that_cannot_be_written_gets_one_sentence(tmp_path, monkeypatch):
    def fail():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: x.pb; No space left on device")

    profiler = metrics.Profiler(tmp_path)
    with profiler(5):
        pass
    stop = jax.profiler.stop_trace
    monkeypatch.setattr(jax.profiler, "stop_trace", fail)
    message = "cannot write the trace: RESOURCE_EXHAUSTED: x.pb; No space left on device"
    with pytest.raises(OSError, match=exactly(message)), profiler(5):
        pass
    stop()


@pytest.mark.parametrize("calls", [0, 1])
def test_a_sentence_says_that_nothing_was_traced(tmp_path, capsys, calls):
    profiler = metrics.Profiler(tmp_path)
    for _ in range(calls):
        with profiler(5):
            pass
    profiler.say_if_nothing_was_traced()
    assert capsys.readouterr().err == (
        "warning: --profile traced nothing, because it traces the second call of the compiled "
        f"steps: got {calls}. A smaller config.steps_per_call makes more.\n"
    )


def test_no_profile_is_written_unless_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    profiler = metrics.Profiler(None)
    for _ in range(3):
        with profiler(101):
            pass
    profiler.say_if_nothing_was_traced()
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err == ""
