"""Compares blockwise_attention to Flax's attention: values and gradients, for many block sizes."""

import functools
import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.random import clone

from flax_spatialdrop import fast_key, linen, mask_block
from flax_spatialdrop import nnx as ours_nnx
from flax_spatialdrop._attention.tiling import Tiling, find_visits

KEY = jax.random.key(8)
OURS = {"linen": linen.blockwise_attention, "nnx": ours_nnx.blockwise_attention}
FUSED = {"linen": linen.dot_product_attention, "nnx": ours_nnx.dot_product_attention}
FLAX = {"linen": nn.dot_product_attention, "nnx": nnx.dot_product_attention}
BATCH, QUERIES, KEYS, HEADS, FEATURES = 2, 13, 19, 4, 6

each_host = pytest.mark.parametrize("host", OURS)


def normal(seed, shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


QKV = (
    normal(0, (BATCH, QUERIES, HEADS, 8)),
    normal(1, (BATCH, KEYS, HEADS, 8)),
    normal(2, (BATCH, KEYS, HEADS, FEATURES)),
)
BIAS = normal(3, (1, HEADS, QUERIES, KEYS))
MASK = jax.random.bernoulli(jax.random.key(4), 0.8, (BATCH, 1, QUERIES, KEYS))
PADDING = np.arange(KEYS) < np.array([[11], [KEYS]])[:, None, None]  # 11 keys, and all keys
BLOCKS = {
    "none divides": (5, 8),
    "one row at a time": (1, 7),
    "all in one": (512, 512),
    "queries alone": (4, KEYS),
}


def run(attention, qkv=QKV, bias=None, rate=0.3, blocks=None, **options):
    """Returns the output, and the gradients of a weighted sum of it: query, key, value and bias."""
    if blocks is not None:
        options |= {"query_block_size": blocks[0], "key_block_size": blocks[1]}

    def loss(qkv, bias, key, *, rate):
        y = attention(*qkv, bias=bias, dropout_rng=key, dropout_rate=rate, **options)
        return (y.astype(jnp.float32) ** 2).sum(), y

    f = jax.value_and_grad(functools.partial(loss, rate=rate), (0, 1), has_aux=True)
    (_, y), grads = jax.jit(f)(qkv, bias, clone(KEY))
    return y, grads


def check(ours, theirs, rtol=2e-6, grad=1e-5):
    (y, grads), (y_theirs, grads_theirs) = ours, theirs
    assert y.dtype == y_theirs.dtype
    np.testing.assert_allclose(y, y_theirs, rtol=rtol, atol=rtol)
    for mine, other in zip(*map(jax.tree.leaves, (grads, grads_theirs)), strict=True):
        assert mine.dtype == other.dtype
        np.testing.assert_allclose(mine, other, rtol=grad, atol=grad)


@each_host
def test_every_argument_of_flax_s_own_is_in_its_place(host):
    theirs, ours = (list(inspect.signature(f[host]).parameters.values()) for f in (FLAX, OURS))
    assert [(p.name, p.default, p.kind) for p in ours[: len(theirs)]] == [
        (p.name, p.default, p.kind) for p in theirs
    ]
    assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(theirs) :])


@functools.cache
def with_bias_and_mask(attention, broadcast, blocks=None):
    options = {"bias": BIAS, "mask": MASK, "broadcast_dropout": broadcast}
    return run(attention, blocks=blocks, **options)


@pytest.mark.parametrize("broadcast", [True, False])
@pytest.mark.parametrize("blocks", BLOCKS.values(), ids=list(BLOCKS))
def test_same_values_and_gradients_as_flax_for_any_blocks(blocks, broadcast):
    ours = with_bias_and_mask(OURS["linen"], broadcast, blocks)
    check(ours, with_bias_and_mask(FLAX["linen"], broadcast))


@pytest.mark.parametrize(("host", "rate"), [("linen", 0.1), ("nnx", 0.9)])
def test_same_values_and_gradients_as_flax_at_any_rate(host, rate):
    options = {"broadcast_dropout": False, "mask": MASK, "rate": rate}
    check(run(OURS[host], blocks=(5, 8), **options), run(FLAX[host], **options))


