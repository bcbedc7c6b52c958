import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import optimizer
from experiments.errors import InputError

GRADIENTS = [np.array(values, np.float32) for values in ([3, -4], [1, 2], [-2, 0], [0.5, 0.5])]


def updates(transform, gradients=GRADIENTS):
    """Returns the parameters after each gradient, from [1, -1]."""
    params = jnp.array([1.0, -1.0])
    state, update, path = transform.init(params), jax.jit(transform.update), []
    for gradient in gradients:
        change, state = update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, change)
        path.append(np.asarray(params))
    return np.array(path)


def made(steps=4, **fields):
    config = optimizer.defaults(**fields)
    optimizer.check(config)
    return optimizer.make(config, steps)


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({}, optax.adam(1e-3)),
        ({"name": "adamw", "weight_decay": 0.3}, optax.adamw(1e-3, weight_decay=0.3)),
        ({"name": "adamw"}, optax.adam(1e-3)),
        ({"name": "sgd", "learning_rate": 0.1}, optax.sgd(0.1)),
        ({"name": "sgd", "learning_rate": 0.1, "momentum": 0.9}, optax.sgd(0.1, momentum=0.9)),
    ],
)
def test_each_optimizer_is_that_of_optax(fields, same):
    np.testing.assert_array_equal(updates(made(**fields)), updates(same))


def test_the_default_has_the_state_of_adam_alone():
    """So a checkpoint of a shipped config holds nothing else."""
    params = jnp.ones(2)
    states = made().init(params), optax.adam(1e-3).init(params)
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])


def test_sgd_decays_weights_by_the_gradient():
    params, gradient = np.float32([1, -1]), GRADIENTS[0]
    path = updates(made(name="sgd", learning_rate=0.1, weight_decay=0.5), [gradient])
    np.testing.assert_allclose(path[0], params - 0.1 * (gradient + 0.5 * params), rtol=1e-6)


def test_gradients_are_clipped_by_their_global_norm():
    path = updates(made(name="sgd", learning_rate=1.0, clip_norm=1.0), GRADIENTS[:1])
    np.testing.assert_allclose(path[0], [1 - 3 / 5, -1 + 4 / 5], rtol=1e-6)


def test_accumulated_gradients_are_averaged():
    fields = {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9}
    pairs = [(GRADIENTS[0] + GRADIENTS[1]) / 2, (GRADIENTS[2] + GRADIENTS[3]) / 2]
    whole, parts = updates(made(**fields), pairs), updates(made(accumulate=2, **fields))
    np.testing.assert_allclose(parts[1::2], whole, rtol=1e-6)
    np.testing.assert_array_equal(parts[0], [1, -1])


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0, 0.5, 1, 1, 1, 1]),
        ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0, 0.5, 1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]),
    ],
)
def test_the_learning_rate_warms_up_and_decays_over_the_updates_of_a_training(schedule, expected):
    fields = {"name": "sgd", "learning_rate": 1.0, "warmup_steps": 2, "schedule": schedule}
    ones = [np.ones(2, np.float32)] * 12
    path = updates(made(steps=12, accumulate=2, **fields), ones)[1::2, 0]
    np.testing.assert_allclose(-np.diff(path, prepend=1.0), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "lion"}, "name must be one of adam, adamw, sgd: got 'lion'"),
        ({"schedule": "step"}, "schedule must be one of constant, cosine, linear: got 'step'"),
        ({"learning_rate": 0.0}, "learning_rate must be a finite number above 0: got 0.0"),
        ({"clip_norm": -1.0}, "clip_norm must be a finite number of at least 0: got -1.0"),
        ({"accumulate": 0}, "accumulate must be at least 1: got 0"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0: got -1"),
        ({"momentum": 1.5}, "momentum must be a number in [0, 1]: got 1.5"),
        (
            {"weight_decay": 0.1},
            "weight_decay must be 0 unless config.optimizer.name is adamw or sgd: got 0.1 with "
            "adam",
        ),
        (
            {"name": "adamw", "momentum": 0.9},
            "momentum must be 0 unless config.optimizer.name is sgd: got 0.9 with adamw",
        ),
        (
            {"warmup_steps": 4},
            "warmup_steps must be below 4, the number of updates of a training: got 4",
        ),
        (
            {"schedule": "cosine", "accumulate": 5},
            "warmup_steps must be below 0, the number of updates of a training: got 0",
        ),
    ],
)
def test_a_wrong_field_gets_one_sentence(fields, message):
    with pytest.raises(InputError) as caught:
        made(**fields)
    assert str(caught.value) == f"config.optimizer.{message}"
