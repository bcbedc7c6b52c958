"""The typed sample of a user's code gives the types that mypy and pyright see in the gate."""

from typing import get_origin

import jax
import pytest

from .typed_sample import functions, linen, nnx


@pytest.mark.parametrize("sample", [functions, linen, nnx], ids=lambda module: module.__name__)
def test_the_sample_gives_the_types_that_it_asserts(sample, monkeypatch):
    seen = []

    def assert_at_run_time(value, kind):
        seen.append(isinstance(value, get_origin(kind) or kind))
        return value

    monkeypatch.setattr(sample, "assert_type", assert_at_run_time)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # JAX's defaults
        jax.eval_shape(sample.run)
        getattr(sample, "summarize", lambda: None)()  # summarize runs the model
    assert len(seen) >= 2
    assert all(seen)
