"""Embedding dropout: all occurrences of a word share a draw, and no dropped table is computed."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.random import clone
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_spatialdrop.linen
import flax_spatialdrop.nnx
from flax_spatialdrop import embedding_dropout, sample_mask
from flax_spatialdrop.linen import summarize

from ..catalogue import FACES
from ..errors import exactly

KEY = jax.random.key(7)
TABLE = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
IDS = np.random.default_rng(1).integers(-10, 10, (4, 6)).astype(np.int32)

each_face = pytest.mark.parametrize("face", FACES)
each_scope = pytest.mark.parametrize("per_sample", [False, True], ids=["batch", "per_sample"])


def face_of(face, per_sample=False):
    """Returns embedding dropout as f(key, table, rate, ids), by the function or a module."""
    if face == "function":
        return lambda key, table, rate, ids: embedding_dropout(
            key, table, rate, ids=ids, per_sample=per_sample
        )
    layer = getattr(flax_spatialdrop, face).EmbeddingDropout(rate=0.1, per_sample=per_sample)
    if face == "linen":
        return lambda key, table, rate, ids: layer.apply({}, table, False, key, ids=ids, rate=rate)
    return lambda key, table, rate, ids: layer(table, rngs=key, ids=ids, rate=rate)


def per_sample_by_hand(table, rate, ids, key=KEY):
    """Computes the rows of each sample with its own dropped table."""
    masks = np.asarray(sample_mask(clone(key), rate, (*ids.shape[:-1], len(table))))
    tables = np.where(masks[..., None], table * (np.float32(1) / np.float32(1 - rate)), 0)
    return np.take_along_axis(tables, ids[..., None] % len(table), axis=-2)


@each_face
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0, jnp.float32(0.3), jnp.float32(1)], ids=repr)
def test_with_ids_it_is_the_lookup_in_the_dropped_table(face, rate):
    f = face_of(face)
    expected = np.asarray(f(clone(KEY), TABLE, rate, None))[IDS]
    np.testing.assert_array_equal(f(clone(KEY), TABLE, rate, IDS), expected)
    jitted = jax.jit(lambda key, table, ids: f(key, table, rate, ids))
    np.testing.assert_array_equal(jitted(clone(KEY), TABLE, IDS), expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "complex64"])
def test_in_another_dtype_too(dtype):
    table = TABLE.astype(dtype)
    y = embedding_dropout(clone(KEY), table, 0.3, ids=IDS)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, np.asarray(embedding_dropout(clone(KEY), table, 0.3))[IDS])


@each_face
@pytest.mark.parametrize("shape", [(4, 6), (2, 2, 6), (1, 24)])
def test_per_sample_it_is_the_lookup_in_a_table_for_each(face, shape):
    f, ids = face_of(face, per_sample=True), IDS.reshape(shape)
    for rate in (0.25, jnp.float32(0.25)):
        y = f(clone(KEY), TABLE, rate, ids)
        np.testing.assert_array_equal(y, per_sample_by_hand(TABLE, 0.25, ids))


def test_ids_of_any_shape_and_dtype():
    expected = embedding_dropout(clone(KEY), TABLE, 0.5)
    for ids in (jnp.int32(3), jnp.uint8([1, 9]), np.int64([[[7]], [[-2]]]), IDS[:0]):
        y = embedding_dropout(clone(KEY), TABLE, 0.5, ids=ids)
        np.testing.assert_array_equal(y, np.asarray(expected)[ids])


@each_scope
@pytest.mark.parametrize("vocab", [1, 10])
def test_ids_outside_are_what_flax_s_embed_makes_of_them(vocab, per_sample):
    table, ids = TABLE[:vocab], jnp.array([[0, vocab, 99], [-1, -vocab, -vocab - 1]])
    embed = nn.Embed(vocab, 4).bind({"params": {"embedding": table}})
    for face, key in (("linen", "embedding"), ("nnx", "embedding")):
        layer = getattr(flax_spatialdrop, face).EmbeddingDropout(
            0.5, per_sample=per_sample, deterministic=True
        )
        if face == "linen":
            y, theirs = layer.apply({}, getattr(embed, key), ids=ids), embed(ids)
        else:
            embed = nnx.Embed(vocab, 4, rngs=nnx.Rngs(0))
            embed.embedding.set_value(table)
            y, theirs = layer(embed.embedding[...], ids=ids), embed(ids)
        np.testing.assert_array_equal(y, theirs)
    y = embedding_dropout(clone(KEY), table, 0.5, ids=ids, per_sample=per_sample)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(theirs))
    kept = np.asarray(y)[..., :1] != 0
    np.testing.assert_array_equal(y, np.where(kept, 2 * np.asarray(theirs), 0))


@each_scope
def test_gradient_is_the_sum_over_a_word_s_kept_occurrences(per_sample):
    def f(table):
        return embedding_dropout(clone(KEY), table, 0.5, ids=IDS, per_sample=per_sample)

    cotangent = np.random.default_rng(2).normal(size=(4, 6, 4)).astype(np.float32)
    y, pullback = jax.vjp(f, TABLE)
    expected = np.zeros_like(TABLE)
    np.add.at(expected, IDS, np.where(y != 0, 2 * cotangent, 0))
    np.testing.assert_allclose(pullback(cotangent)[0], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(jax.jvp(f, (TABLE,), (TABLE,))[1], y)


@each_scope
@pytest.mark.parametrize("rate", [0.5, jnp.float32(0.5)], ids=repr)
def test_what_is_dropped_is_gone(per_sample, rate):
    """A NaN in a dropped row does not reach y; one in its cotangent does not reach the table."""
    ids = np.tile(np.arange(10), (2, 1))
    mask = np.asarray(sample_mask(clone(KEY), 0.5, (2, 10) if per_sample else (10, 1)))
    kept = mask[..., None] if per_sample else np.stack([mask, mask])
    dropped_by_all = ~kept.any(0)
    assert dropped_by_all.any()
    table = np.where(dropped_by_all, np.nan, np.ones((10, 4), np.float32))
    y, pullback = jax.vjp(
        lambda t: embedding_dropout(clone(KEY), t, rate, ids=ids, per_sample=per_sample),
        jnp.asarray(table, jnp.float32),
    )
    np.testing.assert_array_equal(y, np.broadcast_to(np.where(kept, 2.0, 0.0), y.shape))
    cotangent = jnp.asarray(np.where(kept, np.ones(y.shape), np.nan), jnp.float32)
    (grad,) = pullback(cotangent)
    np.testing.assert_array_equal(grad, np.broadcast_to(2.0 * kept.sum(0), grad.shape))


@each_scope
def test_backward_keeps_an_id_and_a_bool_a_token(per_sample):
    residuals = jax.tree.leaves(
        jax.vjp(
            lambda t: embedding_dropout(clone(KEY), t, 0.3, ids=IDS, per_sample=per_sample), TABLE
        )[1]
    )
    kept = sorted((str(r.dtype), r.size) for r in residuals)
    assert kept == [("bool", IDS.size), ("int32", IDS.size)]


def test_no_dropped_table_is_written():
    """The draws of all words are in memory, but the table would be 256 times as large."""
    table = jax.ShapeDtypeStruct((20_000, 256), jnp.float32)

    def scratch(f):
        compiled = jax.jit(f).lower(clone(KEY), table, IDS).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    ours = scratch(lambda key, table, ids: embedding_dropout(key, table, 0.5, ids=ids))
    assert ours < 20_000 * 256
    with_a_table = scratch(lambda key, t, i: jnp.cumsum(embedding_dropout(key, t, 0.5), 0)[i])
    assert with_a_table > 20_000 * 256  # shows that the test can fail


@each_scope
def test_vmap_over_keys_equals_loop(per_sample):
    f, keys = face_of("function", per_sample), jax.random.split(jax.random.key(2), 3)
    mapped = jax.vmap(lambda key: f(key, TABLE, 0.5, IDS))(clone(keys))
    np.testing.assert_array_equal(mapped, jnp.stack([f(key, TABLE, 0.5, IDS) for key in keys]))


def test_a_key_used_twice_is_caught():
    key = jax.random.key(11)
    embedding_dropout(key, TABLE, 0.5, ids=IDS)
    with pytest.raises(jax.errors.KeyReuseError):
        embedding_dropout(key, TABLE, 0.5, ids=IDS)


@each_scope
@pytest.mark.parametrize("face", ["linen", "nnx"])
def test_masks_of_a_module(face, per_sample):
    """A mask may have the noise shape, which serves any ids, or the shape of the output."""
    shape = (4, 10) if per_sample else (10, 1)
    layer = getattr(flax_spatialdrop, face).EmbeddingDropout(0.5, per_sample=per_sample)

    def call(method="__call__", **kwargs):
        if face == "linen":
            key = kwargs.pop("key", None)
            return layer.apply({}, TABLE, False, key, method=method, **kwargs)
        return getattr(layer, method)(TABLE, rngs=kwargs.pop("key", None), **kwargs)

    mask = call("sample_mask", ids=IDS, key=clone(KEY))
    np.testing.assert_array_equal(mask, sample_mask(clone(KEY), 0.5, shape))
    drawn = call(ids=IDS, key=clone(KEY))
    np.testing.assert_array_equal(call(ids=IDS, mask=mask), drawn)
    np.testing.assert_array_equal(call(ids=IDS, mask=drawn != 0), drawn)
    turned = call(ids=IDS[:, ::-1], mask=mask)
    np.testing.assert_array_equal(turned, drawn[:, ::-1])
    wrong = jnp.ones((4, 1, 1), jnp.bool_)
    message = (
        f"mask must have the noise shape {shape} or the shape of x: "
        "got mask.shape=(4, 1, 1) for x.shape=(4, 6, 4)"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        call(ids=IDS, mask=wrong)


def test_a_summary_counts_words_and_not_tokens():
    layer = flax_spatialdrop.linen.EmbeddingDropout(0.5, deterministic=False)
    (site,) = summarize(layer, TABLE, ids=IDS, rngs={"dropout": clone(KEY)}).sites
    assert (site.shape, site.noise_shape, site.coin_flips) == ((4, 6, 4), (10, 1), 10)
    assert site.kept_bytes == 4 * 6


# The shardings of the table and of ids, which may be over the same axes of the mesh.
SPECS = [(P(), P("d")), (P("d"), P()), (P(None, "d"), P(None, "d")), (P("e", "d"), P(("d", "e")))]


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@each_scope
def test_sharded_tables_and_ids(axis_type, per_sample):
    def grad(table, ids):
        def loss(t):
            y = embedding_dropout(clone(KEY), t, 0.5, ids=ids, per_sample=per_sample)
            return (y**2).sum(), y

        return jax.grad(loss, has_aux=True)(table)

    table, ids = TABLE[:8], IDS % 8
    expected, alone = grad(table, ids)
    mesh = jax.make_mesh((2, 2), ("d", "e"), axis_types=(axis_type,) * 2, devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        for of_table, of_ids in SPECS:
            there = jax.device_put(table, NamedSharding(mesh, of_table))
            its_ids = jax.device_put(ids, NamedSharding(mesh, of_ids))
            d_table, y = jax.jit(grad)(there, its_ids)
            np.testing.assert_array_equal(y, alone)
            np.testing.assert_allclose(d_table, expected, rtol=1e-6, atol=1e-6)
            if axis_type == AxisType.Explicit:
                assert jax.typeof(y).sharding.spec[:2] == tuple(jax.typeof(its_ids).sharding.spec)


ERRORS = [
    (
        {"table": TABLE[0]},
        ValueError,
        "table must be [vocab, features]: got table.shape=(4,)",
    ),
    (
        {"table": TABLE.astype("int32")},
        TypeError,
        "table must have a floating or complex dtype, since kept values are scaled by "
        "1 / (1 - rate): got dtype int32",
    ),
    (
        {"table": [[1.0]]},
        TypeError,
        "table must be a JAX or NumPy array: got [[1.0]]",
    ),
    (
        {"ids": jnp.ones((2, 3))},
        TypeError,
        "ids must have an integer dtype: got dtype float32",
    ),
    (
        {"ids": None, "per_sample": True},
        ValueError,
        "per_sample=True needs ids of [*batch, time]: got ids=None",
    ),
    (
        {"ids": IDS[0], "per_sample": True},
        ValueError,
        "per_sample=True needs ids of [*batch, time]: got ids.shape=(6,)",
    ),
]


@each_face
@pytest.mark.parametrize(("change", "error", "message"), ERRORS, ids=lambda v: str(v)[:30])
def test_errors_even_where_nothing_drops(face, change, error, message):
    arguments = {"table": TABLE, "ids": IDS, "per_sample": False} | change
    f = face_of(face, arguments["per_sample"])
    for rate in (0.0, 0.5):
        with pytest.raises(error, match=exactly(message)):
            f(clone(KEY), arguments["table"], rate, arguments["ids"])


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int16])
@pytest.mark.parametrize("per_sample", [False, True])
def test_ids_of_few_bits_in_a_large_vocabulary(dtype, per_sample):
    table = jnp.arange(2.0**16)[:, None]
    narrow, wide = (
        embedding_dropout(
            jax.random.key(0), table, 0.5, ids=jnp.array([[1, 100]], dt), per_sample=per_sample
        )
        for dt in (dtype, jnp.int32)
    )
    np.testing.assert_array_equal(narrow, wide)


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_table_without_rows(per_sample):
    """All ids are outside of the table."""
    table = jnp.ones((0, 3))
    for ids in (jnp.array([[0, 1]]), jnp.zeros((2, 0), jnp.int32)):
        y = embedding_dropout(jax.random.key(0), table, 0.5, ids=ids, per_sample=per_sample)
        assert y.shape == (*ids.shape, 3)
        assert np.isnan(y).all()
    assert embedding_dropout(jax.random.key(0), table, 0.5).shape == (0, 3)


def test_boxes_are_opened_everywhere():
    table, ids = nnx.Param(jnp.ones((5, 2))), nnx.Variable(jnp.array([[1, 2]]))
    for per_sample in (False, True):
        y = embedding_dropout(
            jax.random.key(0), table, nnx.Variable(0.5), ids=ids, per_sample=per_sample
        )
        assert y.shape == (1, 2, 2)
    layer = flax_spatialdrop.linen.EmbeddingDropout(0.5, deterministic=True)
    assert layer.apply({}, table, ids=ids).shape == (1, 2, 2)
