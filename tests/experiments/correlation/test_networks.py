import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.correlation import masks, networks, sources
from experiments.task import Split


class Small(nn.Module):
    """A convolution without a bias, and the mean of its features."""

    @nn.compact
    def __call__(self, x, rate, *, deterministic):
        x = nn.Conv(3, (3, 3), use_bias=False, name="first")(x)
        return x.mean((1, 2, 3))


class Task:
    network = staticmethod(lambda regularizer: Small())
    losses = staticmethod(lambda outputs, targets: (outputs - targets) ** 2)


@pytest.fixture(scope="module")
def batch():
    inputs = jax.random.normal(jax.random.key(0), (4, 6, 6, 1)) + 1
    return Split((inputs,), jnp.arange(4.0), jnp.ones(4, bool))


@pytest.fixture(scope="module")
def variables(batch):
    return Small().init(jax.random.key(1), *batch.inputs, 0.0, deterministic=True)


def noise(variables, batch, form, rate):
    layer = masks.FORMS[form](rate, 3)
    make = networks.make_gradient_noise
    return make(Task, ("first", "kernel"), ("first",), layer, batch, 200)(variables)


def test_no_dropout_is_no_noise(variables, batch):
    assert noise(variables, batch, "Dropout", 0.0) == pytest.approx(0, abs=1e-9)


def test_noise_is_larger_where_more_values_share_a_draw(variables, batch):
    noises = [noise(variables, batch, form, 0.5) for form in masks.FORMS]
    assert noises == sorted(noises)
    assert noises[2] > 3 * noises[0] > 0


class Scale(nn.Module):
    """The mean of the inputs times one weight."""

    @nn.compact
    def __call__(self, x, rate, *, deterministic):
        return nn.Dense(1, use_bias=False, name="first")(x).mean((1, 2, 3))


class Mean:
    network = staticmethod(lambda regularizer: Scale())
    losses = staticmethod(lambda outputs, targets: outputs)


def of_mean(form, draws):
    """Returns variables and the noise of a gradient that is the mean of 16 masks / keep."""
    ones = Split((jnp.ones((1, 4, 4, 1)),), jnp.zeros(1), jnp.ones(1, bool))
    variables = {"params": {"first": {"kernel": jnp.ones((1, 1))}}}
    layer = masks.FORMS[form](0.5, 3)
    make = networks.make_gradient_noise
    return variables, make(Mean, ("first", "kernel"), ("first",), layer, ones, draws)


@pytest.mark.parametrize(("form", "draws"), [("Dropout", 16), ("SpatialDropout", 1)])
def test_noise_of_a_mean_is_known(form, draws):
    variables, noise = of_mean(form, 4000)
    assert noise(variables) == pytest.approx(1 / draws, rel=0.1)  # rate / keep / draws


def test_few_masks_are_enough_for_an_estimate_without_bias():
    """The gradients are 0, 0, 2, 2: variance 4 / 3, and squared mean 1 - 4 / 3 / 4 = 2 / 3."""
    variables, noise = of_mean("SpatialDropout", 4)
    assert noise(variables) == pytest.approx(2)


def test_outputs_of_modules(variables, batch):
    inputs = (np.repeat(np.asarray(batch.inputs[0]), 100, axis=0),)  # of two batches
    (found,) = networks.outputs(Small(), variables, inputs, [("first",)])
    expected = jax.lax.conv_general_dilated(
        inputs[0],
        variables["params"]["first"]["kernel"],
        *((1, 1), "SAME"),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_segments_have_no_padding():
    vectors = np.arange(2 * 20).reshape(2, 20, 1)
    lengths = np.array([17, 7])
    split = Split((np.zeros((2, 20)), lengths), None, None)
    found = sources.segments(vectors, split)
    assert found[..., 0, 0].tolist() == [list(range(8)), list(range(8, 16))]


@pytest.mark.parametrize("form", masks.FORMS)
def test_masks_drop_the_shapes_of_their_form(form):
    visible = masks.draw(masks.FORMS[form](0.5, 3), 0, (50, 9, 9, 4))
    assert visible.mean() == pytest.approx(0.5, abs=0.1)
    whole = visible.all((1, 2)) | ~visible.any((1, 2))
    assert whole.all() == (form == "SpatialDropout")
    alone = ~visible[:, 1:-1, 1:-1] & visible[:, :-2, 1:-1] & visible[:, 2:, 1:-1]
    assert alone.any() == (form == "Dropout")
