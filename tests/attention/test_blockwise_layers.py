"""Attention layers of Flax, in Linen and NNX, with blockwise_attention as attention_fn."""

import copy
import functools
import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.random import clone

from flax_spatialdrop import linen
from flax_spatialdrop import nnx as ours_nnx

from .test_layers import KEY, MASK, OTHER, X, linen_layer, nnx_layer

BLOCKS = {"query_block_size": 2, "key_block_size": 3}
LINEN = functools.partial(linen.blockwise_attention, **BLOCKS)
NNX = functools.partial(ours_nnx.blockwise_attention, **BLOCKS)


def check(ours, theirs, atol=1e-5):
    for mine, other in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=atol)


@pytest.mark.parametrize(("broadcast", "cross"), [(False, False), (True, True)])
def test_a_layer_of_linen(broadcast, cross):
    layers = (
        linen_layer(broadcast_dropout=broadcast, **options)
        for options in ({}, {"attention_fn": LINEN})
    )
    inputs, mask = ((X, OTHER), None) if cross else ((X,), MASK)

    @functools.partial(jax.jit, static_argnums=0)
    def run(layer, variables):
        def loss(variables, deterministic):
            y = layer.apply(
                variables,
                *inputs,
                mask=mask,
                deterministic=deterministic,
                rngs={"dropout": clone(KEY)},
            )
            return (y**2).sum(), y

        trained = jax.grad(loss, has_aux=True)(variables, deterministic=False)
        return trained, loss(variables, deterministic=True)

    variables = linen_layer().init(jax.random.key(3), *inputs, deterministic=True)
    theirs, ours = (run(layer, variables) for layer in layers)
    check(ours, theirs)


@pytest.mark.parametrize(("broadcast", "cross"), [(False, False), (True, True)])
def test_a_layer_of_nnx(broadcast, cross):
    inputs, mask = ((X, OTHER), None) if cross else ((X,), MASK)

    @nnx.jit
    def run(layer):
        return [layer(*inputs, mask=mask, deterministic=d) for d in (False, True)]

    theirs = run(nnx_layer(broadcast_dropout=broadcast))
    check(run(nnx_layer(broadcast_dropout=broadcast, attention_fn=NNX)), theirs)


class PackedLinen(nn.Module):
    """As in the guide: the ids of a call are bound inside of the model."""

    attention_fn: object

    @nn.compact
    def __call__(self, x, segment_ids):
        attend = functools.partial(self.attention_fn, segment_ids=segment_ids)
        return linen_layer(attention_fn=attend)(x, deterministic=True)


class PackedNNX(nnx.Module):
    """As in the guide: the ids of a call are bound to a copy of the layer."""

    def __init__(self, attention_fn):
        self.attention_fn = attention_fn
        self.attention = nnx_layer()

    def __call__(self, x, segment_ids, deterministic=True):
        layer = copy.copy(self.attention)
        layer.attention_fn = functools.partial(self.attention_fn, segment_ids=segment_ids)
        return layer(x, deterministic=deterministic)


@pytest.mark.parametrize("host", ["linen", "nnx"])
@pytest.mark.parametrize("whole", [False, True])
def test_documents_in_one_row_are_those_in_rows_of_their_own(host, whole):
    lengths = 2, X.shape[1] - 2
    ids = jnp.repeat(jnp.arange(2), np.array(lengths))[None]
    if host == "linen":
        model = PackedLinen(linen.dot_product_attention if whole else LINEN)
        variables = model.init(jax.random.key(3), X[:1], ids)
        f = functools.partial(jax.jit(model.apply), variables)
    else:
        model = PackedNNX(ours_nnx.dot_product_attention if whole else NNX)
        f = functools.partial(nnx.jit(lambda model, *args: model(*args)), model)
    alone = [f(part, jnp.zeros(part.shape[:2], int)) for part in jnp.split(X[:1], lengths[:1], 1)]
    check(f(X[:1], ids), jnp.concatenate(alone, 1))


def test_a_copy_of_a_layer_shares_its_parameters_and_its_stream_in_nnx():
    model, ids = PackedNNX(NNX), jnp.zeros(X.shape[:2], int)
    f = nnx.jit(lambda model, x: model(x, ids, deterministic=False))
    first, second = f(model, X), f(model, X)
    assert not np.allclose(first, second, atol=1e-2)
    assert model.attention.attention_fn is not NNX
    grads = nnx.grad(lambda model: (model(X, ids) ** 2).sum())(model)
    assert (grads["attention"]["query"]["kernel"][...] != 0).any()


