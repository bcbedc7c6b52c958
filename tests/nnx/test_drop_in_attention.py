"""drop_in lets attention layers of Flax run our attention; the layers keep their classes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_spatialdrop.nnx
from flax_spatialdrop import DropInReport
from flax_spatialdrop.nnx import drop_in

from .gradients import value_and_grad

X = jax.random.normal(jax.random.key(0), (3, 5, 8))
MASK = jax.random.bernoulli(jax.random.key(2), 0.7, (3, 1, 5, 5))
WEIGHTS = (3, 2, 5, 5)


def attention(cls=nnx.MultiHeadAttention, rate=0.3, **options):
    rngs = nnx.Rngs(params=0, dropout=1)
    options = {"decode": False, "deterministic": False, "rngs": rngs, **options}
    return cls(2, 8, dropout_rate=rate, **options)


class Louder(nnx.MultiHeadAttention):
    def __call__(self, inputs, **options):
        return 2 * super().__call__(inputs, **options)


class Model(nnx.Module):
    """A model that does not use this package."""

    def __init__(self):
        first, self.again = (attention(broadcast_dropout=False) for _ in range(2))
        self.blocks = nnx.List([nnx.Sequential(first, nnx.Dropout(0.2, rngs=nnx.Rngs(2)))])
        self.second = attention(broadcast_dropout=False)
        self.louder = attention(Louder)

    def __call__(self, x):
        masked = nnx.remat(lambda layer, x: layer(x, mask=MASK))
        x = masked(self.again, self.blocks[0](x))
        return self.louder(x + self.second(x))


PATHS = {
    ("blocks", 0, "layers", 0),
    ("blocks", 0, "layers", 1),
    ("again",),
    ("second",),
    ("louder",),
}


def is_ours(layer):
    return layer.attention_fn is flax_spatialdrop.nnx.dot_product_attention


def test_same_masks_values_and_gradients_from_where_the_streams_had_got_to():
    theirs, ours = Model(), Model()

    def loss(model, x):
        y = model(x)
        return (y**2).mean(), y

    @nnx.jit
    def grad(model, x):
        (_, y), gradient = value_and_grad(loss, has_aux=True)(model, x)
        return gradient, y

    grad(theirs, X), grad(ours, X)
    assert set(drop_in(ours).reached) == PATHS
    assert drop_in(ours) == DropInReport()
    assert is_ours(ours.blocks[0].layers[0])
    assert is_ours(ours.second)
    assert is_ours(ours.louder)
    assert type(ours.louder) is Louder
    for _ in range(2):
        (d_theirs, y_theirs), (d_ours, y_ours) = grad(theirs, X), grad(ours, X)
        np.testing.assert_allclose(y_ours, y_theirs, rtol=5e-6, atol=5e-6)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
        jax.tree.map(close, d_ours, d_theirs)
    state, expected = (nnx.state(m, nnx.RngCount) for m in (ours, theirs))
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert not np.allclose(grad(ours, X)[1], y_ours, atol=1e-2)


def test_a_vmap_over_layers():
    @nnx.vmap
    def layers(key):
        rngs = nnx.Rngs(params=key, dropout=key)
        return nnx.MultiHeadAttention(2, 8, dropout_rate=0.3, decode=False, rngs=rngs)

    theirs, ours = (layers(jax.random.split(jax.random.key(0), 3)) for _ in range(2))
    assert set(drop_in(ours).reached) == {()}

    @nnx.jit
    @nnx.vmap(in_axes=(0, None))
    def run(layer, x):
        return layer(x, deterministic=False)

    np.testing.assert_allclose(run(ours, X), run(theirs, X), rtol=2e-6, atol=2e-6)


def test_the_derivative_keeps_the_key_beyond_flax_without():
    """If the whole batch shares the mask, the derivative keeps the mask as bool."""

    def kept(swap, broadcast, **options):
        layer = attention(broadcast_dropout=broadcast, keep_rngs=False)
        if swap:
            drop_in(layer)
        graph, state = nnx.split(layer)

        def f(state, x):
            return nnx.merge(graph, state)(x, rngs=nnx.Rngs(dropout=3), **options)

        leaves = jax.tree.leaves(jax.vjp(f, state, X)[1])
        return sorted((str(r.dtype), r.shape) for r in leaves if r.shape != ())

    without = kept(swap=False, broadcast=False, deterministic=True)
    assert kept(swap=False, broadcast=False) == sorted([*without, ("float32", WEIGHTS)])
    assert kept(swap=True, broadcast=False) == sorted([*without, ("uint32", (2,))])
    assert kept(swap=True, broadcast=True) == sorted([*without, ("bool", (1, 1, 5, 5))])


@pytest.mark.parametrize("options", [{"rate": 0.0}, {"deterministic": True}], ids=str)
def test_a_layer_that_drops_nothing_is_flax_s_own_in_every_bit(options):
    layer = attention(**options)
    theirs = layer(X, mask=MASK)
    drop_in(layer)
    np.testing.assert_array_equal(layer(X, mask=MASK), theirs)


def test_an_attention_fn_of_the_user_s_own_is_left_alone():
    @functools.wraps(nnx.dot_product_attention)
    def own(*args, **kwargs):
        return nnx.dot_product_attention(*args, **kwargs)

    partial = functools.partial(nnx.dot_product_attention, bias=None)
    named = {
        own: "the function dot_product_attention",
        partial: "a functools.partial of the function dot_product_attention",
    }
    for attention_fn, name in named.items():
        layer = attention(attention_fn=attention_fn)
        assert drop_in(layer) == DropInReport({}, {(): f"its attention_fn is {name}"})
        assert layer.attention_fn is attention_fn


@pytest.mark.filterwarnings("ignore:Using 'Module.sow")  # the oldest Flax does not have nnx.capture
def test_sown_weights():
    theirs, ours = attention(), attention()
    drop_in(ours)
    y_theirs, y_ours = (layer(X, sow_weights=True) for layer in (theirs, ours))
    sown, expected = (nnx.pop(layer, nnx.Intermediate) for layer in (ours, theirs))
    jax.tree.map(np.testing.assert_array_equal, sown, expected)
    assert sown["attention_weights"].get_value()[0].shape == WEIGHTS
    np.testing.assert_allclose(y_ours, y_theirs, rtol=2e-6, atol=2e-6)


def test_decoding():
    @nnx.jit
    def decode(layer, x):
        return jnp.concatenate([layer(x[:, i : i + 1]) for i in range(5)], 1)

    theirs, ours = attention(decode=True), attention(decode=True)
    drop_in(ours)
    for layer in (theirs, ours):
        layer.init_cache(X.shape)
    np.testing.assert_allclose(decode(ours, X), decode(theirs, X), rtol=2e-6, atol=2e-6)
    cache, expected = (nnx.state(layer, nnx.Cache) for layer in (ours, theirs))
    jax.tree.map(np.testing.assert_array_equal, cache, expected)


def test_a_changed_model_goes_through_split_clone_and_views():
    model = Model()
    before = nnx.state(model)
    drop_in(model)
    assert jax.tree.structure(nnx.state(model)) == jax.tree.structure(before)
    twin = nnx.clone(model)
    assert is_ours(twin.again)
    np.testing.assert_array_equal(twin(X), model(X))
    still = nnx.view(model, deterministic=True)
    np.testing.assert_array_equal(still(X), still(X))
