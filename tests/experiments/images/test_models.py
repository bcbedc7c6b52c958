from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.images.models import FORMS, ResNet
from experiments.train import predict

IMAGES = jax.random.normal(jax.random.key(0), (6, 8, 8, 1))


def network(name, norm="batch"):
    return ResNet(10, (8, 16), 1, 2, norm, FORMS[name], subset_rate=0.5)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(partial(network("none").init, deterministic=True))(jax.random.key(1), IMAGES, 0)


@pytest.fixture(scope="module")
def plain(variables):
    return network("none").apply(variables, IMAGES, 0, deterministic=True)


@partial(jax.jit, static_argnames=("name", "rate"))
def drop(name, variables, images, key, *, rate=0.5):
    """Returns the scores with dropout, and the new statistics of batch norm."""
    return network(name).apply(
        variables,
        images,
        jnp.float32(rate),
        deterministic=False,
        mutable=["batch_stats"],
        rngs={"dropout": jax.random.key(key)},
    )


@pytest.mark.parametrize("name", FORMS)
def test_all_forms_take_the_same_variables_and_drop_in_training_alone(name, variables, plain):
    scores = network(name).apply(variables, IMAGES, 0.5, deterministic=True)
    np.testing.assert_array_equal(scores, plain)
    drawn = [np.asarray(drop(name, variables, IMAGES, key)[0]) for key in range(6)]
    assert all(np.array_equal(scores, drawn[0]) for scores in drawn) == (name == "none")


def differ(new, old):
    return any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (new, old)), strict=True))


def test_batch_norm_uses_the_batch_in_training_alone(variables, plain):
    scores, updates = drop("none", variables, IMAGES, 0)
    assert not np.allclose(scores, plain)
    assert differ(updates["batch_stats"], variables["batch_stats"])


@pytest.mark.parametrize("name", ["Dropout", "DropPath batch"])
def test_a_pass_of_an_image_does_not_depend_on_other_images(name, variables, plain):
    """The running averages are the statistics in a Monte Carlo pass, though it drops."""
    key = jax.random.key(0)
    scores, changed = (
        predict(variables, network(name), (images,), jnp.float32(0.9), key)
        for images in (IMAGES, IMAGES.at[1:].multiply(3))
    )
    assert not np.allclose(scores[0], plain[0])
    np.testing.assert_allclose(scores[0], changed[0], rtol=1e-5)


def test_group_norm_has_no_statistics():
    model = network("none", "group")
    variables = jax.eval_shape(
        partial(model.init, deterministic=True), jax.random.key(1), IMAGES, 0
    )
    assert set(variables) == {"params"}


@pytest.mark.parametrize("name", ["Dropout", "Dropout before norm"])
def test_the_place_of_dropout(name, variables):
    _, found = network(name).apply(
        variables,
        IMAGES,
        0.5,
        deterministic=False,
        capture_intermediates=lambda module, _: type(module).__name__ != "Dense",
        rngs={"dropout": jax.random.key(2)},
        mutable=["batch_stats", "intermediates"],
    )
    branch = found["intermediates"]["stage1_branch1"]
    outputs = {layer: of["__call__"][0] for layer, of in branch.items() if layer != "__call__"}
    before = {
        "Dropout": jax.nn.relu(outputs["BatchNorm_1"]),
        "Dropout before norm": outputs["Conv_0"],
    }
    dropped, source = outputs["Dropout_0"], before[name]
    np.testing.assert_allclose(dropped, jnp.where(dropped != 0, 2 * source, 0), rtol=1e-6)
    assert 0.4 < np.mean(np.asarray(dropped)[source != 0] != 0) < 0.6


def test_deeper_branches_are_dropped_more_often(variables):
    """At a rate of 1, the second of two branches never runs, and the first half of the times."""
    ran = []
    for key in range(8):
        _, updates = drop("DropPath batch", variables, IMAGES, key, rate=1.0)
        names = ("stage1_branch1", "stage2_branch1")
        stats = (updates["batch_stats"], variables["batch_stats"])
        ran.append([differ(*(of[name] for of in stats)) for name in names])
    assert sum(last for _, last in ran) == 0
    assert 0 < sum(first for first, _ in ran) < 8
