import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import rate_schedule
from experiments.errors import InputError


def part(**fields):
    config = rate_schedule.defaults()
    config.update(fields)
    rate_schedule.check(config)
    return config


@pytest.mark.parametrize(
    ("fields", "scales"),
    [
        ({}, [1, 1, 1, 1]),
        ({"name": "early", "steps": 2}, [1, 0.5, 0, 0]),
        ({"name": "late", "steps": 2}, [0, 0, 1, 1]),
        ({"name": "linear", "steps": 2, "start": 0.5}, [0.5, 0.75, 1, 1]),
        ({"name": "linear", "steps": 4, "start": 1.0, "end": 0.0}, [1, 0.75, 0.5, 0.25]),
    ],
)
def test_the_rate_of_each_step(fields, scales):
    config = part(**fields)
    rate_at = jax.jit(lambda rate, step: rate_schedule.scheduled(config, rate, step))
    rates = [rate_at(jnp.float32(0.5), jnp.int32(step)) for step in range(4)]
    np.testing.assert_array_equal(rates, 0.5 * np.float32(scales))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "fast"}, "name must be one of constant, early, late, linear: got 'fast'"),
        ({"steps": 0}, "steps must be at least 1: got 0"),
        ({"start": -0.5}, "start must be a number in [0, 1]: got -0.5"),
        ({"end": 2.0}, "end must be a number in [0, 1]: got 2.0"),
    ],
)
def test_a_wrong_field_gets_one_sentence(fields, message):
    with pytest.raises(InputError) as caught:
        part(**fields)
    assert str(caught.value) == f"config.rate_schedule.{message}"
