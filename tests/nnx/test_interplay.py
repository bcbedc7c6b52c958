"""All NNX modules under lifted transforms: which layers share a mask, and which must not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.configurations import config

from flax_spatialdrop.nnx import Dropout, SpatialDropout1D

from ..catalogue import FIRST_OF_EACH
from .gradients import value_and_grad

X = jnp.ones((16, 4, 32))
LENGTH = 3
CLASSES = (Dropout, SpatialDropout1D)  # one draws its mask again, one keeps it
each_class = pytest.mark.parametrize("cls", CLASSES)
each_wrap = pytest.mark.parametrize("wrap", [lambda f: f, nnx.remat, nnx.jit])


def number_of_masks(outputs):
    return len(np.unique(np.asarray(outputs) != 0, axis=0))


def layers(cls):
    """Returns one module with LENGTH stacked layers, each with its own stream."""

    @nnx.split_rngs(splits=LENGTH)
    @nnx.vmap
    def make(rngs):
        return cls(0.5, rngs=rngs)

    return make(nnx.Rngs(0))


@each_class
@each_wrap
def test_scan_with_split_streams_draws_anew_in_each_step(cls, wrap):
    @nnx.scan(in_axes=(0, None), out_axes=0)
    @wrap
    def run(layer, x):
        return layer(x)

    assert number_of_masks(run(layers(cls), X)) == LENGTH


@each_class
@each_wrap
def test_scan_with_a_stream_that_is_carried_draws_anew_in_each_step(cls, wrap):
    @nnx.scan(in_axes=(nnx.Carry, None), out_axes=(nnx.Carry, 0), length=LENGTH)
    def run(layer, x):
        return layer, wrap(lambda layer, x: layer(x))(layer, x)

    _, outputs = run(cls(0.5, rngs=nnx.Rngs(0)), X)
    assert number_of_masks(outputs) == LENGTH


@each_class
@each_wrap
def test_scan_with_one_stream_for_all_steps_shares_the_mask_in_graph_mode(cls, wrap):
    """In tree mode, Flax carries what a step writes, so the stream moves on."""

    @nnx.scan(in_axes=(None, None), out_axes=0, length=LENGTH)
    @wrap
    def run(layer, x):
        return layer(x)

    masks = 1 if config.nnx_graph_mode else LENGTH
    assert number_of_masks(run(cls(0.5, rngs=nnx.Rngs(0)), X)) == masks


@each_class
@each_wrap
@pytest.mark.parametrize("split", [True, False])
def test_vmap(cls, wrap, split):
    def run(layer, x):
        return wrap(lambda layer, x: layer(x))(layer, x)

    examples = jnp.ones((LENGTH, *X.shape))
    if split:
        outputs = nnx.vmap(run)(layers(cls), examples)
    else:
        outputs = nnx.vmap(run, in_axes=(None, 0))(cls(0.5, rngs=nnx.Rngs(0)), examples)
    assert number_of_masks(outputs) == (LENGTH if split else 1)


@each_class
@each_wrap
def test_streams_move_on_inside_a_transform(cls, wrap):
    run = wrap(lambda layer, x: layer(x))
    layer, plain = (cls(0.5, rngs=nnx.Rngs(0)) for _ in range(2))
    outputs = [run(layer, X) for _ in range(LENGTH)]
    np.testing.assert_array_equal(outputs, [plain(X) for _ in range(LENGTH)])
    assert number_of_masks(outputs) == LENGTH
    assert layer.rngs.count[...] == LENGTH


@each_class
def test_two_layers_of_a_model_never_share_a_mask(cls):
    rngs = nnx.Rngs(0)
    drops = [cls(0.5, rngs=rngs) for _ in range(LENGTH)]
    assert number_of_masks([drop(X) for drop in drops]) == LENGTH
    # Layers without streams do not share masks either if a call gives them the same Rngs.
    drops = [cls(0.5) for _ in range(LENGTH)]
    assert number_of_masks([drop(X, rngs=rngs) for drop in drops]) == LENGTH


@each_class
def test_gradients_of_a_model_with_streams(cls):
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(32, 32, rngs=rngs)
            self.drop = cls(0.5, rngs=rngs)

        def __call__(self, x):
            return self.drop(self.dense(x))

    model, twin = (Model(nnx.Rngs(0)) for _ in range(2))
    for wrap in (lambda f: f, nnx.jit):
        _, gradient = wrap(value_and_grad(lambda model, x: model(x).sum()))(model, X)
        kept = np.asarray(twin(X) != 0)
        np.testing.assert_array_equal(gradient["dense"]["bias"][...], 2 * kept.sum(axis=(0, 1)))


@pytest.mark.parametrize("case", FIRST_OF_EACH, ids=lambda case: case.id)
def test_sample_mask_is_the_mask_of_the_call(case):
    x = jax.random.normal(jax.random.key(0), case.shape)
    twins = [case.module("nnx")(0.5, **case.options, rngs=nnx.Rngs(3)) for _ in range(2)]
    mask = twins[0].sample_mask(x)
    assert mask.shape == case.noise_shape
    np.testing.assert_array_equal(twins[0](x, mask=mask), twins[1](x))
    np.testing.assert_array_equal(twins[0](x), twins[1](x))  # both streams have the same count
