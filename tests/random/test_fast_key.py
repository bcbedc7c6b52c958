"""A fast key works like any other key, and draws the bits of threefry with 13 rounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone
from scipy import stats

from flax_spatialdrop import apply_mask, dropout, fast_key, sample_mask
from flax_spatialdrop._random.threefry import hash_words
from flax_spatialdrop.linen import Dropout

from ..errors import exactly
from ..hlo import sizes_of_words

KEY = jax.random.key(21)
FALSE_ALARM = 1e-9  # the probability that a statistical test fails although the code is right


def fast(seed):
    return fast_key(jax.random.key(seed))


# From Random123's file of known answers (kat_vectors): key, position, the two words.
KNOWN = [
    ((0, 0), (0, 0), (0x9D1C5EC6, 0x8BD50731)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0xFD36D048, 0x2D17272C)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xBA3E4725, 0xF27D669E)),
]


@pytest.mark.parametrize(("key", "position", "words"), KNOWN)
def test_13_rounds_give_the_known_answers(key, position, words):
    numbers = [np.uint32(word) for word in (*key, *position)]
    assert tuple(int(word) for word in hash_words(*numbers, 13)) == words


@pytest.mark.parametrize("shape", [(), (0,), (7, 1, 5), (2**17,)], ids=str)
def test_the_mask_redrawn_is_the_mask_of_jax_random(shape):
    x = jnp.ones(shape)
    mask = sample_mask(fast(1), 0.3, shape)
    expected = jax.random.bernoulli(fast(1), np.float32(0.7), shape)
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(dropout(fast(1), x, 0.3), apply_mask(x, mask, 0.3))


def test_the_mask_is_another_than_that_of_the_key_it_was_made_of():
    masks = [sample_mask(key, 0.5, (1000,)) for key in (fast(1), jax.random.key(1))]
    assert 400 < (masks[0] != masks[1]).sum() < 600


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_narrow_bits_are_the_low_ones(dtype):
    wide = np.asarray(jax.random.bits(fast(2), (1000,)))
    np.testing.assert_array_equal(jax.random.bits(fast(2), (1000,), dtype), wide.astype(dtype))


def test_64_bits_are_both_words():
    wide = np.asarray(jax.random.bits(fast(2), (1000,)))
    with jax.enable_x64(True):
        both = np.asarray(jax.random.bits(fast(2), (1000,), "uint64"))
    np.testing.assert_array_equal((both >> 32 ^ both & 0xFFFFFFFF).astype(np.uint32), wide)


def test_splits_and_folds_in_as_the_key_it_was_made_of():
    folded = jax.random.fold_in(fast(3), 7)
    plain = jax.random.fold_in(jax.random.key(3), 7)
    np.testing.assert_array_equal(jax.random.key_data(folded), jax.random.key_data(plain))


def test_a_legacy_key_makes_the_same_fast_key():
    legacy = fast_key(jax.random.key_data(jax.random.key(1)))
    np.testing.assert_array_equal(sample_mask(legacy, 0.5, (50,)), sample_mask(fast(1), 0.5, (50,)))


def test_a_symbolic_batch_and_no_other_symbolic_size():
    batch, time = jax.export.symbolic_shape("b, t")
    f = jax.jit(lambda x: dropout(fast(1), x, 0.5))
    exported = jax.export.export(f)(jax.ShapeDtypeStruct((batch, 4), jnp.float32))
    np.testing.assert_array_equal(exported.call(jnp.ones((3, 4))), f(jnp.ones((3, 4))))
    message = (
        "a fast key draws arrays whose axes are shorter than 2^32, and only the first axis may "
        "have a symbolic size: got (b, t)"
    )
    with pytest.raises(TypeError, match=exactly(message)):
        jax.export.export(f)(jax.ShapeDtypeStruct((batch, time), jnp.float32))


def test_split_vmap_and_scan():
    keys = jax.random.split(fast(3), 4)
    words = jax.random.key_data(jax.random.split(jax.random.key(3), 4))
    np.testing.assert_array_equal(jax.random.key_data(keys), words)
    x = jnp.ones((3, 5))
    looped = jnp.stack([dropout(clone(key), x, 0.5) for key in keys])
    mapped = jax.vmap(lambda key: dropout(key, x, 0.5))(clone(keys))
    np.testing.assert_array_equal(mapped, looped)
    _, scanned = jax.lax.scan(lambda c, key: (c, dropout(key, x, 0.5)), 0, clone(keys))
    np.testing.assert_array_equal(scanned, looped)


def test_modules_take_one_as_their_stream():
    x = jnp.ones((50, 50))
    layer = Dropout(0.5, deterministic=False)
    y = layer.apply({}, x, rngs={"dropout": fast(4)})
    again = jax.jit(lambda key: layer.apply({}, x, rngs={"dropout": key}))(fast(4))
    np.testing.assert_array_equal(y, again)
    assert 0.4 < (y == 0).mean() < 0.6


def test_the_backward_pass_keeps_its_words():
    _, pullback = jax.vjp(lambda x: dropout(fast(5), x, 0.5), jnp.ones((3, 4)))
    assert [(r.dtype, r.shape) for r in jax.tree.leaves(pullback)] == [(jnp.uint32, (2,))]


def test_a_key_used_twice_is_caught():
    key = fast(6)
    dropout(key, jnp.ones(3), 0.5)
    with pytest.raises(jax.errors.KeyReuseError):
        dropout(key, jnp.ones(3), 0.5)
    made_of = jax.random.key(6)
    fast_key(made_of)
    with pytest.raises(jax.errors.KeyReuseError):
        fast_key(made_of)


def test_no_program_over_all_of_x_hashes_a_small_mask():
    x = jax.ShapeDtypeStruct((64, 32, 32, 128), jnp.float32)
    f = jax.jit(lambda key, x: dropout(key, x, 0.5, noise_shape=(None, 1, 1, None)))
    text = f.lower(fast(7), x).compile().as_text()
    assert max(sizes_of_words(text)) <= 64 * 128


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_drops_at_the_rate_and_neighbors_are_independent(rate):
    """Exact binomial bounds for 2^23 draws, with false alarms at 1e-9 each."""
    mask = np.asarray(sample_mask(fast(8), rate, (2**23,)))
    for flips, chance in (
        (mask, 1 - rate),
        (mask[::2] & mask[1::2], (1 - rate) ** 2),
        (mask[: 2**22] & mask[2**22 :], (1 - rate) ** 2),
    ):
        low, high = stats.binom.interval(1 - FALSE_ALARM, flips.size, chance)
        assert low <= flips.sum() <= high


def test_masks_of_neighboring_keys_are_independent():
    """For 512 keys of a split with 2^14 draws each, pairs of masks agree as often as two coins."""
    keys = jax.random.split(fast(9), 512)
    masks = np.asarray(jax.vmap(lambda key: sample_mask(key, 0.5, (2**14,)))(keys))
    agreed = (masks[:-1] == masks[1:]).sum()
    low, high = stats.binom.interval(1 - FALSE_ALARM, masks[1:].size, 0.5)
    assert low <= agreed <= high
    per_place = masks.sum(0)
    low, high = stats.binom.interval(1 - FALSE_ALARM / 2**14, 512, 0.5)
    assert low <= per_place.min() <= per_place.max() <= high


BAD = [
    (jax.random.key(0, impl="rbg"), TypeError, "fast_key takes a threefry2x32 key: got rbg"),
    (
        None,
        ValueError,
        "key must be a JAX PRNG key where anything is drawn: got key=None; pass one, such as "
        "jax.random.key(0)",
    ),
    (0, TypeError, "key must be a JAX PRNG key, such as jax.random.key(0): got 0"),
    (
        jax.random.split(jax.random.key(0), 3),
        ValueError,
        "key must be one PRNG key: got keys of shape (3,); use jax.vmap to draw with each of them",
    ),
]


@pytest.mark.parametrize(("key", "error", "message"), BAD)
def test_bad_keys(key, error, message):
    with pytest.raises(error, match=exactly(message)):
        fast_key(key)
