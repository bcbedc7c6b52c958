"""Orbax saves and restores state: of whole models, and of a run that is interrupted."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from flax_spatialdrop.nnx import Dropout, SpatialDropout1D, TimestepDropout

from .gradients import value_and_grad

X = jax.random.normal(jax.random.key(0), (8, 6, 5))
Y = jnp.sin(X.sum(axis=(1, 2)))
STEPS, INTERRUPTED = 6, 3


class Model(nnx.Module):
    """Two layers have their own streams; a third has no state and is given keys."""

    def __init__(self, rngs):
        self.dense = nnx.Linear(5, 16, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.spatial = SpatialDropout1D(0.3, rngs=rngs)
        self.drop = Dropout(0.4, rngs=rngs)
        self.steps = TimestepDropout(0.1)
        self.head = nnx.Linear(16, 1, rngs=rngs)

    def __call__(self, x, key):
        x = self.spatial(nnx.relu(self.norm(self.dense(x))))
        return self.head(self.drop(self.steps(x, rngs=key))).mean(axis=(1, 2))


def new_run(seed):
    model = Model(nnx.Rngs(params=seed, dropout=seed + 1))
    return model, nnx.Optimizer(model, optax.sgd(0.01, momentum=0.9), wrt=nnx.Param)


@nnx.jit
def train_step(model, optimizer, key):
    def loss(model):
        return ((model(X, key) - Y) ** 2).mean()

    value, gradient = value_and_grad(loss)(model)
    optimizer.update(model, gradient)
    return value


def train(run, steps):
    return [train_step(*run, jax.random.key(step)) for step in steps]


def save(path, run):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, nnx.state(run))


def restore(path, run):
    with ocp.StandardCheckpointer() as checkpointer:
        nnx.update(run, checkpointer.restore(path, nnx.state(run)))


@pytest.mark.parametrize("seed", [0, 5])  # the seed of the new process does not matter
def test_a_resumed_run_has_the_losses_of_one_that_was_not_interrupted(tmp_path, seed):
    whole = train(new_run(0), range(STEPS))
    first = new_run(0)
    losses = train(first, range(INTERRUPTED))
    save(tmp_path / "checkpoint", first)
    resumed = new_run(seed)
    restore(tmp_path / "checkpoint", resumed)
    losses += train(resumed, range(INTERRUPTED, STEPS))
    np.testing.assert_array_equal(losses, whole)
    assert len(set(map(float, whole))) == STEPS


def test_the_streams_are_what_makes_the_losses_equal(tmp_path):
    """Without the streams, losses differ, so the test above can fail."""
    whole = train(new_run(0), range(STEPS))
    first = new_run(0)
    train(first, range(INTERRUPTED))
    resumed = new_run(0)
    nnx.update(resumed, nnx.state(first, nnx.Not(nnx.RngState)))
    assert train(resumed, [INTERRUPTED])[0] != whole[INTERRUPTED]


def test_a_model_without_streams_has_nothing_but_its_parameters(tmp_path):
    def make():
        rngs = nnx.Rngs(0)
        return nnx.Sequential(nnx.Linear(5, 4, rngs=rngs), Dropout(0.5), SpatialDropout1D(0.5))

    model = make()
    assert {
        type(v) for _, v in nnx.iter_graph(nnx.state(model)) if isinstance(v, nnx.Variable)
    } <= {nnx.Param}
    save(tmp_path / "checkpoint", model)
    other = make()
    restore(tmp_path / "checkpoint", other)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(other), nnx.state(model))
