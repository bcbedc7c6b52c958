"""Runs the tests of optimized.py in a process with all optimizations of XLA."""

import os
import pathlib
import subprocess
import sys

import pytest

from .conftest import AS_USERS_DO


@pytest.mark.slow
def test_programs_compiled_as_a_user_s_return_the_same_bits():
    tests = pathlib.Path(__file__).parent / "optimized.py"
    run = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider"]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [*run, "-x", str(tests)],
        env=environment | {AS_USERS_DO: "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
