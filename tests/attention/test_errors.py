"""The errors of dot_product_attention, and the arguments that only Linen or only NNX has."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.nnx.nn import dtypes
from jax.random import clone

from flax_spatialdrop import linen
from flax_spatialdrop import nnx as ours_nnx

from ..errors import exactly
from .test_dot_product import KEY, OURS, QKV, attend, each_host, either_broadcast, normal

BAD = {
    "rate": (
        {"dropout_rate": 1.5},
        "dropout_rate is the probability to drop and must be in [0, 1]: got dropout_rate=1.5",
    ),
    "rank": (
        {"noise_shape": (1, 1, None)},
        "noise_shape needs one entry per axis of weights: got noise_shape=(1, 1, None) for "
        "weights.shape=(2, 4, 5, 7); write None where an axis has its own draws and 1 where it "
        "shares one, 4 in all",
    ),
    "axis": (
        {"broadcast_dims": (4,)},
        "broadcast_dims must name axes of weights, from -4 to 3: got 4 in broadcast_dims=(4,) for "
        "weights.shape=(2, 4, 5, 7)",
    ),
    "both": (
        {"noise_shape": (1, 1, None, None), "broadcast_dims": (0, 1)},
        "at most one of noise_shape and broadcast_dims may be given: "
        "got noise_shape=(1, 1, None, None) and broadcast_dims=(0, 1)",
    ),
}


@each_host
@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("bad", BAD)
def test_bad_arguments_are_refused_even_where_nothing_drops(host, deterministic, bad):
    arguments, message = BAD[bad]
    with pytest.raises(ValueError, match=exactly(message)):
        OURS[host](*QKV, deterministic=deterministic, **{"dropout_rate": 0.0, **arguments})


@each_host
def test_a_missing_key(host):
    message = (
        "attention weights are dropped with a PRNG key unless the rate is the number 0 or 1: "
        "got dropout_rng=None; pass one, such as jax.random.key(0), or deterministic=True"
    )
    for rate in (0.5, jnp.float32(0)):
        with pytest.raises(ValueError, match=exactly(message)):
            OURS[host](*QKV, dropout_rate=rate)


@each_host
@either_broadcast
def test_a_key_used_twice_is_caught(host, broadcast):
    key = jax.random.key(11)
    options = {"dropout_rng": key, "dropout_rate": 0.5, "broadcast_dropout": broadcast}
    OURS[host](*QKV, **options)
    with pytest.raises(jax.errors.KeyReuseError):
        OURS[host](*QKV, **options)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_einsums_that_flax_refuses_in_linen(rate):
    names = ("qk_attn_weights_einsum", "attn_weights_value_einsum")
    for name in names:
        message = (
            "qk_attn_weights_einsum and attn_weights_value_einsum must be specified together: "
            f"got {name} alone"
        )
        with pytest.raises(ValueError, match=exactly(message)):
            attend(OURS["linen"], rate=rate, **{name: jnp.einsum})
    both = dict.fromkeys(names, jnp.einsum)
    message = (
        "qk_attn_weights_einsum and attn_weights_value_einsum are mutually exclusive with "
        "precision and einsum_dot_general: got both"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        attend(OURS["linen"], rate=rate, precision="highest", **both)
    message = "einsum_dot_general must be None or a function: got 3"
    with pytest.raises(TypeError, match=exactly(message)):
        attend(OURS["linen"], rate=rate, einsum_dot_general=3)


@either_broadcast
def test_einsums_of_a_user_s_own_in_linen(broadcast):
    equations = []

    def einsum(equation, *operands):
        equations.append(equation)
        return 2 * jnp.einsum(equation, *operands)

    own = {"qk_attn_weights_einsum": einsum, "attn_weights_value_einsum": einsum}
    theirs, ours = (
        attend(f, broadcast_dropout=broadcast, **own)
        for f in (nn.dot_product_attention, linen.dot_product_attention)
    )
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6)
    assert equations == ["...qhd,...khd->...hqk", "...hqk,...khd->...qhd"] * 2


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_dot_general_in_linen(rate):
    calls = []

    def dot_general(lhs, rhs, dimensions, precision, **options):
        calls.append(precision)
        return jax.lax.dot_general(lhs, rhs, dimensions, precision, **options)

    attend(OURS["linen"], rate=rate, einsum_dot_general=dot_general, precision="highest")
    assert calls == ["highest"] * 2


@each_host
def test_precision(host):
    jaxpr = str(jax.make_jaxpr(lambda *qkv: attend(OURS[host], qkv, precision="highest"))(*QKV))
    assert len(re.findall("HIGHEST, Precision.HIGHEST", jaxpr)) == 2


@either_broadcast
@pytest.mark.parametrize("heads", [1, 2])
def test_groups_of_heads_and_causal_in_nnx(broadcast, heads):
    qkv = (normal(0, (2, 5, 6, 8)), normal(1, (2, 5, heads, 8)), normal(2, (2, 5, heads, 8)))
    for options in ({}, {"is_causal": True}):
        theirs, ours = (
            attend(f, qkv, broadcast_dropout=broadcast, **options)
            for f in (nnx.dot_product_attention, ours_nnx.dot_product_attention)
        )
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6)


def test_promotion_of_dtypes_in_nnx():
    seen = []

    def promote(arrays, *, dtype):
        seen.append((len(arrays), dtype))
        return dtypes.promote_dtype(arrays, dtype=dtype)

    options = {"dtype": jnp.bfloat16, "promote_dtype": promote}
    theirs, ours = (attend(f, **options) for f in (nnx.dot_product_attention, OURS["nnx"]))
    assert ours.dtype == theirs.dtype == jnp.bfloat16
    assert seen[:2] == seen[2:] == [(3, jnp.bfloat16), (2, jnp.bfloat16)]


@each_host
def test_a_dtype(host):
    assert attend(OURS[host], dtype=jnp.bfloat16).dtype == jnp.bfloat16
    assert attend(OURS[host], dtype=jnp.bfloat16, deterministic=True).dtype == jnp.bfloat16


def test_a_softmax_in_float32_in_linen():
    """The weights are float32 and scaled in float32; Flax scales them by 1 / 0.7 in bfloat16."""
    qkv = tuple(a.astype(jnp.bfloat16) for a in QKV)
    with jax.numpy_dtype_promotion("standard"):  # Flax multiplies float32 by bfloat16
        theirs, ours = (
            attend(f, qkv, force_fp32_for_softmax=True)
            for f in (nn.dot_product_attention, linen.dot_product_attention)
        )
        exact = linen.dot_product_attention(
            *(a.astype(jnp.float32) for a in qkv), dropout_rng=clone(KEY), dropout_rate=0.3
        )
    assert ours.dtype == theirs.dtype == jnp.float32
    np.testing.assert_allclose(ours, theirs, rtol=2**-6, atol=2**-6)
    assert np.abs(ours - exact).max() < 2**-6


WRONG = {
    "query": ({"query": [1.0]}, TypeError, "query must be a JAX or NumPy array: got [1.0]"),
    "key": (
        {"key": jax.random.key(0)},
        TypeError,
        "key must have a dtype of numbers: got dtype key<fry>; a PRNG key is passed as dropout_rng",
    ),
    "value": (
        {"value": np.array([["a"]])},
        TypeError,
        "value must have a dtype that JAX supports: got dtype <U1",
    ),
    "dtype": (
        {"dtype": "float33"},
        TypeError,
        "dtype must be None or a floating or complex dtype of JAX: got 'float33'",
    ),
    "whole dtype": (
        {"dtype": jnp.dtype("int32")},
        TypeError,
        "dtype must be None or a floating or complex dtype of JAX: got a value of type Int32DType",
    ),
    "precision": (
        {"precision": "best"},
        ValueError,
        "precision must be None, a jax.lax.Precision, its name, or a pair of them: got 'best'",
    ),
    "deterministic": (
        {"deterministic": "False"},
        TypeError,
        "deterministic must be True or False: got 'False'",
    ),
    "broadcast_dropout": (
        {"broadcast_dropout": "False"},
        TypeError,
        "broadcast_dropout must be True or False: got 'False'",
    ),
    "dropout_rng": (
        {"dropout_rng": 3, "dropout_rate": 0.5},
        TypeError,
        "dropout_rng must be a JAX PRNG key, such as jax.random.key(0): got 3",
    ),
    "mask": (
        {"mask": jnp.ones((3, 2, 1, 1, 7), bool)},
        ValueError,
        "mask must broadcast to the weights, [*batch, heads, queries, keys], whose shape is "
        "(2, 4, 5, 7): got mask.shape=(3, 2, 1, 1, 7)",
    ),
    "bias": ({"bias": "b"}, TypeError, "bias must be a JAX or NumPy array: got 'b'"),
}
EVERY = {**OURS, "linen in blocks": linen.blockwise_attention}
EVERY["nnx in blocks"] = ours_nnx.blockwise_attention


@pytest.mark.parametrize("attention", EVERY.values(), ids=list(EVERY))
@pytest.mark.parametrize(("wrong", "error", "message"), WRONG.values(), ids=list(WRONG))
def test_each_argument_is_named(attention, wrong, error, message):
    with pytest.raises(error, match=exactly(message)):
        attention(**{**dict(zip(("query", "key", "value"), QKV, strict=True)), **wrong})


@pytest.mark.parametrize("attention", EVERY.values(), ids=list(EVERY))
def test_boxes_are_opened_and_whole_numbers_converted(attention):
    box = nnx.Variable
    bias, mask = jnp.ones((5, 7)), np.arange(35).reshape(5, 7) % 3 > 0
    options = {"dropout_rng": clone(KEY), "span": np.int64(2), "broadcast_dropout": False}
    boxed = attention(
        *map(box, QKV), bias=box(bias), mask=box(mask), dropout_rate=box(0.5), **options
    )
    options["dropout_rng"] = clone(KEY)
    plain = attention(*QKV, bias=bias, mask=mask, dropout_rate=0.5, **options)
    np.testing.assert_array_equal(boxed, plain)


def test_modules_that_cannot_sow():
    for attention in OURS.values():
        message = "module must be None or the Flax module that sows the weights: got 3"
        with pytest.raises(TypeError, match=exactly(message)):
            attention(*QKV, module=3)