LAYER_HAS_IS_CAUSAL = "is_causal" in inspect.signature(nnx.MultiHeadAttention.__call__).parameters


@pytest.mark.parametrize("host", ["linen", "nnx"])
def test_no_later_key_is_attended_to(host):
    """As in the docstrings. An NNX layer passes its own is_causal, which overrides a partial's."""
    if host == "linen":
        layer = linen_layer(attention_fn=functools.partial(LINEN, is_causal=True))
        params = layer.init(jax.random.key(3), X, deterministic=True)
        f = functools.partial(layer.apply, params, deterministic=True)
    elif LAYER_HAS_IS_CAUSAL:
        f = functools.partial(nnx_layer(attention_fn=NNX), is_causal=True, deterministic=True)
    else:
        bound = functools.partial(NNX, is_causal=True)
        f = functools.partial(nnx_layer(attention_fn=bound), deterministic=True)
    y, changed = f(X), f(X.at[:, 3:].set(0))
    np.testing.assert_array_equal(y[:, :3], changed[:, :3])
    assert not np.allclose(y[:, 3:], changed[:, 3:], atol=1e-2)


def test_a_layer_that_decodes_needs_no_is_causal():
    layer = linen_layer(
        decode=True, dropout_rate=0.0, attention_fn=functools.partial(LINEN, is_causal=True)
    )
    variables = layer.init(jax.random.key(3), X)
    message = (
        "a layer that decodes passes its own mask: got one query and 5 keys; leave is_causal out"
    )
    with pytest.raises(ValueError, match=message):
        layer.apply(variables, X[:, :1], mutable="cache")


def test_decoding_with_a_cache_in_linen():
    layer = functools.partial(linen_layer, decode=True, dropout_rate=0.0)
    variables = layer().init(jax.random.key(3), X)

    def decode(layer):
        step = jax.jit(functools.partial(layer.apply, mutable="cache"))
        cache, outputs = variables["cache"], []
        for place in range(X.shape[1]):
            y, changed = step({**variables, "cache": cache}, X[:, place : place + 1])
            cache = changed["cache"]
            outputs.append(y)
        return jnp.concatenate(outputs, 1)

    check(decode(layer(attention_fn=LINEN)), decode(layer()))


def test_decoding_with_a_cache_in_nnx():
    def decode(**options):
        layer = nnx_layer(decode=True, dropout_rate=0.0, **options)
        layer.init_cache(X.shape)
        step = nnx.jit(lambda layer, x: layer(x))
        return jnp.concatenate([step(layer, X[:, i : i + 1]) for i in range(X.shape[1])], 1)

    check(decode(attention_fn=NNX), decode())


class Decoder(nn.Module):
    """Layers of causal attention in a scan, each with remat."""

    attention_fn: object

    @nn.compact
    def __call__(self, x, mask):
        def layer(module, x, _):
            options = {"broadcast_dropout": False, "deterministic": False}
            attend = linen_layer(attention_fn=self.attention_fn, **options, parent=module)
            return x + attend(x, mask=mask), None

        scanned = nn.scan(
            nn.remat(layer, prevent_cse=False),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=3,
        )
        return scanned(self, x, None)[0]


def test_a_scan_over_layers_that_are_rematerialised():
    causal = functools.partial(LINEN, is_causal=True)
    ours, theirs = Decoder(causal), Decoder(nn.dot_product_attention)
    tril = nn.make_causal_mask(X[..., 0], dtype=bool)
    rngs = {"params": jax.random.key(3), "dropout": jax.random.key(4)}
    variables = jax.jit(theirs.init)(rngs, X, tril)

    def run(model, mask):
        def loss(variables):
            y = model.apply(variables, X, mask, rngs={"dropout": clone(KEY)})
            return (y**2).sum(), y

        return jax.jit(jax.grad(loss, has_aux=True))(variables)

    check(run(ours, None), run(theirs, tril), atol=1e-3)  # gradients are up to 2000


def test_weights_cannot_be_sown():
    message = r"module must be None, since .* sow them \(sow_weights of a layer\)"
    layer = linen_layer(attention_fn=LINEN)
    with pytest.raises(ValueError, match=message):
        layer.init(jax.random.key(3), X, deterministic=True, sow_weights=True)
    with pytest.raises(ValueError, match=message):
        nnx_layer(attention_fn=NNX)(X, deterministic=True, sow_weights=True)
