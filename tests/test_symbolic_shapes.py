"""Symbolic sizes of jax.export: which functions can be exported, and the errors of the others.

A jaxpr shows that a function can be exported. Values are compared if blocks or bits depend on a
size.
"""

import flax.linen as flax_linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone

import flax_spatialdrop as core
from flax_spatialdrop import linen, nnx

from .errors import exactly

KEY = jax.random.key(3)
FAST = core.fast_key(jax.random.key(3))
BATCH, TIME, KEYS = jax.export.symbolic_shape("b, t, u")
ATTENTION = {
    "linen": linen.dot_product_attention,
    "nnx": nnx.dot_product_attention,
    "linen in blocks": linen.blockwise_attention,
    "nnx in blocks": nnx.blockwise_attention,
}
NO_DRAW = {"deterministic": {"dropout_rate": 0.5, "deterministic": True}, "rate 0": {}}

each_attention = pytest.mark.parametrize("attention", ATTENTION.values(), ids=list(ATTENTION))


def traces(f, *shapes):
    """Whether f can be traced with arrays of symbolic shapes."""
    return bool(jax.make_jaxpr(f)(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)))


def qkv(batch, queries, keys):
    return (batch, queries, 4, 8), (batch, keys, 4, 8), (batch, keys, 4, 6)


@each_attention
@pytest.mark.parametrize("options", NO_DRAW.values(), ids=list(NO_DRAW))
def test_attention_of_any_length_where_nothing_drops(attention, options):
    for sizes in ((BATCH, 5, 7), (BATCH, TIME, KEYS), (2, TIME, TIME)):
        assert traces(lambda *qkv: attention(*qkv, span=2, **options), *qkv(*sizes))


@each_attention
@pytest.mark.parametrize("key", [KEY, FAST], ids=["threefry", "fast"])
@pytest.mark.parametrize("options", [{}, {"broadcast_dropout": False}, {"span": 2}], ids=str)
def test_attention_drops_with_a_symbolic_batch(attention, key, options):
    def f(*qkv):
        return attention(*qkv, dropout_rng=clone(key), dropout_rate=0.5, **options)

    assert traces(f, *qkv(BATCH, 5, 7))


@pytest.mark.parametrize("is_causal", [False, True])
def test_blocks_of_a_symbolic_length(is_causal):
    def f(q, k, v):
        options = {"query_block_size": 4, "key_block_size": 3, "is_causal": is_causal}
        return linen.blockwise_attention(q, k, v, **options)

    exported = jax.export.export(jax.jit(f))(
        *(jax.ShapeDtypeStruct(s, jnp.float32) for s in qkv(BATCH, TIME, TIME))
    )
    for length in (2, 7):
        arrays = [
            jax.random.normal(jax.random.key(i), s) for i, s in enumerate(qkv(2, length, length))
        ]
        np.testing.assert_allclose(exported.call(*arrays), f(*arrays), rtol=2e-6, atol=2e-6)


def test_blocks_drop_the_same_with_a_symbolic_batch():
    def f(q, k, v):
        options = {"dropout_rate": 0.5, "broadcast_dropout": False, "query_block_size": 4}
        return linen.blockwise_attention(q, k, v, dropout_rng=clone(KEY), **options)

    exported = jax.export.export(jax.jit(f))(
        *(jax.ShapeDtypeStruct(s, jnp.float32) for s in qkv(BATCH, 6, 7))
    )
    arrays = [jax.random.normal(jax.random.key(i), s) for i, s in enumerate(qkv(3, 6, 7))]
    np.testing.assert_allclose(exported.call(*arrays), f(*arrays), rtol=2e-6, atol=2e-6)


def test_blocks_of_a_symbolic_length_cannot_drop_weights():
    message = (
        "a part of a mask can be drawn alone only if no axis but the first has a symbolic size: "
        "got a mask of shape (1, 1, t, u)"
    )
    for key in (KEY, FAST):
        with pytest.raises(ValueError, match=exactly(message)):
            traces(
                lambda *qkv, key=key: linen.blockwise_attention(
                    *qkv, dropout_rng=clone(key), dropout_rate=0.5
                ),
                *qkv(BATCH, TIME, KEYS),
            )


