"""segment_ids, window and soft_cap of both attention functions, against dense references."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.experimental.pallas.ops.tpu.flash_attention import SegmentIds
from jax.random import clone
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flax_spatialdrop._attention.scores import capped
from flax_spatialdrop._attention.tiling import Tiling, find_visits

from ..errors import exactly
from ..hlo import collectives
from .test_blockwise_attention import (
    BATCH,
    BIAS,
    FUSED,
    KEY,
    KEYS,
    MASK,
    OURS,
    QKV,
    QUERIES,
    check,
    each_host,
    normal,
    run,
)

OF_QUERIES = jnp.array([[3] * 4 + [7] * 6 + [0] * 3, [1] * 13])
OF_KEYS = jnp.array([[3] * 5 + [7] * 5 + [0] * 9, [1] * 11 + [2] * 8])
IDS = (OF_QUERIES, OF_KEYS)
FUNCTIONS = {
    "blockwise": functools.partial(OURS["nnx"], query_block_size=5, key_block_size=4),
    "blockwise in linen": functools.partial(OURS["linen"], query_block_size=4, key_block_size=8),
    "whole": FUSED["nnx"],
    "whole in linen": FUSED["linen"],
}
each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=list(FUNCTIONS))


def reference(query, key, value, *, bias, dropout_rng, dropout_rate, hidden, soft_cap=None):
    """Attention written out: `hidden` is True where a query must not see a key."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(query.shape[-1])
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    if bias is not None:
        scores = scores + bias
    largest = lax.stop_gradient(scores.max(-1, keepdims=True))
    weights = jnp.where(hidden, 0, jnp.exp(scores - largest))
    weights = weights / weights.sum(-1, keepdims=True)
    kept = jax.random.bernoulli(dropout_rng, 1 - np.float32(dropout_rate), weights.shape)
    weights = jnp.where(kept, weights / (1 - np.float32(dropout_rate)), 0)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


def hidden_by(segment_ids=None, window=None, is_causal=False, mask=None):
    """What the options hide, from loops over positions."""
    hidden = np.zeros((BATCH, 1, QUERIES, KEYS), bool)
    left, right = window if isinstance(window, tuple) else (window, window)
    for q, k in np.ndindex(QUERIES, KEYS):
        hidden[..., q, k] |= left is not None and q - k > left
        hidden[..., q, k] |= right is not None and k - q > right
        hidden[..., q, k] |= is_causal and k > q
        if segment_ids is not None:
            hidden[:, 0, q, k] |= np.asarray(segment_ids[0][:, q] != segment_ids[1][:, k])
    return hidden if mask is None else hidden | ~np.asarray(mask)


NEAR = jnp.eye(QUERIES, KEYS, dtype=bool) | jnp.eye(QUERIES, KEYS, 1, dtype=bool)
SHOWN = MASK | NEAR[None, None]  # so each query sees a key
OPTIONS = {
    "segments": {"segment_ids": IDS},
    "window": {"window": 2},
    "left alone": {"window": (3, None)},
    "right alone": {"window": (None, 1)},
    "soft cap": {"soft_cap": 0.7},
    "all": {"window": (7, 2), "segment_ids": IDS, "soft_cap": 0.7, "mask": SHOWN, "bias": BIAS},
}


@functools.cache
def expected(name):
    """The output and gradients of the reference."""
    options = dict(OPTIONS[name])
    shown = {"soft_cap": options.pop("soft_cap", None), "bias": options.pop("bias", None)}
    return run(reference, hidden=hidden_by(**options), **shown)


@each_function
@pytest.mark.parametrize("name", OPTIONS)
def test_values_and_gradients_are_those_of_attention_written_out(function, name):
    check(run(function, broadcast_dropout=False, **OPTIONS[name]), expected(name))


def test_causal_attention_with_a_window_that_looks_ahead():
    options = {"is_causal": True, "window": (2, 5), "broadcast_dropout": False}
    for name in ("blockwise", "whole"):
        hidden = hidden_by(window=2, is_causal=True)
        check(run(FUNCTIONS[name], **options), run(reference, hidden=hidden))


def test_a_window_is_one_number_or_a_pair_and_none_is_no_limit():
    def y(**options):
        return OURS["linen"](*QKV, query_block_size=5, key_block_size=4, **options)

    np.testing.assert_array_equal(y(window=2), y(window=[2, 2]))
    np.testing.assert_array_equal(y(window=(None, 0)), y(is_causal=True))
    np.testing.assert_array_equal(y(window=2, is_causal=True), y(window=(2, 0)))
    for wide in ((None, None), KEYS, (2**40, None)):
        np.testing.assert_array_equal(y(window=wide), y())