def test_the_blocks_are_those_of_the_mask():
    """All weights are 1 / keys, and the values are unit vectors: the output shows the mask."""
    query, key = jnp.zeros((1, QUERIES, 2, 4)), jnp.zeros((1, KEYS, 2, 4))
    value = jnp.broadcast_to(jnp.eye(KEYS)[:, None], (1, KEYS, 2, KEYS))
    y, _ = run(OURS["linen"], (query, key, value), blocks=(4, 5), broadcast_dropout=False)
    mask = mask_block(KEY, 0.3, (1, 2, QUERIES, KEYS), (0, 0, 0, 0), (1, 2, QUERIES, KEYS))
    np.testing.assert_array_equal(jnp.swapaxes(y, 1, 2) != 0, mask)
    np.testing.assert_allclose(y[y != 0], 1 / 0.7 / KEYS, rtol=1e-6)


@pytest.mark.parametrize(("queries", "keys"), [(13, 19), (64, 19), (5, 512)])
@pytest.mark.parametrize("span", [1, 3])
def test_the_blocks_of_a_fast_key_are_those_of_whole_weights(queries, keys, span):
    """Blocks of 7 queries and 100 keys cut through the groups that share a hash."""
    qkv = normal(0, (1, queries, 2, 4)), normal(1, (1, keys, 2, 4)), normal(2, (1, keys, 2, 4))
    attention = [
        lambda *args, f=f, dropout_rng, **options: f(
            *args, dropout_rng=fast_key(dropout_rng), broadcast_dropout=False, span=span, **options
        )
        for f in (OURS["linen"], FUSED["linen"])
    ]
    check(run(attention[0], qkv, blocks=(7, 100)), run(attention[1], qkv))


def test_rates_are_traced_in_one_program():
    traces = []

    @jax.jit
    def f(rate, qkv):
        traces.append(rate)
        y = OURS["linen"](*qkv, dropout_rng=clone(KEY), dropout_rate=rate, broadcast_dropout=False)
        return y.sum()

    for rate in (0.0, 0.25, 1.0):
        expected, _ = run(FUSED["linen"], rate=rate, broadcast_dropout=False)
        np.testing.assert_allclose(f(jnp.float32(rate), QKV), expected.sum(), rtol=1e-4, atol=1e-5)
    assert len(traces) == 1
    d_rate, d_qkv = jax.jit(jax.grad(f, (0, 1)))(jnp.float32(1), QKV)
    assert d_rate == 0
    assert all((d == 0).all() for d in d_qkv)


@each_host
def test_a_rate_of_1_drops_all_without_a_key(host):
    y = OURS[host](*QKV, dropout_rate=1.0)
    np.testing.assert_array_equal(y, jnp.zeros((BATCH, QUERIES, HEADS, FEATURES)))


@each_host
def test_deterministic_drops_nothing_and_needs_no_key(host):
    theirs = FLAX[host](*QKV, mask=MASK, dropout_rate=0.3, deterministic=True)
    ours = OURS[host](*QKV, mask=MASK, dropout_rate=0.3, deterministic=True)
    np.testing.assert_allclose(OURS[host](*QKV, mask=MASK), ours, rtol=0, atol=0)
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6)


STRUCTURES = {  # noise shape, span, and blocks
    "keys": ((None, None, 1, None), 1, (5, 4)),
    "keys of all heads": ((None, 1, 1, None), 1, None),
    "heads": ((None, None, 1, 1), 1, (5, 4)),
    "queries": ((None, None, None, 1), 1, (5, 4)),
    "spans of keys": ((None, None, 1, None), 4, (5, 4)),
    "spans of each query": ((None, None, None, None), 4, None),
    "spans of each query in blocks": ((None, None, None, None), 4, (5, 4)),
    "spans shared by the batch": ((1, None, None, None), 3, (5, 4)),
    "a span of all": ((None, 1, None, None), KEYS, (5, 4)),
}


@functools.cache
def undropped():
    return run(OURS["linen"], rate=0.0, bias=BIAS)[0]


