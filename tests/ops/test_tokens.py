"""Token dropout: which ids are replaced, by the function and both modules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.random import clone
from scipy import stats

import flax_spatialdrop.linen
import flax_spatialdrop.nnx
from flax_spatialdrop import linen, sample_mask, token_dropout
from flax_spatialdrop.linen import summarize

from ..catalogue import FACES
from ..errors import exactly

KEY = jax.random.key(7)
IDS = jnp.asarray(np.random.default_rng(1).integers(0, 8, (4, 25)), jnp.int32)
OPTIONS = {"mask_id": 9, "special_ids": (0, 2), "vocab_size": 10}

each_face = pytest.mark.parametrize("face", FACES)


def face_of(face, **options):
    """Returns token dropout as f(key, ids, rate), by the function or a module."""
    if face == "function":
        return lambda key, ids, rate: token_dropout(key, ids, rate, **options)
    layer = getattr(flax_spatialdrop, face).TokenDropout(rate=0.1, **options)
    if face == "linen":
        return lambda key, ids, rate: layer.apply({}, ids, False, key, rate=rate)
    return lambda key, ids, rate: layer(ids, rngs=key, rate=rate)


def expected(ids, mask, mask_id=9, special_ids=(0, 2)):
    ids = np.asarray(ids)
    return np.where(np.asarray(mask) | np.isin(ids, special_ids), ids, ids.dtype.type(mask_id))


@each_face
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32"])
def test_is_its_mask_bit_for_bit(face, dtype):
    f, ids = face_of(face, **OPTIONS), IDS.astype(dtype)
    mask = sample_mask(clone(KEY), 0.3, ids.shape)
    for g in (f, jax.jit(f, static_argnums=2)):
        y = g(clone(KEY), ids, 0.3)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, expected(ids, mask))
    np.testing.assert_array_equal(f(jax.random.key_data(KEY), np.asarray(ids), 0.3), y)


@each_face
@pytest.mark.parametrize("special_ids", [(), [5], tuple(range(7))])
def test_special_tokens_stay(face, special_ids):
    f = face_of(face, mask_id=9, special_ids=special_ids)
    mask = sample_mask(clone(KEY), 0.5, IDS.shape)
    np.testing.assert_array_equal(f(clone(KEY), IDS, 0.5), expected(IDS, mask, 9, special_ids))
    np.testing.assert_array_equal(f(None, IDS, 1.0), expected(IDS, False, 9, special_ids))


@each_face
def test_a_traced_rate_in_one_compile(face):
    f, traces = face_of(face, **OPTIONS), []

    @jax.jit
    def traced(key, ids, rate):
        traces.append(rate)
        return f(key, ids, rate)

    for rate in (0.0, 0.25, 1.0):
        y = traced(clone(KEY), IDS, jnp.float32(rate))
        np.testing.assert_array_equal(y, f(clone(KEY), IDS, rate))
    np.testing.assert_array_equal(traced(clone(KEY), IDS, jnp.float32(np.nan)), y)
    assert len(traces) == 1


@each_face
def test_number_0_returns_ids_without_a_key(face):
    assert face_of(face, **OPTIONS)(None, IDS, 0.0) is IDS


def test_no_mask_is_written():
    ids = jax.ShapeDtypeStruct((1000, 1000), jnp.int32)
    f = jax.jit(lambda key, ids: token_dropout(key, ids, 0.5, **OPTIONS))
    scratch = f.lower(clone(KEY), ids).compile().memory_analysis().temp_size_in_bytes
    assert scratch < 1000


def test_any_rank():
    assert token_dropout(clone(KEY), jnp.int32(4), 1.0, mask_id=9) == 9
    assert token_dropout(clone(KEY), IDS[:, :0], 0.5, mask_id=9).shape == (4, 0)
    ids = IDS.reshape(2, 2, 25)
    y = token_dropout(clone(KEY), ids, 0.5, mask_id=9).reshape(IDS.shape)
    np.testing.assert_array_equal(y, token_dropout(clone(KEY), IDS, 0.5, mask_id=9))


def test_vmap_over_keys_and_scan_equal_loop():
    keys = jax.random.split(jax.random.key(2), 3)
    looped = jnp.stack([token_dropout(key, IDS, 0.5, **OPTIONS) for key in keys])
    mapped = jax.vmap(lambda key: token_dropout(key, IDS, 0.5, **OPTIONS))(clone(keys))
    np.testing.assert_array_equal(mapped, looped)
    body = jax.checkpoint(lambda c, key: (c, token_dropout(key, IDS, 0.5, **OPTIONS)))
    np.testing.assert_array_equal(jax.lax.scan(body, 0, clone(keys))[1], looped)


def test_replaces_at_the_rate():
    """Binomial bounds for 2e5 tokens, with false alarms at 1e-9."""
    y = token_dropout(clone(KEY), jnp.zeros((200, 1000), jnp.int32), 0.1, mask_id=9)
    low, high = stats.binom.interval(1 - 1e-9, y.size, 0.1)
    assert low <= int((y == 9).sum()) <= high


def test_there_is_no_gradient_and_none_is_in_the_way():
    """Functions of the new ids, such as an embedding, still have a gradient."""
    y, pullback = jax.vjp(lambda ids: token_dropout(clone(KEY), ids, 0.5, **OPTIONS), IDS)
    (d_ids,) = pullback(np.zeros(y.shape, jax.dtypes.float0))
    assert d_ids.dtype == jax.dtypes.float0
    table = jnp.ones((10, 3))
    grad = jax.grad(lambda t: t[token_dropout(clone(KEY), IDS, 0.5, **OPTIONS)].sum())(table)
    np.testing.assert_array_equal(grad[:, 0], np.bincount(np.ravel(y), minlength=10))


def test_a_key_used_twice_is_caught():
    key = jax.random.key(11)
    token_dropout(key, IDS, 0.5, mask_id=9)
    with pytest.raises(jax.errors.KeyReuseError):
        token_dropout(key, IDS, 0.5, mask_id=9)


def test_masks_of_a_module():
    """sample_mask returns the mask of a call, and no mask replaces special tokens."""
    layer, rngs = linen.TokenDropout(0.5, **OPTIONS, deterministic=False), {"dropout": clone(KEY)}
    mask = layer.apply({}, IDS, rngs=rngs, method="sample_mask")
    drawn = layer.apply({}, IDS, rngs={"dropout": clone(KEY)})
    np.testing.assert_array_equal(layer.apply({}, IDS, mask=mask), drawn)
    its_twin = flax_spatialdrop.nnx.TokenDropout(0.5, **OPTIONS)
    mask = its_twin.sample_mask(IDS, rngs=clone(KEY))
    np.testing.assert_array_equal(mask, sample_mask(clone(KEY), 0.5, IDS.shape))
    none = jnp.zeros(IDS.shape, jnp.bool_)
    np.testing.assert_array_equal(its_twin(IDS, mask=none), expected(IDS, none))
    with pytest.raises(ValueError, match=r"mask must have the noise shape \(4, 25\)"):
        its_twin(IDS, mask=none[:1])


def test_a_summary_lists_it():
    layer = linen.TokenDropout(0.5, **OPTIONS, deterministic=False)
    (site,) = summarize(layer, IDS, rngs={"dropout": clone(KEY)}).sites
    assert (site.module, site.noise_shape, site.coin_flips) == ("TokenDropout", (4, 25), 100)
    assert site.kept_bytes == 0


ERRORS = [
    (
        {"ids": [1, 2]},
        TypeError,
        "ids must be a JAX or NumPy array: got [1, 2]",
    ),
    (
        {"ids": jnp.ones((2, 3))},
        TypeError,
        "ids must have an integer dtype: got dtype float32",
    ),
    (
        {"ids": IDS > 3},
        TypeError,
        "ids must have an integer dtype: got dtype bool",
    ),
    ({"mask_id": 1.0}, TypeError, "mask_id must be an integer: got 1.0"),
    ({"mask_id": True}, TypeError, "mask_id must be an integer: got True"),
    (
        {"mask_id": -1},
        ValueError,
        "mask_id must be from 0 to 2147483647, the largest id in the dtype of ids, int32: got -1",
    ),
    (
        {"mask_id": 128, "ids": IDS.astype("int8"), "vocab_size": None},
        ValueError,
        "mask_id must be from 0 to 127, the largest id in the dtype of ids, int8: got 128",
    ),
    (
        {"mask_id": 10},
        ValueError,
        "mask_id must be below vocab_size=10: got 10",
    ),
    ({"special_ids": 3}, TypeError, "special_ids must be a tuple of ids: got 3"),
    ({"special_ids": "ab"}, TypeError, "special_ids must be a tuple of ids: got 'ab'"),
    (
        {"special_ids": (0, None)},
        TypeError,
        "each of special_ids must be an integer: got None",
    ),
    (
        {"special_ids": (0, 11)},
        ValueError,
        "each of special_ids must be below vocab_size=10: got 11",
    ),
    (
        {"special_ids": (0, -100)},
        ValueError,
        "each of special_ids must be from 0 to 2147483647, the largest id in the dtype of ids, "
        "int32: got -100",
    ),
    ({"vocab_size": 0}, ValueError, "vocab_size must be at least 1 id: got 0"),
    ({"vocab_size": 9.5}, TypeError, "vocab_size must be an integer: got 9.5"),
]


@each_face
@pytest.mark.parametrize(("change", "error", "message"), ERRORS, ids=lambda v: str(v)[:30])
def test_errors_even_where_nothing_drops(face, change, error, message):
    options = OPTIONS | change
    ids = options.pop("ids", IDS)
    for rate in (0.0, 0.5):
        with pytest.raises(error, match=exactly(message)):
            face_of(face, **options)(clone(KEY), ids, rate)


def test_modules_check_and_pass_on_when_deterministic():
    layer = flax_spatialdrop.nnx.TokenDropout(0.5, **OPTIONS, rngs=nnx.Rngs(0))
    layer.eval()
    assert layer(IDS) is IDS
    with pytest.raises(TypeError, match=r"ids must have an integer dtype"):
        layer(jnp.ones((2, 3)))


@each_face
def test_rates_outside_0_and_1_are_refused(face):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]: got rate=1.5"):
        face_of(face, **OPTIONS)(clone(KEY), IDS, 1.5)
