"""The errors of blockwise_attention, in Linen and NNX; each message is one sentence."""

import jax
import jax.numpy as jnp
import pytest

from flax_spatialdrop import fast_key

from ..errors import exactly
from .test_blockwise_attention import (
    BATCH,
    FUSED,
    HEADS,
    KEY,
    KEYS,
    OURS,
    QKV,
    QUERIES,
    each_host,
)

SHAPES = [(BATCH, QUERIES, HEADS, 8), (BATCH, KEYS, HEADS, 8), (BATCH, KEYS, HEADS, 6)]
WEIGHTS = (BATCH, HEADS, QUERIES, KEYS)

MISFITS = {
    "rank": (1, (KEYS, HEADS, 8), "must have the same axes, [*batch, length, heads, features]"),
    "batch": (2, (3, KEYS, HEADS, 6), "must have the same batch axes"),
    "lengths": (2, (BATCH, KEYS - 1, HEADS, 6), "must have the same length"),
    "features": (1, (BATCH, KEYS, HEADS, 7), "must have the same number of features"),
    "heads": (1, (BATCH, KEYS, 3, 8), "must divide those of query"),
    "no heads": (2, (BATCH, KEYS, 0, 6), "must divide those of query"),
}
WHO = {
    "lengths": "key and value",
    "features": "query and key",
    "heads": "the heads of key and of value",
    "no heads": "the heads of key and of value",
}


GROUPED = ("heads", "no heads")
GROUPED_MESSAGE = (
    "query, key and value must have the same number of heads: "
    "got query.shape={}, key.shape={} and value.shape={}; "
    "blockwise_attention takes fewer heads of key and value"
)


@each_host
@pytest.mark.parametrize("misfit", MISFITS)
def test_shapes_that_do_not_fit(host, misfit):
    which, shape, rule = MISFITS[misfit]
    shapes = [*SHAPES[:which], shape, *SHAPES[which + 1 :]]
    query, key, value = shapes
    message = (
        f"{WHO.get(misfit, 'query, key and value')} {rule}: "
        f"got query.shape={query}, key.shape={key} and value.shape={value}"
    )
    for attention in (OURS[host], FUSED[host]):
        if attention is FUSED["linen"] and misfit in GROUPED:  # it does not have groups of heads
            message = GROUPED_MESSAGE.format(*shapes)
        with pytest.raises(ValueError, match=exactly(message)):
            attention(*map(jnp.ones, shapes))


BAD = {
    "no block": (
        {"query_block_size": 0},
        ValueError,
        "query_block_size must be at least 1 query: got 0",
    ),
    "half a block": (
        {"key_block_size": 2.5},
        TypeError,
        "key_block_size must be an integer: got 2.5",
    ),
    "causal": ({"is_causal": 1}, TypeError, "is_causal must be True or False: got 1"),
    "span": ({"span": 0}, ValueError, "span must be at least 1 key: got 0"),
    "span of what": (
        {"span": 2, "broadcast_dims": (-1,)},
        ValueError,
        "span is the number of keys that are dropped together, so the keys must not share one "
        f"draw: got span=2 with the noise shape {(*WEIGHTS[:-1], 1)} of the weights",
    ),
    "rate": (
        {"dropout_rate": 1.5},
        ValueError,
        "dropout_rate is the probability to drop and must be in [0, 1]: got dropout_rate=1.5",
    ),
    "noise shape": (
        {"noise_shape": (None, 3, 1, None)},
        ValueError,
        "noise_shape[1] must be None, 1 or the size of that axis of weights: "
        "got 3 in noise_shape=(None, 3, 1, None) for weights.shape=(2, 4, 13, 19)",
    ),
    "mask": (
        {"mask": jnp.ones((BATCH, 1, KEYS, QUERIES), bool)},
        ValueError,
        f"mask must broadcast to the weights, [*batch, heads, queries, keys], whose shape is "
        f"{WEIGHTS}: got mask.shape={(BATCH, 1, KEYS, QUERIES)}",
    ),
    "bias": (
        {"bias": jnp.ones((1, 1, 1, 1, KEYS))},
        ValueError,
        f"bias must broadcast to the weights, [*batch, heads, queries, keys], whose shape is "
        f"{WEIGHTS}: got bias.shape={(1, 1, 1, 1, KEYS)}",
    ),
    "mask of what": (
        {"mask": [True]},
        TypeError,
        "mask must be a JAX or NumPy array: got [True]",
    ),
    "complex bias": (
        {"bias": jnp.ones((QUERIES, KEYS), complex)},
        TypeError,
        "blockwise_attention takes real arrays: got bias of complex64; use dot_product_attention",
    ),
    "key": (
        {"dropout_rng": None},
        ValueError,
        "attention weights are dropped with a PRNG key unless the rate is the number 0 or 1: "
        "got dropout_rng=None; pass one, such as jax.random.key(0), or deterministic=True",
    ),
    "kind of key": (
        {"dropout_rng": jax.random.key(0, impl="rbg")},
        ValueError,
        "dropout_rng must be a threefry2x32 key or a fast_key, since a part of a mask is drawn "
        "alone: got a key of rbg; write jax.random.key(seed, impl='threefry2x32')",
    ),
    "sown weights": (
        {"module": object()},
        ValueError,
        "module must be None, since blockwise_attention never holds all weights and can neither "
        "sow them (sow_weights of a layer) nor pass them to a function: got module=object; "
        "use dot_product_attention",
    ),
}


@each_host
@pytest.mark.parametrize(("bad", "error", "message"), BAD.values(), ids=list(BAD))
def test_bad_arguments(host, bad, error, message):
    options = {"dropout_rng": KEY, "dropout_rate": 0.3, **bad}
    with pytest.raises(error, match=exactly(message)):
        OURS[host](*QKV, **options)


@pytest.mark.parametrize(
    "name", ["einsum_dot_general", "qk_attn_weights_einsum", "attn_weights_value_einsum"]
)
def test_products_of_the_user_s_own_in_linen(name):
    message = (
        f"{name} must be None, since blockwise_attention never holds all weights and can neither "
        f"sow them (sow_weights of a layer) nor pass them to a function: got {name}=function; "
        "use dot_product_attention"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        OURS["linen"](*QKV, **{name: lambda *a: a})


def test_keys_of_any_kind_where_the_mask_is_small():
    for key in (jax.random.key(0, impl="rbg"), fast_key(jax.random.key(0))):
        y = OURS["linen"](*QKV, dropout_rng=key, dropout_rate=0.5, broadcast_dims=(-2,))
        assert y.shape == (BATCH, QUERIES, HEADS, 6)


@each_host
def test_arrays_without_features(host):
    empty = jnp.ones((1, 3, 2, 0))
    message = "query and key must have features: got query.shape=(1, 3, 2, 0)"
    with pytest.raises(ValueError, match=exactly(message)):
        OURS[host](empty, empty, jnp.ones((1, 3, 2, 4)))


def test_complex_arrays():
    message = "takes real arrays: got query of complex64"
    with pytest.raises(TypeError, match=message):
        OURS["linen"](*(a.astype(jnp.complex64) for a in QKV))
