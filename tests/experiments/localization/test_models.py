from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.localization.models import REGULARIZERS, Localizer

SCENES = jax.random.normal(jax.random.key(0), (2, 32, 48))


def network(name):
    return Localizer(7, 4, 16, name, block_size=3)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(partial(network("none").init, deterministic=True))(jax.random.key(1), SCENES, 0)


@partial(jax.jit, static_argnames=("name", "deterministic"))
def outputs_of(name, variables, key, deterministic=False):
    """Returns the outputs, and the features before the wide layer."""
    outputs, found = network(name).apply(
        variables,
        *(SCENES, jnp.float32(0.5)),
        deterministic=deterministic,
        rngs={"dropout": key},
        capture_intermediates=True,
        mutable=["intermediates"],
    )
    layers = found["intermediates"]
    first = next((layer for layer in layers if layer.startswith(("Drop", "Spatial"))), None)
    return outputs, layers[first]["__call__"][0] if first else None


@pytest.mark.parametrize("name", REGULARIZERS)
def test_all_networks_take_the_same_variables_and_drop_in_training_alone(name, variables):
    keys = jax.random.split(jax.random.key(2))
    plain, outputs = (
        outputs_of(kind, variables, jax.random.key(2), deterministic=True)[0]
        for kind in ("none", name)
    )
    assert outputs.shape == (2, 8, 12, 7)
    np.testing.assert_array_equal(plain, outputs)
    one, other = (outputs_of(name, variables, key)[0] for key in keys)
    assert np.array_equal(one, other) == (name == "none")


def shares(values):
    """Returns the mean and the deviation over channels of the share of zeros."""
    zeros = (np.asarray(values) == 0).mean((1, 2))
    return zeros.mean(), zeros.std()


def test_spatial_dropout_drops_whole_channels_and_dropout_does_not(variables):
    everywhere = jax.tree.map(lambda leaf: leaf + 1.0, variables)  # so that no feature is 0
    deviation = {}
    for name in ("Dropout", "SpatialDropout2D", "DropBlock"):
        mean, deviation[name] = shares(outputs_of(name, everywhere, jax.random.key(4))[1])
        assert mean == pytest.approx(0.5, abs=0.12)
    assert deviation["SpatialDropout2D"] == pytest.approx(0.5, abs=0.05)
    assert deviation["Dropout"] < deviation["DropBlock"] < deviation["SpatialDropout2D"]
