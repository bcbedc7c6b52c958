"""Schedules are functions of the step that return a scale of rates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_spatialdrop import schedules

from .errors import exactly

STEPS = [0, 1, 3, 4, 5, 1000]


@pytest.mark.parametrize(
    ("schedule", "scales"),
    [
        (schedules.early(4), [1, 0.75, 0.25, 0, 0, 0]),
        (schedules.early(4, decay=False), [1, 1, 1, 0, 0, 0]),
        (schedules.late(4), [0, 0, 0, 1, 1, 1]),
        (schedules.linear(4), [0, 0.25, 0.75, 1, 1, 1]),
        (schedules.linear(4, start=0.5, end=2.5), [0.5, 1, 2, 2.5, 2.5, 2.5]),
        (schedules.linear(4, start=jnp.float32(3), end=1), [3, 2.5, 1.5, 1, 1, 1]),
    ],
)
def test_scales_by_step(schedule, scales):
    for step in (jnp.array(STEPS), np.array(STEPS, np.int64), jnp.array(STEPS, jnp.float32)):
        np.testing.assert_array_equal(schedule(step), np.float32(scales))
    compiled = jax.jit(schedule)
    for step, scale in zip(STEPS, scales, strict=True):
        for given in (step, float(step), np.int32(step)):
            assert schedule(given) == compiled(given) == scale
            assert schedule(given).dtype == compiled(given).dtype == np.float32


def test_an_end_is_exact():
    assert schedules.linear(7, start=0.3, end=0.1)(7) == np.float32(0.1)
    assert schedules.linear(7, start=0.3, end=0.1)(0) == np.float32(0.3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: schedules.early(0), ValueError, "steps must be at least 1 step: got 0"),
        (lambda: schedules.late(2.0), TypeError, "steps must be an integer: got 2.0"),
        (lambda: schedules.early(1, decay=1), TypeError, "decay must be True or False: got 1"),
        (
            lambda: schedules.linear(1, end=-1),
            ValueError,
            "end multiplies rates and must be a finite number of at least 0: got end=-1",
        ),
        (
            lambda: schedules.linear(1, start="0"),
            TypeError,
            "start multiplies rates and must be a number or a scalar array: got '0'",
        ),
        (
            lambda: schedules.late(1)(jnp.ones((), bool)),
            TypeError,
            "step must be a real number: got an array of shape () and dtype bool",
        ),
        (
            lambda: schedules.early(1)("1"),
            TypeError,
            "step must be a JAX or NumPy array: got '1'",
        ),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=exactly(message)):
        call()
