"""Inside the context, Flax's attention layers run our attention; outside they do not."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone

from flax_spatialdrop import linen

KEY = jax.random.key(8)
X = jax.random.normal(jax.random.key(0), (3, 5, 8))
MASK = jax.random.bernoulli(jax.random.key(2), 0.7, (3, 1, 5, 5))
WEIGHTS = (3, 2, 5, 5)
ATTENTION = functools.partial(nn.MultiHeadDotProductAttention, 2, dropout_rate=0.3)


class Louder(nn.MultiHeadDotProductAttention):
    @nn.compact
    def __call__(self, inputs, **options):
        return 2 * super().__call__(inputs, **options)


class Setup(nn.Module):
    def setup(self):
        attention = nn.MultiHeadAttention(2, dropout_rate=0.3, deterministic=False)
        self.layers = [nn.Dense(8), attention]

    def __call__(self, x):
        return self.layers[1](self.layers[0](self.layers[1](x)))


class Compact(nn.Module):
    cls: type = nn.MultiHeadDotProductAttention

    @nn.compact
    def __call__(self, x, _=None):
        layer = self.cls(2, dropout_rate=0.3, broadcast_dropout=False, deterministic=False)
        return x + layer(x, mask=MASK[0])


class Body(Compact):
    def __call__(self, x, _):
        return super().__call__(x), None


AXES = {"variable_axes": {"params": 0}, "split_rngs": {"params": True, "dropout": True}}
MODELS = {
    "by itself": ATTENTION(deterministic=False),
    "setup": Setup(),
    "self": Compact(nn.SelfAttention),
    "derived": Compact(Louder),
    "remat": Compact(nn.remat(nn.MultiHeadDotProductAttention)),
    "jit": Compact(nn.jit(nn.MultiHeadDotProductAttention)),
    "vmap": nn.vmap(Compact, **AXES)(),
    "scan": nn.scan(Body, **AXES, length=2)(),
}


def init(model, *rest):
    rngs = {"params": jax.random.key(1), "dropout": jax.random.key(2)}
    return model.init(rngs, X, *rest)


def is_ours(f, *args):
    """Whether a trace of f contains code of this package."""
    return "flax_spatialdrop" in str(jax.make_jaxpr(f)(*args))


@pytest.mark.filterwarnings("ignore:SelfAttention:DeprecationWarning")
@pytest.mark.parametrize("name", MODELS)
def test_same_masks_values_and_gradients_wherever_a_layer_is(name):
    model = MODELS[name]
    rest = (None,) if name == "scan" else ()
    variables = init(model, *rest)

    def loss(variables, key):
        y = model.apply(variables, X, *rest, rngs={"dropout": key})
        y = y[0] if name == "scan" else y
        return (y**2).mean(), y

    grad = jax.jit(jax.grad(loss, has_aux=True))
    theirs, y_theirs = grad(variables, clone(KEY))
    with linen.drop_in():
        assert is_ours(grad, variables, KEY)
        ours, y_ours = grad(variables, clone(KEY))
    assert not is_ours(grad, variables, KEY)
    np.testing.assert_allclose(y_ours, y_theirs, rtol=2e-6, atol=2e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, theirs)
    assert not np.allclose(grad(variables, jax.random.key(9))[1], y_theirs, atol=1e-2)


def test_the_derivative_keeps_the_key_beyond_flax_without():
    """If the whole batch shares the mask, the derivative keeps the mask as bool."""

    def kept(broadcast, deterministic=False):
        layer = ATTENTION(broadcast_dropout=broadcast, deterministic=deterministic)
        variables = init(layer)

        def f(variables, x):
            return layer.apply(variables, x, rngs={"dropout": clone(KEY)})

        leaves = jax.tree.leaves(jax.vjp(f, variables, X)[1])
        return sorted((str(r.dtype), r.shape) for r in leaves if r.shape != ())

    without = kept(broadcast=False, deterministic=True)
    assert kept(broadcast=False) == sorted([*without, ("float32", WEIGHTS)])
    with linen.drop_in():
        assert kept(broadcast=False) == sorted([*without, ("uint32", (2,))])
        assert kept(broadcast=True) == sorted([*without, ("bool", (1, 1, 5, 5))])


@pytest.mark.parametrize("options", [{"dropout_rate": 0.0}, {"deterministic": True}], ids=str)
def test_a_layer_that_drops_nothing_is_flax_s_own_in_every_bit(options):
    layer = ATTENTION(**options)
    variables = init(layer)
    theirs = layer.apply(variables, X, mask=MASK)
    with linen.drop_in():
        jax.tree.map(np.testing.assert_array_equal, init(layer), variables)
        np.testing.assert_array_equal(layer.apply(variables, X, mask=MASK), theirs)


def test_an_attention_fn_of_the_user_s_own_is_left_alone():
    seen = []

    @functools.wraps(nn.dot_product_attention)
    def own(*args, **kwargs):
        seen.append(kwargs["dropout_rate"])
        return nn.dot_product_attention(*args, **kwargs)

    for attention_fn in (own, functools.partial(nn.dot_product_attention, bias=None)):
        layer = ATTENTION(attention_fn=attention_fn, deterministic=False)
        variables = init(layer)

        def run(variables, key, layer=layer):
            return layer.apply(variables, X, rngs={"dropout": key})

        theirs = run(variables, clone(KEY))
        with linen.drop_in():
            assert not is_ours(run, variables, KEY)
            np.testing.assert_array_equal(run(variables, clone(KEY)), theirs)
    assert seen == [0.3] * 4


def test_sown_weights():
    layer = ATTENTION(deterministic=False)
    variables = init(layer)

    def run():
        rngs = {"dropout": clone(KEY)}
        return layer.apply(variables, X, sow_weights=True, rngs=rngs, mutable="intermediates")

    theirs, sown = run()
    with linen.drop_in():
        ours, sown_ours = run()
    jax.tree.map(np.testing.assert_array_equal, sown_ours, sown)
    assert sown["intermediates"]["attention_weights"][0].shape == WEIGHTS
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6)


def test_decoding():
    layer = ATTENTION(decode=True, deterministic=False)
    variables = init(layer)

    @jax.jit
    def decode(key):
        cache, ys = variables["cache"], []
        for i, step_key in enumerate(jax.random.split(key, 5)):
            y, updated = layer.apply(
                {**variables, "cache": cache},
                X[:, i : i + 1],
                rngs={"dropout": step_key},
                mutable="cache",
            )
            cache = updated["cache"]
            ys.append(y)
        return jnp.concatenate(ys, 1), cache

    theirs, cache = decode(clone(KEY))
    with linen.drop_in():
        assert is_ours(decode, KEY)
        ours, cache_ours = decode(clone(KEY))
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6)
    jax.tree.map(np.testing.assert_array_equal, cache_ours, cache)


def test_a_layer_is_itself_again_after_the_call_and_after_an_error():
    layer = ATTENTION(deterministic=False)
    bound = layer.bind(init(layer), rngs={"dropout": clone(KEY)})
    wrong = ATTENTION(dropout_rate=1.5, deterministic=False).bind(bound.variables)
    with linen.drop_in():
        bound(X)
        assert bound.attention_fn is nn.dot_product_attention
        with pytest.raises(ValueError, match=r"must be in \[0, 1\]: got dropout_rate=1.5"):
            wrong(X, dropout_rng=clone(KEY))
        assert wrong.attention_fn is nn.dot_product_attention
