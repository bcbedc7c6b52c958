"""Attention layers of Flax with attention functions of this package, and head dropout in them."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.random import clone

from flax_spatialdrop import linen
from flax_spatialdrop import nnx as ours_nnx

KEY = jax.random.key(8)
X = jax.random.normal(jax.random.key(0), (3, 5, 8))
OTHER = jax.random.normal(jax.random.key(1), (3, 6, 8))
MASK = jax.random.bernoulli(jax.random.key(2), 0.7, (3, 1, 5, 5))
BROADCAST = [True, False, (-2,)]


def attention_fn(module, broadcast):
    """`dot_product_attention` of one of ours, and what the layer is told."""
    if isinstance(broadcast, bool):
        return module.dot_product_attention, {"broadcast_dropout": broadcast}
    return functools.partial(module.dot_product_attention, broadcast_dims=broadcast), {}


def linen_layer(**options):
    return nn.MultiHeadDotProductAttention(4, **{"dropout_rate": 0.3, **options})


def nnx_layer(**options):
    rngs = nnx.Rngs(params=0, dropout=clone(KEY))
    options = {"dropout_rate": 0.3, "in_features": 8, "decode": False, "rngs": rngs, **options}
    return nnx.MultiHeadAttention(4, **options)


@pytest.mark.parametrize("cross", [False, True], ids=["self", "cross"])
@pytest.mark.parametrize("broadcast", BROADCAST, ids=str)
def test_a_layer_of_linen(broadcast, cross):
    fn, options = attention_fn(linen, broadcast)
    layers = linen_layer(**options), linen_layer(attention_fn=fn, **options)
    inputs, mask = ((X, OTHER), None) if cross else ((X,), MASK)
    variables = layers[0].init(jax.random.key(3), *inputs, deterministic=True)

    @functools.partial(jax.jit, static_argnums=0)
    def run(layer):
        call = functools.partial(layer.apply, variables, *inputs, mask=mask)
        evaluated = call(deterministic=True)
        y, sown = call(
            deterministic=False, sow_weights=True, rngs={"dropout": KEY}, mutable="intermediates"
        )
        return evaluated, y, sown["intermediates"]["attention_weights"][0]

    theirs, ours = (run(layer) for layer in layers)
    check_layers(theirs, ours, broadcast)


@pytest.mark.parametrize("cross", [False, True], ids=["self", "cross"])
@pytest.mark.parametrize("broadcast", BROADCAST, ids=str)
def test_a_layer_of_nnx(broadcast, cross):
    fn, options = attention_fn(ours_nnx, broadcast)
    layers = nnx_layer(**options), nnx_layer(attention_fn=fn, **options)
    inputs, mask = ((X, OTHER), None) if cross else ((X,), MASK)

    @nnx.jit
    def run(layer):
        evaluated = layer(*inputs, mask=mask, deterministic=True)
        y = layer(*inputs, mask=mask, deterministic=False, sow_weights=True)
        return evaluated, y, nnx.pop(layer, nnx.Intermediate)["attention_weights"].get_value()[0]

    theirs, ours = (run(layer) for layer in layers)
    check_layers(theirs, ours, broadcast)


def check_layers(theirs, ours, broadcast):
    for i, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        is_close = np.allclose(mine, other, rtol=2e-6, atol=2e-6)
        assert is_close == (i != 1 or isinstance(broadcast, bool))
    evaluated, y, sown = ours
    assert not np.allclose(y, evaluated, atol=1e-2)
    np.testing.assert_allclose(sown.sum(-1), 1, rtol=1e-5)  # sown before they are dropped


def test_quantized_einsums_are_modules_of_the_layer_in_linen():
    class Einsum(nn.Module):
        @nn.compact
        def __call__(self, equation, *operands):
            scale = self.param("scale", nn.initializers.ones, ())
            return scale * jnp.einsum(equation, *operands)

    own = {"qk_attn_weights_einsum_cls": Einsum, "attn_weights_value_einsum_cls": Einsum}
    layers = linen_layer(**own), linen_layer(attention_fn=linen.dot_product_attention, **own)
    variables = layers[0].init(jax.random.key(3), X, deterministic=True)

    def loss(variables, layer):
        y = layer.apply(variables, X, deterministic=False, rngs={"dropout": clone(KEY)})
        return (y**2).sum()

    theirs, ours = (
        jax.jit(jax.grad(functools.partial(loss, layer=layer)))(variables) for layer in layers
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)


class LinenBlock(nn.Module):
    """Head dropout as the docstring has it, over whatever attention."""

    attention: object
    rate: float = 0.5

    @nn.compact
    def __call__(self, x, train, mask=None):
        @functools.wraps(self.attention)
        def attention_fn(*args, **kwargs):
            heads = self.attention(*args, **kwargs)
            return linen.HeadDropout(self.rate, deterministic=not train, name="heads")(heads)

        return linen_layer(attention_fn=attention_fn, name="attention")(
            x, mask=mask, deterministic=not train
        )


@pytest.mark.parametrize("attention", [nn.dot_product_attention, linen.dot_product_attention])
def test_head_dropout_in_a_layer_of_linen(attention):
    block, bare = LinenBlock(attention), LinenBlock(attention, 0.0)
    variables = block.init(jax.random.key(3), X, train=False)
    run = jax.jit(block.apply, static_argnames="train")
    np.testing.assert_array_equal(
        run(variables, X, train=False, mask=MASK), run(variables, X, train=False, mask=MASK)
    )
    assert not np.allclose(
        run(variables, X, train=False, mask=MASK), run(variables, X, train=False)
    )  # wraps: else Flax would keep the mask to itself
    assert not np.allclose(
        run(variables, X, train=True, rngs={"dropout": clone(KEY)}),
        bare.apply(variables, X, train=True, rngs={"dropout": clone(KEY)}),
    )


class HeadsDropped(nnx.Module):
    def __init__(self, attention, rate, rngs):
        self.attention = attention
        self.drop = ours_nnx.HeadDropout(rate, rngs=rngs)

    def __call__(self, *args, **kwargs):
        return self.drop(self.attention(*args, **kwargs))


def test_head_dropout_in_a_layer_of_nnx():
    pass


def test_head_dropout_by_the_layer_s_own_key():
    pass