def test_spans_need_a_known_number_of_keys():
    message = (
        "span must be 1 if the number of keys is a symbolic size, because the number of "
        "spans depends on it: got span=2 for u keys"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        traces(
            lambda *qkv: nnx.dot_product_attention(
                *qkv, dropout_rng=clone(KEY), dropout_rate=0.5, span=2
            ),
            *qkv(BATCH, TIME, KEYS),
        )


def test_a_model_after_drop_in():
    layers = flax_linen.MultiHeadDotProductAttention(2), flax_linen.Dropout(0.5, deterministic=True)
    model = flax_linen.Sequential(layers)
    variables = model.init(jax.random.key(0), jnp.ones((1, 3, 8)))
    with linen.drop_in():
        assert traces(lambda x: model.apply(variables, x), (BATCH, TIME, 8))


@pytest.mark.parametrize(
    "layer",
    [
        nnx.DropBlock(0.5, block_size=3),
        nnx.Cutout(0.5, block_size=3),
        nnx.Cutout(0.5, block_size=3, fill="mean"),
    ],
)
def test_blocks_with_a_symbolic_batch_and_in_evaluation_any_symbolic_size(layer):
    assert traces(lambda x: layer(x, rngs=clone(KEY)), (BATCH, 8, 8, 3))
    assert traces(lambda x: layer(x, deterministic=True), (BATCH, TIME, KEYS, 3))
    assert traces(lambda x: layer(x, rate=0.0), (BATCH, TIME, KEYS, 3))


def test_blocks_need_a_known_map_where_they_are_drawn():
    message = "block_size must be 1 along an axis of symbolic size: got 7 along axis 1 of size t"
    with pytest.raises(ValueError, match=exactly(message)):
        traces(lambda x: core.drop_block(clone(KEY), x, 0.5), (BATCH, TIME, 3))
    message = "x must have a known number of places for a rectangle, below 2^31: got t - 15"
    with pytest.raises(ValueError, match=exactly(message)):
        traces(lambda x: core.cutout(clone(KEY), x, 0.5), (BATCH, TIME, 3))


@pytest.mark.parametrize("options", [{"rate": 0.5}, {"num_keep": 2}], ids=str)
def test_patches_with_a_symbolic_batch_and_in_evaluation_any_number(options):
    layer = nnx.PatchDropout(**options)
    assert traces(lambda x: layer(x, rngs=clone(KEY)), (BATCH, 5, 3))
    assert traces(lambda x: layer(x, deterministic=True), (BATCH, TIME, 3))
    message = "x must have a known number of tokens if patches are dropped: got the symbolic size t"
    with pytest.raises(ValueError, match=exactly(message)):
        traces(lambda x: layer(x, rngs=clone(KEY)), (BATCH, TIME, 3))


def test_inputs_with_any_symbolic_sizes():
    layer = nnx.ModalityDropout(0.5)
    x = (BATCH, TIME, 3)
    assert traces(lambda x: layer({"a": x, "b": x[:, 0]}, rngs=clone(KEY))[0]["a"], x)
    for null in (0, jnp.ones(3), jnp.ones((1, 3))):
        assert traces(lambda x: core.condition_dropout(clone(KEY), x, 0.5, null=null), x)  # noqa: B023


def test_patches_are_restored_with_a_symbolic_batch():
    def f(y):
        indices = jnp.broadcast_to(jnp.arange(4), y.shape[:2])
        return core.restore_patches(y, indices, 9, fill=jnp.ones(3))

    assert traces(f, (BATCH, 4, 3))


def test_a_part_of_a_mask_with_a_symbolic_first_axis():
    @jax.jit
    def f(words, x, i):
        key = jax.random.wrap_key_data(words)
        return core.mask_block(key, 0.5, x.shape, (i, 2), (1, 4))

    words, row = jax.random.key_data(KEY), jnp.int32(2)
    exported = jax.export.export(f)(words, jax.ShapeDtypeStruct((BATCH, 6), jnp.float32), row)
    x = jnp.ones((3, 6))
    np.testing.assert_array_equal(exported.call(words, x, row), f(words, x, row))
    message = (
        "start and sizes must lie in noise_shape, which has b along axis 0: got from 2 to 3 there"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        core.mask_block(KEY, 0.5, (BATCH, 6), (2, 0), (1, 1))