@pytest.mark.parametrize(("noise_shape", "span", "blocks"), STRUCTURES.values(), ids=STRUCTURES)
def test_structures_are_those_of_whole_weights(noise_shape, span, blocks):
    options = {"noise_shape": noise_shape, "span": span, "bias": BIAS}
    ours = run(OURS["linen"], blocks=blocks, **options)
    check(ours, run(FUSED["linen"], **options))
    assert not np.allclose(ours[0], undropped(), atol=1e-2)


def test_broadcast_dims_say_the_same_as_a_noise_shape():
    a = run(OURS["linen"], broadcast_dims=(-2,))
    check(a, run(OURS["linen"], noise_shape=(None, None, 1, None)), rtol=0, grad=0)


@pytest.mark.parametrize(
    ("host", "queries", "keys", "hidden"),
    [("nnx", 13, 13, False), ("linen", 13, 19, True), ("linen", 19, 13, False)],
)
def test_causal_attention_is_that_of_flax_s_mask(host, queries, keys, hidden):
    qkv = tuple(normal(i, (2, n, 2, 4)) for i, n in enumerate((queries, keys, keys)))
    tril = jnp.tril(jnp.ones((1, 1, queries, keys), bool))
    options = {"broadcast_dropout": False}
    mask = {}
    if hidden:
        first = jnp.arange(keys)[None, None, None] == 0  # every query attends to this key
        mask = {"mask": jax.random.bernoulli(jax.random.key(1), 0.7, tril.shape) | first}
    ours = run(OURS[host], qkv, is_causal=True, blocks=(4, 3), **options, **mask)
    check(ours, run(FLAX[host], qkv, mask=tril & mask.get("mask", True), **options))


def test_only_blocks_that_attend_to_something_are_visited():
    queries, keys = Tiling(13, 4), Tiling(19, 8)
    by_query, by_key = find_visits(queries, keys, (None, 0), None)
    assert by_query.number.tolist() == [1, 1, 2, 2]
    assert by_key.number.tolist() == [4, 2, 0]
    assert by_key.order[1, :2].tolist() == [2, 3]
    everywhere = (None, None)
    by_query, _ = find_visits(
        queries, keys, everywhere, PADDING[:1]
    )  # 11 keys are in 2 of 3 blocks
    assert by_query.number.tolist() == [2] * 4
    assert find_visits(queries, keys, everywhere, PADDING) is None  # the other sample needs all

    @jax.jit
    def number(mask):
        visits = find_visits(queries, keys, everywhere, mask)
        return None if visits is None else visits[0].number

    assert number(jnp.asarray(PADDING[:1])).tolist() == [2] * 4
    assert number(jnp.asarray(PADDING)) is None  # would need communication between devices


@pytest.mark.parametrize("as_known", [np.asarray, jnp.asarray])
def test_a_last_block_that_overlaps_visits_the_keys_of_the_block_before(as_known):
    """With blocks of 4, the last of 13 queries are computed with queries 9 to 11 again."""
    mask = np.zeros((1, 1, QUERIES, KEYS), bool)
    mask[..., :12, :5] = mask[..., 12:, 14:] = True
    ours = run(OURS["linen"], mask=as_known(mask), blocks=(4, 5))
    check(ours, run(FLAX["linen"], mask=mask))


def test_padding_is_that_of_flax():
    expected = run(FLAX["linen"], mask=PADDING)
    for mask in (PADDING, jnp.asarray(PADDING)):  # known when tracing or not
        check(run(OURS["linen"], mask=mask, blocks=(5, 4)), expected)
    longer = PADDING & (np.arange(KEYS) < 9)  # blocks that are hidden in both samples
    check(run(OURS["linen"], mask=longer, blocks=(5, 4)), run(FLAX["linen"], mask=longer))


