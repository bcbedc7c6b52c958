"""What dot_product_attention refuses, in both hosts, and the arguments only one of them has."""

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

from .errors import exactly
from .test_attention import KEY, OURS, QKV, attend, each_host, either_broadcast, normal

BAD = {
    "rate": (
        {"dropout_rate": 1.5},
        "rate is the probability to drop and must be in [0, 1]: got rate=1.5",
    ),
    "rank": (
        {"noise_shape": (1, 1, None)},
        "noise_shape needs one entry per axis of x: got noise_shape=(1, 1, None) for "
        "x.shape=(2, 4, 5, 7); write None for the batch axis: (None, 1, 1, None)",
    ),
    "axis": (
        {"broadcast_dims": (4,)},
        "broadcast_dims must name axes of x, from -4 to 3: got 4 in broadcast_dims=(4,) for "
        "x.shape=(2, 4, 5, 7)",
    ),
    "both": (
        {"noise_shape": (1, 1, None, None), "broadcast_dims": (0, 1)},
        "noise_shape and broadcast_dims say the same thing and at most one may be given: "
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
        with pytest.raises(ValueError, match="must be specified together"):
            attend(OURS["linen"], rate=rate, **{name: jnp.einsum})
    both = dict.fromkeys(names, jnp.einsum)
    with pytest.raises(ValueError, match="are mutually exclusive"):
        attend(OURS["linen"], rate=rate, precision="highest", **both)


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
    """Its weights stay float32, and are scaled in it, where Flax takes 1 / 0.7 in bfloat16."""
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
