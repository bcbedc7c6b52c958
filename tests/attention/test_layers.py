"""Attention layers of Flax with attention functions of this package, and with head dropout."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.random import clone

from flax_spatialdrop import head_dropout, linen
from flax_spatialdrop import nnx as ours_nnx

KEY = jax.random.key(8)
X = jax.random.normal(jax.random.key(0), (3, 5, 8))
OTHER = jax.random.normal(jax.random.key(1), (3, 6, 8))
MASK = jax.random.bernoulli(jax.random.key(2), 0.7, (3, 1, 5, 5))
LAYERS = {"self": (True, False), "cross": (False, True), "queries": ((-2,), False)}
each_layer = pytest.mark.parametrize(("broadcast", "cross"), LAYERS.values(), ids=LAYERS.keys())


def attention_fn(module, broadcast):
    """Returns an attention_fn of linen or nnx, and the options to pass to the layer."""
    if isinstance(broadcast, bool):
        return module.dot_product_attention, {"broadcast_dropout": broadcast}
    return functools.partial(module.dot_product_attention, broadcast_dims=broadcast), {}


def linen_layer(**options):
    return nn.MultiHeadDotProductAttention(4, **{"dropout_rate": 0.3, **options})


def nnx_layer(**options):
    rngs = nnx.Rngs(params=0, dropout=clone(KEY))
    options = {"dropout_rate": 0.3, "in_features": 8, "decode": False, "rngs": rngs, **options}
    return nnx.MultiHeadAttention(4, **options)


@each_layer
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


@each_layer
@pytest.mark.filterwarnings("ignore:Using 'Module.sow")  # the oldest Flax does not have nnx.capture
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
    np.testing.assert_allclose(sown.sum(-1), 1, rtol=1e-5)  # they are sown before dropout


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

    grad = jax.jit(jax.grad(loss), static_argnums=1)
    theirs, ours = (grad(variables, layer) for layer in layers)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)


def check_heads(dropped, heads):
    """Checks that each of the 12 heads is dropped or doubled as a whole, and that both occur."""
    kept = (dropped != 0).any((1, 3), keepdims=True)
    assert 0 < kept.sum() < kept.size == 12
    np.testing.assert_array_equal(dropped, np.where(kept, 2 * heads, 0))


class Block(nn.Module):
    """Head dropout as in the docstring of the Linen module; also returns the heads."""

    attention: Callable
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, x, train, mask=None):
        seen = []

        @functools.wraps(self.attention)
        def attention_fn(*args, **kwargs):
            seen.append(self.attention(*args, **kwargs))
            seen.append(linen.HeadDropout(0.5, deterministic=not train)(seen[0]))
            return seen[1]

        layer = linen_layer(attention_fn=attention_fn, dropout_rate=self.dropout_rate)
        return layer(x, mask=mask, deterministic=not train), seen


@pytest.mark.parametrize("attention", [nn.dot_product_attention, linen.dot_product_attention])
def test_head_dropout_in_a_layer_of_linen(attention):
    block = Block(attention)
    variables = block.init(jax.random.key(3), X, train=False)
    assert variables.keys() == {"params"}
    run = jax.jit(block.apply, static_argnames="train")
    _, (heads, dropped) = run(variables, X, train=True, rngs={"dropout": clone(KEY)})
    check_heads(dropped, heads)
    evaluated, (heads, as_it_is) = run(variables, X, train=False)
    np.testing.assert_array_equal(as_it_is, heads)
    bare = linen_layer().apply(layer_of(variables), X, deterministic=True)
    np.testing.assert_allclose(evaluated, bare, rtol=2e-6, atol=2e-6)
    masked, _ = run(variables, X, train=False, mask=MASK)
    bare = linen_layer().apply(layer_of(variables), X, mask=MASK, deterministic=True)
    np.testing.assert_allclose(masked, bare, rtol=2e-6, atol=2e-6)


def layer_of(variables):
    return {"params": variables["params"]["MultiHeadDotProductAttention_0"]}


def test_head_dropout_beside_dropout_of_weights_draws_another_mask_in_linen():
    block = Block(linen.dot_product_attention, dropout_rate=0.3)
    variables = block.init(jax.random.key(3), X, train=False)
    rngs = {"dropout": clone(KEY)}
    _, (heads, dropped) = block.apply(variables, X, train=True, rngs=rngs)
    check_heads(dropped, heads)


class HeadsDropped(nnx.Module):
    """As in the docstring of the NNX module; appends the heads to a list."""

    def __init__(self, rngs, seen):
        self.drop = ours_nnx.HeadDropout(0.5, rngs=rngs)
        self.tell = seen.append

    def __call__(self, *args, **kwargs):
        heads = ours_nnx.dot_product_attention(*args, **kwargs)
        self.tell(heads)
        dropped = self.drop(heads)
        self.tell(dropped)
        return dropped


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_head_dropout_in_a_layer_of_nnx(rate):
    seen = []
    rngs = nnx.Rngs(params=0, dropout=clone(KEY))
    layer = nnx_layer(dropout_rate=rate, attention_fn=HeadsDropped(rngs, seen), rngs=rngs)
    bare = nnx_layer(dropout_rate=rate)
    layer.train()
    layer(X)
    check_heads(seen[1], seen[0])
    run = nnx.jit(lambda layer: layer(X))
    assert not np.allclose(run(layer), run(layer))  # the stream is in the model, and advances
    layer.eval()
    bare.eval()
    np.testing.assert_allclose(run(layer), bare(X), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("host", ["linen", "nnx"])
def test_head_dropout_with_the_key_of_the_layer(host):
    seen = []
    attention = {"linen": linen, "nnx": ours_nnx}[host].dot_product_attention

    @functools.wraps(attention)
    def attention_fn(*args, dropout_rng, deterministic, **kwargs):
        if deterministic:
            return attention(*args, deterministic=True, **kwargs)
        for_weights, for_heads = jax.random.split(dropout_rng)
        heads = attention(*args, dropout_rng=for_weights, **kwargs)
        seen.extend([heads, head_dropout(for_heads, heads, 0.5)])
        return seen[1]

    if host == "linen":
        layer = linen_layer(attention_fn=attention_fn)
        variables = layer.init(jax.random.key(3), X, deterministic=True)
        layer.apply(variables, X, deterministic=False, rngs={"dropout": clone(KEY)})
    else:
        nnx_layer(attention_fn=attention_fn)(X, deterministic=False)
    check_heads(seen[1], seen[0])