def test_a_query_that_attends_to_nothing_gives_0_and_gradients_of_0():
    """Flax returns the mean of all values there."""
    mask = MASK.at[0, :, 3].set(False)
    y, (grads, _) = run(OURS["linen"], mask=mask, blocks=(5, 8), broadcast_dropout=False)
    assert (y[0, 3] == 0).all()
    assert (grads[0][0, 3] == 0).all()
    assert all(np.isfinite(g).all() for g in grads)
    rest = np.arange(QUERIES) != 3
    theirs, _ = run(FLAX["linen"], mask=mask, broadcast_dropout=False)
    np.testing.assert_allclose(y[:, rest], theirs[:, rest], rtol=2e-6, atol=2e-6)
    hidden, _ = run(OURS["linen"], bias=jnp.where(mask, 0, -jnp.inf), broadcast_dropout=False)
    np.testing.assert_allclose(hidden, y, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("attention", [OURS["linen"], FUSED["linen"]])
def test_nothing_of_a_dropped_key_or_head_leaks(attention):
    """Flax multiplies by 0, so a NaN remains."""
    bad = np.float32([np.nan, np.inf, -np.inf] * 2)  # in different features
    for noise_shape, axis in (((1, 1, 1, None), 1), ((1, None, 1, 1), 2)):
        size = QKV[2].shape[axis]
        shape = (1, 1, 1, size) if axis == 1 else (1, size, 1, 1)
        kept = mask_block(KEY, 0.5, shape, (0,) * 4, shape).reshape(-1)
        assert 0 < kept.sum() < size
        places = jnp.expand_dims(kept, [a for a in range(4) if a != axis])
        value = jnp.where(places, QKV[2], bad)
        options = {"noise_shape": noise_shape, "rate": 0.5}
        check(run(attention, (*QKV[:2], value), **options), run(attention, **options))


def test_a_score_that_is_no_number_is_seen_as_in_flax():
    """The weight of this score may be dropped, but the score is in the sum of the softmax."""
    bias = BIAS.at[0, 1, 3, 5].set(np.nan).at[0, 2, 4, 6].set(np.inf)
    options = {"bias": bias, "broadcast_dropout": False}
    ours, theirs = (run(f["linen"], **options)[0] for f in (OURS, FLAX))
    assert np.isnan(ours[:, 3, 1]).all()
    assert np.isnan(ours[:, 4, 2]).all()
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))