@each_function
def test_segment_ids_in_other_forms(function):
    qkv = tuple(a[:, :QUERIES] for a in QKV)
    pair = {"q": OF_QUERIES, "kv": OF_QUERIES}
    expected = function(*qkv, segment_ids=tuple(pair.values()))
    forms = {
        "one array": OF_QUERIES,
        "Pallas": SegmentIds(**pair),
        "NumPy": np.asarray(OF_QUERIES, np.int64),
        "small": (OF_QUERIES.astype(jnp.uint8), OF_QUERIES),
    }
    for name, ids in forms.items():
        np.testing.assert_array_equal(function(*qkv, segment_ids=ids), expected, err_msg=name)
    alike = function(*qkv, segment_ids=OF_QUERIES[0])  # the same for the whole batch
    np.testing.assert_array_equal(alike[:1], expected[:1])
    assert not np.allclose(alike[1:], expected[1:], atol=1e-2)
    one = tuple(a[0] for a in qkv)  # no batch axis
    np.testing.assert_allclose(function(*one, segment_ids=OF_QUERIES[0]), expected[0], atol=1e-6)


@pytest.mark.parametrize(
    "structure",
    [{"broadcast_dims": (-2,)}, {"noise_shape": (1, None, None, None)}, {"span": 3}],
    ids=str,
)
def test_groups_of_heads_and_any_noise_shape(structure):
    qkv = (normal(0, (2, 13, 4, 8)), normal(1, (2, 19, 2, 8)), normal(2, (2, 19, 1, 8)))
    options = {"window": (7, 2), "segment_ids": IDS, "soft_cap": 0.7, **structure}
    options |= {"broadcast_dropout": False}
    ours = run(FUNCTIONS["blockwise"], qkv, BIAS, **options)
    check(ours, run(FUNCTIONS["whole"], qkv, BIAS, **options))
    whole = (qkv[0], *(jnp.repeat(a, 4 // a.shape[2], 2) for a in qkv[1:]))
    linen, _ = run(FUNCTIONS["whole in linen"], whole, BIAS, **options)
    np.testing.assert_allclose(ours[0], linen, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", ["blockwise", "whole"])
def test_bfloat16(name):
    qkv = tuple(a.astype(jnp.bfloat16) for a in QKV)
    options = {"window": (7, 2), "segment_ids": IDS, "soft_cap": 0.7, "broadcast_dropout": False}
    results = run(FUNCTIONS[name], qkv, **options)
    exact = run(FUNCTIONS[name], tuple(a.astype(jnp.float32) for a in qkv), **options)
    for ours, theirs in zip(*map(jax.tree.leaves, (results, exact)), strict=True):
        assert ours.dtype == jnp.bfloat16
        difference = jnp.abs(ours.astype(jnp.float32) - theirs).max()
        assert difference < 2**-5 * jnp.abs(theirs).max()


def test_scores_in_bfloat16_are_capped_in_float32():
    scores = jnp.linspace(-9, 9, 100, dtype=jnp.bfloat16)
    expected = (3.7 * jnp.tanh(scores.astype(jnp.float32) / 3.7)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(capped(scores, 3.7), expected)
    in_bfloat16 = 3.7 * jnp.tanh(scores / 3.7)
    assert not np.array_equal(in_bfloat16, expected)


def test_blocks_outside_of_a_window_are_not_visited():
    queries, keys = Tiling(4096, 64), Tiling(4096, 64)
    for window, visits in (((128, 0), 3), ((100, 30), 4), ((0, 0), 1)):
        by_query, by_key = find_visits(queries, keys, window, None)
        assert by_query.number.max() == by_key.number.max() == visits
    by_query, by_key = find_visits(Tiling(13, 4), Tiling(13, 4), (1, None), None)
    seen = [order[:n].tolist() for order, n in zip(by_query.order, by_query.number, strict=True)]
    # The last block is queries 9 to 12, and query 9 sees key 8.
    assert seen == [[0, 1, 2, 3], [0, 1, 2, 3], [1, 2, 3], [1, 2, 3]]
    assert by_key.number.tolist() == [2, 4, 4, 4]


@pytest.mark.parametrize("blocks", [(4, 4), (5, 4)], ids=str)
def test_a_nan_in_a_block_that_is_skipped_has_no_effect(blocks):
    """Without a window, the same NaN is everywhere: 0 times NaN is NaN in a product."""
    qkv = tuple(normal(i, (1, 16, 2, 4)) for i in range(3))
    bad = tuple(a.at[:, 12:].set(np.nan) for a in qkv[1:])
    options = {"window": (3, 0), "broadcast_dropout": False, "blocks": blocks}

    def of_first_queries(attention):
        return lambda *args, **options: attention(*args, **options)[:, :8]

    first = of_first_queries(OURS["linen"])
    y, (grads, _) = run(first, (qkv[0], *bad), **options)
    expected, (d_expected, _) = run(first, qkv, **options)
    np.testing.assert_array_equal(y, expected)
    for ours, theirs in zip(grads[1:], d_expected[1:], strict=True):
        np.testing.assert_array_equal(ours[:, :4], theirs[:, :4])
    y, _ = run(first, (qkv[0], *bad), **(options | {"window": None}))
    assert np.isnan(y).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_query_without_a_key_gives_0_in_blocks_and_else_the_mean_as_flax_s_masks_do(name):
    """Query 12 looks for keys 5 to 12 of its own segment, 9."""
    ids = (OF_QUERIES.at[:, 12].set(9), OF_KEYS)
    y, (grads, _) = run(FUNCTIONS[name], segment_ids=ids, window=(7, 0), rate=0.0)
    mean = QKV[2].mean(1) if name.startswith("whole") else jnp.zeros_like(QKV[2][:, 0])
    np.testing.assert_allclose(y[:, 12], mean, rtol=2e-6, atol=2e-6)
    assert (grads[0][:, 12] == 0).all()
    assert all(np.isfinite(g).all() for g in grads)


@each_function
def test_a_bias_is_added_after_the_cap(function):
    """So a bias of -inf hides a key, and the bias may exceed the cap."""
    hidden = hidden_by(window=2)[:1]
    bias = jnp.where(hidden, -jnp.inf, 0.0)
    y = function(*QKV, bias=bias, soft_cap=0.7)
    np.testing.assert_allclose(y, function(*QKV, window=2, soft_cap=0.7), rtol=2e-6, atol=2e-6)


def test_vmap_and_traced_segment_ids():
    def one(qkv, ids, attention):
        return run(attention, qkv, segment_ids=ids, window=(7, 2), broadcast_dropout=False)

    mapped, expected = (
        jax.jit(jax.vmap(functools.partial(one, attention=FUNCTIONS[name])))(QKV, IDS)
        for name in ("blockwise", "whole")
    )
    check(mapped, expected)
    alone = one(tuple(a[1] for a in QKV), tuple(a[1] for a in IDS), FUNCTIONS["blockwise"])
    np.testing.assert_allclose(mapped[0][1], alone[0], rtol=2e-6, atol=2e-6)


@each_function
def test_symbolic_sizes(function):
    """Of the batch, and where nothing is dropped, of the length."""
    batch, length = jax.export.symbolic_shape("b, t")
    options = {"window": (3, 1), "soft_cap": 0.7}

    def f(x, ids):
        return function(x, x, x, segment_ids=ids, **options)

    x, ids = normal(0, (2, 13, 4, 8)), OF_QUERIES
    shapes = [(x.dtype, (batch, length, 4, 8)), (ids.dtype, (batch, length))]
    exported = jax.export.export(jax.jit(f))(*(jax.ShapeDtypeStruct(s, d) for d, s in shapes))
    np.testing.assert_allclose(exported.call(x, ids), f(x, ids), rtol=2e-6, atol=2e-6)


def test_remat_and_second_derivatives():
    qkv = tuple(normal(i, (1, 4, 1, 4)) for i in range(3))
    options = {"segment_ids": jnp.array([[1, 1, 2, 2]]), "soft_cap": 0.7}

    def norm_of_gradient(qkv, attention):
        def loss(qkv):
            return (attention(*qkv, **options) ** 2).sum()

        return sum((g**2).sum() for g in jax.grad(jax.checkpoint(loss))(qkv))

    in_blocks = functools.partial(OURS["nnx"], query_block_size=2, key_block_size=2)
    ours, theirs = (
        jax.jit(jax.grad(functools.partial(norm_of_gradient, attention=attention)))(qkv)
        for attention in (in_blocks, FUSED["nnx"])
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def test_no_array_of_queries_times_keys_exists():
    def largest(attention):
        def f(x, ids):
            options = {"segment_ids": ids, "window": 100, "soft_cap": 0.7, "dropout_rate": 0.1}
            y = attention(x, x, x, dropout_rng=clone(KEY), broadcast_dropout=False, **options)
            return y.sum()

        x, ids = jnp.zeros((1, 512, 2, 8)), jnp.zeros((1, 512), np.int32)
        text = jax.jit(jax.grad(f)).lower(x, ids).compile().as_text()
        return max(math.prod(map(int, s.split(","))) for s in re.findall(r"\[([\d,]+)\]", text))

    blocks = {"query_block_size": 32, "key_block_size": 32}
    assert largest(functools.partial(OURS["nnx"], **blocks)) == 512 * 2 * 8
    assert largest(FUSED["nnx"]) >= 512 * 512


def test_einsums_of_a_user_s_own_are_capped_in_linen():
    calls = []

    def einsum(equation, *operands):
        calls.append(equation)
        return jnp.einsum(equation, *operands)

    own = {"qk_attn_weights_einsum": einsum, "attn_weights_value_einsum": einsum}
    y = FUSED["linen"](*QKV, soft_cap=0.7, **own)
    np.testing.assert_array_equal(y, FUSED["linen"](*QKV, soft_cap=0.7))
    assert calls == ["...qhd,...khd->...hqk", "...hqk,...khd->...qhd"]


@pytest.mark.filterwarnings("ignore:Using 'Module.sow")  # the oldest Flax does not have nnx.capture
def test_weights_of_capped_scores_are_sown_in_nnx():
    module = nnx.Dict()
    FUSED["nnx"](*QKV, soft_cap=0.7, module=module, dropout_rate=0.3, dropout_rng=clone(KEY))
    (weights,) = module["attention_weights"].get_value()
    undropped = jnp.einsum("bhqk,bkhd->bqhd", weights, QKV[2])
    np.testing.assert_allclose(undropped, FUSED["nnx"](*QKV, soft_cap=0.7), rtol=1e-5, atol=1e-5)


@each_host
def test_dtype_and_precision_reach_the_capped_product(host):
    def f(*qkv):
        options = {"dtype": jnp.bfloat16, "precision": "highest", "soft_cap": 0.7}
        return FUSED[host](*qkv, **options)

    text = str(jax.make_jaxpr(f)(*QKV))
    assert text.count("Precision.HIGHEST, Precision.HIGHEST") == 2
    assert f(*QKV).dtype == jnp.bfloat16


def ids_error(name, axis, length, got):
    return (
        f"{name} must broadcast along the batch to [*batch, {axis}], whose shape is "
        f"{(BATCH, length)}: got {name}.shape={got}"
    )


FLOATS = jnp.zeros((BATCH, QUERIES))
BAD = {
    "one array for two lengths": (
        {"segment_ids": OF_KEYS},
        ValueError,
        "segment_ids must be a pair of arrays for queries and keys where their lengths differ: "
        "got one for 13 queries and 19 keys",
    ),
    "three arrays": (
        {"segment_ids": (1, 2, 3)},
        ValueError,
        "segment_ids must be an array, or a pair of arrays for queries and keys: got (1, 2, 3)",
    ),
    "two lists": (
        {"segment_ids": [[1, 1], [2, 2]]},
        ValueError,
        "segment_ids must be an array, or a pair of arrays for queries and keys: "
        "got [[1, 1], [2, 2]]",
    ),
    "pair swapped": (
        {"segment_ids": (OF_KEYS, OF_QUERIES)},
        ValueError,
        ids_error("segment_ids[0]", "queries", QUERIES, (BATCH, KEYS)),
    ),
    "one id for all": (
        {"segment_ids": (OF_QUERIES, OF_KEYS[:, :1])},
        ValueError,
        ids_error("segment_ids[1]", "keys", KEYS, (BATCH, 1)),
    ),
    "another batch": (
        {"segment_ids": (jnp.ones((3, QUERIES), np.int32), OF_KEYS)},
        ValueError,
        ids_error("segment_ids[0]", "queries", QUERIES, (3, QUERIES)),
    ),
    "ids of heads": (
        {"segment_ids": (OF_QUERIES[:, None], OF_KEYS)},
        ValueError,
        ids_error("segment_ids[0]", "queries", QUERIES, (BATCH, 1, QUERIES)),
    ),
    "floating ids": (
        {"segment_ids": (FLOATS, OF_KEYS)},
        TypeError,
        "segment_ids[0] must be an array of integers: got dtype float32",
    ),
    "ids of what": (
        {"segment_ids": (OF_QUERIES, None)},
        TypeError,
        "segment_ids[1] must be a JAX or NumPy array: got None",
    ),
    "window below 0": (
        {"window": (2, -1)},
        ValueError,
        "each side of window must be at least 0 keys: got -1",
    ),
    "half a window": (
        {"window": 2.5},
        TypeError,
        "window must be None, an integer, or a pair (left, right) of integers or None, known "
        "when tracing: got 2.5",
    ),
    "an array as a pair": (
        {"window": jnp.array([1, 0])},
        TypeError,
        "window must be None, an integer, or a pair (left, right) of integers or None, known "
        "when tracing: got an array of shape (2,) and dtype int32",
    ),
    "three sides": (
        {"window": (1, 2, 3)},
        ValueError,
        "window must be None, an integer, or a pair (left, right) of integers or None, known "
        "when tracing: got (1, 2, 3)",
    ),
    "no cap": (
        {"soft_cap": 0},
        ValueError,
        "soft_cap must be above 0 and finite in float32: got soft_cap=0",
    ),
    "cap below 0": (
        {"soft_cap": -1.0},
        ValueError,
        "soft_cap must be above 0 and finite in float32: got soft_cap=-1.0",
    ),
    "infinite cap": (
        {"soft_cap": np.inf},
        ValueError,
        "soft_cap must be above 0 and finite in float32: got soft_cap=inf",
    ),
    "traced cap": (
        {"soft_cap": jnp.float32(50)},
        TypeError,
        "soft_cap must be a number, known when tracing: got an array of shape () and dtype float32",
    ),
}


@each_function
@pytest.mark.parametrize(("bad", "error", "message"), BAD.values(), ids=list(BAD))
def test_bad_arguments(function, bad, error, message):
    with pytest.raises(error, match=exactly(message)):
        function(*QKV, **bad)


@each_function
def test_a_window_of_a_single_query_and_a_cap_of_complex_scores(function):
    message = (
        "window counts from the position of each query, and a single query has position 0: got "
        "window=3 for one query and 19 keys; a layer that decodes passes a mask instead"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        function(QKV[0][:, :1], *QKV[1:], window=3)
    message = "soft_cap limits real scores: got query and key of complex64"
    with pytest.raises(TypeError, match=exactly(message)):
        function(*(a.astype(jnp.complex64) for a in QKV), soft_cap=3)


LENGTH = 16
SELF = tuple(normal(i, (4, LENGTH, 4, 8)) for i in range(3))
PACKED = jnp.array([[1] * 5 + [2] * 7 + [0] * 4, [4] * 16, [1] * 8 + [2] * 8, [5] * 15 + [6]])
NEARBY = {"window": (6, 1), "soft_cap": 0.7, "broadcast_dropout": False}


@functools.cache
def on_one_device():
    return run(FUNCTIONS["blockwise"], SELF, segment_ids=PACKED, **NEARBY)


@pytest.mark.parametrize("name", ["blockwise", "whole"])
@pytest.mark.parametrize(
    ("spec", "of_ids"),
    [
        (P("data", None, "model"), P(None, "length")),
        (P("data", "length", "model"), P()),
        (P(None, ("data", "length")), P("data")),
    ],
    ids=str,
)
def test_explicit_meshes(name, spec, of_ids):
    """The ids lie elsewhere than the queries, as in a program that does not care."""
    axes = ("data", "model", "length")
    mesh = jax.make_mesh((2, 2, 2), axes, axis_types=(AxisType.Explicit,) * 3)
    with jax.set_mesh(mesh):
        qkv = jax.device_put(SELF, NamedSharding(mesh, spec))
        ids = jax.device_put(PACKED, NamedSharding(mesh, of_ids))
        y, grads = run(FUNCTIONS[name], qkv, segment_ids=ids, **NEARBY)
        assert y.sharding.is_equivalent_to(qkv[0].sharding, 4)
        check((y, grads), on_one_device())


@pytest.mark.parametrize("name", ["blockwise", "whole"])
def test_shard_map_and_auto_meshes(name):
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))

    def f(qkv, ids):
        return FUNCTIONS[name](*qkv, segment_ids=ids, window=(6, 1), soft_cap=0.7)

    expected = f(SELF, PACKED)
    mapped = jax.jit(jax.shard_map(f, mesh=mesh, in_specs=P("d"), out_specs=P("d")))
    np.testing.assert_allclose(mapped(SELF, PACKED), expected, rtol=2e-6, atol=2e-6)
    shared = jax.shard_map(f, mesh=mesh, in_specs=(P("d"), P()), out_specs=P("d"))
    alike = f(SELF, PACKED[0])
    np.testing.assert_allclose(jax.jit(shared)(SELF, PACKED[0]), alike, rtol=2e-6, atol=2e-6)
    with jax.set_mesh(mesh):
        operands = jax.device_put((SELF, PACKED), NamedSharding(mesh, P("d")))
        compiled = jax.jit(f).lower(*operands).compile()
        assert not collectives(compiled.as_text())
        np.testing.assert_allclose(compiled(*operands), expected, rtol=2e-6, atol=2e-6)
