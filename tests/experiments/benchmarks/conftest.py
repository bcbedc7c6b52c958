"""Allows benchmarks to call a program many times with the same key."""

import jax
import pytest


@pytest.fixture(autouse=True)
def _keys_may_be_used_again():
    with jax.debug_key_reuse(False):
        yield