@pytest.mark.parametrize("options", [{"broadcast_dropout": False}, {"broadcast_dims": (-2,)}])
def test_groups_of_heads(options):
    qkv = (normal(0, (2, 9, 6, 8)), normal(1, (2, 9, 2, 8)), normal(2, (2, 9, 3, 8)))
    whole = (qkv[0], *(jnp.repeat(a, 6 // a.shape[2], axis=2) for a in qkv[1:]))
    y, (grads, _) = run(OURS["nnx"], qkv, blocks=(4, 4), **options)
    theirs, (theirs_grads, _) = run(FUSED["linen"], whole, **options)
    grouped = tuple(
        g.reshape(2, 9, a.shape[2], -1, 8).sum(3) for g, a in zip(theirs_grads, qkv, strict=True)
    )
    check((y, grads), (theirs, grouped))


@pytest.mark.parametrize(("batch", "broadcast"), [((), False), ((2, 3), True)])
def test_any_number_of_batch_axes(batch, broadcast):
    qkv = tuple(normal(i, (*batch, 5, 2, 4)) for i in range(3))
    bias = normal(7, (5, 5))
    ours = run(OURS["linen"], qkv, bias, blocks=(2, 3), broadcast_dropout=broadcast)
    full = jnp.expand_dims(bias, range(len(batch) + 1))  # Flax relies on rank promotion
    y, (grads, d_bias) = run(FLAX["linen"], qkv, full, broadcast_dropout=broadcast)
    check(ours, (y, (grads, d_bias.reshape(bias.shape))))


@pytest.mark.parametrize("attention", [OURS["linen"], FUSED["nnx"]])
@pytest.mark.parametrize("shape", [(0, 5, 2, 4), (2, 0, 2, 4), (2, 1, 2, 4)], ids=str)
def test_arrays_without_elements_and_a_single_key(shape, attention):
    options = {"noise_shape": (None, None, 1, None), "span": 3}
    y, grads = run(attention, tuple(normal(i, shape) for i in range(3)), **options)
    assert y.shape == shape
    assert jax.tree.map(jnp.shape, grads[0]) == (shape,) * 3


@each_host
def test_bfloat16_is_summed_in_float32(host):
    """The result is more exact than that of Flax, whose scores and sums are bfloat16."""
    qkv = tuple(a.astype(jnp.bfloat16) for a in QKV)
    exact = run(FLAX[host], tuple(a.astype(jnp.float32) for a in qkv), broadcast_dropout=False)
    ours, theirs = (run(f[host], qkv, broadcast_dropout=False) for f in (OURS, FLAX))

    def furthest(result):
        pairs = zip(*map(jax.tree.leaves, (result, exact)), strict=True)
        return [
            float(jnp.abs(a.astype(jnp.float32) - b).max() / jnp.abs(b).max()) for a, b in pairs
        ]

    assert ours[0].dtype == ours[1][0][0].dtype == jnp.bfloat16
    assert max(furthest(ours)) < 2**-6
    assert sum(furthest(ours)) < sum(furthest(theirs))


def test_a_softmax_in_float32_makes_the_output_float32_in_linen():
    qkv = tuple(a.astype(jnp.bfloat16) for a in QKV)
    exact, _ = run(FLAX["linen"], tuple(a.astype(jnp.float32) for a in qkv))
    ours, _ = run(OURS["linen"], qkv, force_fp32_for_softmax=True)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, exact, rtol=0, atol=2**-7)  # the query is scaled in bfloat16


@pytest.mark.parametrize("attention", [OURS["linen"], FUSED["linen"], FUSED["nnx"]])
def test_values_are_promoted_before_they_are_dropped(attention):
    def y(*qkv):
        options = {"dropout_rng": clone(KEY), "dropout_rate": 0.3, "broadcast_dims": (-2,)}
        return attention(*qkv, dtype=jnp.float32, **options)

    half = tuple(a.astype(jnp.bfloat16) for a in QKV)
    np.testing.assert_array_equal(y(*half), y(*(a.astype(jnp.float32) for a in half)))
    assert y(*QKV[:2], jnp.ones(QKV[2].shape, jnp.int32)).dtype == jnp.float32


def test_a_bias_and_a_mask_that_are_numbers():
    y = OURS["linen"](*QKV, bias=0.5, mask=True)
    np.testing.assert_allclose(y, OURS["linen"](*QKV), rtol=2e-6, atol=2e-6)
    assert (OURS["linen"](*QKV, mask=False) == 0).all()


@each_host
def test_dtype_and_precision_reach_the_products(host):
    def f(*qkv):
        options = {"dtype": jnp.bfloat16, "precision": "highest", "deterministic": True}
        return OURS[host](*qkv, **options)

    text = str(jax.make_jaxpr(f)(*QKV))
    assert text.count("Precision.HIGHEST, Precision.HIGHEST") == 2
    assert f(*QKV).dtype == jnp.bfloat16


def test_float64_is_summed_in_float64():
    with jax.enable_x64(True):
        qkv = tuple(np.asarray(a, np.float64) for a in QKV)
        qkv = tuple(map(jnp.asarray, qkv))
        options = {"broadcast_dropout": False, "mask": MASK}
        ours = run(OURS["linen"], qkv, blocks=(5, 8), **options)
        fused = run(FUSED["linen"], qkv, **options)
        assert ours[0].dtype == jnp.float64
        check(ours, fused, rtol=1e-6, grad=1e-5)


@pytest.mark.parametrize("shape", [(QUERIES, KEYS), (1, HEADS, 1, KEYS)])
def test_the_gradient_of_a_bias_in_64_bits(shape):
    with jax.enable_x64(True):
        bias = jnp.zeros(shape, jnp.float32)
        blocks = {"query_block_size": 4, "key_block_size": np.uint8(8)}
        ours = jax.grad(lambda b: OURS["linen"](*QKV, bias=b, **blocks).sum())(bias)
        whole = jax.grad(lambda b: FUSED["linen"](*QKV, bias=b).sum())(bias)
    np.testing.assert_allclose(ours, whole, rtol=1e-4, atol=1e-5)


def test_a_bias_of_whole_numbers():
    bias = np.arange(KEYS)
    y = OURS["nnx"](*QKV, bias=bias)
    np.testing.assert_array_equal(y, OURS["nnx"](*QKV, bias=bias.astype(np.float32)))
