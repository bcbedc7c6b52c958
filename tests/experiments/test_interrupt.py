import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import interrupt
from experiments.interrupt import deferred_interrupt

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("work", ["this epoch", "compiling"])
def test_ctrl_c_waits_for_the_check(capsys, work):
    with deferred_interrupt() as check:
        check(work)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            check()
    assert capsys.readouterr().err == f"Stopping after {work}; Ctrl-C again stops at once.\n"


def test_a_second_ctrl_c_ends_the_program_without_an_exception(capsys, monkeypatch):
    """An exception in the middle of a compile could crash it."""
    codes = []
    monkeypatch.setattr(interrupt, "leave", codes.append)
    with deferred_interrupt() as check:
        check("compiling")
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert codes == [130]
    assert capsys.readouterr().err.endswith("again stops at once.\nStopped at once.\n")


def test_ctrl_c_is_answered_while_the_main_thread_runs_no_python(monkeypatch):
    """During a compile, for example, Python's handlers wait, but the pipe is written to."""
    codes = []
    monkeypatch.setattr(interrupt, "leave", codes.append)
    with deferred_interrupt():
        pipe = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(pipe)
        os.write(pipe, bytes([signal.SIGINT, signal.SIGINT]))
    assert codes == [130]


def test_during_the_imports_ctrl_c_is_a_sentence(tmp_path):
    """A fake matplotlib presses Ctrl-C when it is imported."""
    (tmp_path / "matplotlib.py").write_text("import signal; signal.raise_signal(signal.SIGINT)")
    command = [sys.executable, "-m", "experiments.main"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr == "Interrupted while nothing was training.\n"


def test_afterwards_ctrl_c_is_what_it_was():
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupt():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
