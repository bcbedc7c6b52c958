"""A fast key works like any other key. Its bits are those of threefry with 13 rounds, and its masks
follow an equation of their own.
"""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.nnx import Rngs
from jax.random import clone
from scipy import stats

import flax_spatialdrop as fs
from flax_spatialdrop import apply_mask, dropout, fast_key, linen, nnx, sample_mask
from flax_spatialdrop._random.groups import draws_of_elements
from flax_spatialdrop._random.mask import drawn_rate
from flax_spatialdrop._random.threefry import hash_words

from ..catalogue import ALPHA, BERNOULLI, REPRESENTATIVES
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
    flipped = hash_words(*numbers, 13, True)
    assert tuple(int(word) ^ 2**31 for word in flipped) == words


SHAPES = [(), (0,), (5,), (1024,), (3, 512), (0, 512), (2, 32, 5), (64, 7), (7, 1, 5)]
"""Some of each kind of groups."""


def rounded(rate):
    """Returns the rate whose keep probability is the nearest multiple of 2^-16."""
    return 1 - round(2**16 * (1 - rate)) / 2**16


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_mask_compares_16_bits_to_the_keep_probability(shape):
    words = jax.random.key_data(fast(1))
    draws = draws_of_elements(words, jnp.zeros(shape), None, shape)
    for rate in (0.3, jnp.float32(0.3)):
        mask = sample_mask(fast(1), rate, shape)
        np.testing.assert_array_equal(mask, draws < round(2**16 * 0.7))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_mask_redrawn_is_the_mask_applied_with_the_rounded_rate(shape, dtype):
    x = jnp.ones(shape, dtype)
    y, pullback = jax.vjp(lambda x: dropout(fast(1), x, 0.3), x)
    expected = apply_mask(x, sample_mask(fast(1), 0.3, shape), rounded(0.3))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(*pullback(x), expected)


@pytest.mark.parametrize("shape", [(3, 512), (2, 32, 5), (7, 1, 5)], ids=str)
def test_the_same_mask_in_every_transform(shape):
    mask = sample_mask(fast(1), 0.3, shape)
    x = jnp.ones(shape)

    def kept(key, rate=0.3):
        return dropout(key, x, rate) != 0

    keys = jnp.stack([fast(0), fast(1)])
    found = {
        "jit": jax.jit(kept)(fast(1)),
        "a traced rate": jax.jit(kept)(fast(1), jnp.float32(0.3)),
        "vmap": jax.vmap(kept)(clone(keys))[1],
        "scan": jax.lax.scan(lambda c, key: (c, kept(key)), 0, clone(keys))[1][1],
        "remat": jax.checkpoint(kept)(fast(1)),
        "a mask under vmap": jax.vmap(lambda key: sample_mask(key, 0.3, shape))(clone(keys))[1],
    }
    for name, other in found.items():
        np.testing.assert_array_equal(other, mask, name)


SEQUENCE = jnp.linspace(1, 2, 3 * 8 * 4).reshape(3, 8, 4)


def lstm(key, rate):
    layer = nnx.LSTM(4, 4, dropout=rate, recurrent_dropout=rate, rngs=Rngs(0))
    return layer(SEQUENCE, rngs=key)


def attention(attend, **options):
    query = SEQUENCE[:, :, None]
    return lambda key, rate: attend(
        query, query, query, dropout_rng=key, dropout_rate=rate, **options
    )


def residual(mode):
    return lambda key, rate: fs.residual_drop_path(key, SEQUENCE, jnp.sin, rate, mode=mode)


ROUNDING = {
    **{
        case.id: lambda key, rate, case=case: case.face()(key, jnp.ones(case.shape), rate)
        for case in REPRESENTATIVES
        if case.kind in (BERNOULLI, ALPHA) and 0 not in case.shape
    },
    "embedding_dropout of ids": lambda key, rate: fs.embedding_dropout(
        key, SEQUENCE[0], rate, ids=jnp.arange(8)
    ),
    "drop_connect": lambda key, rate: fs.drop_connect(key, {"w": SEQUENCE}, rate)["w"],
    "residual_drop_path": residual("row"),
    "residual_drop_path of a batch": residual("batch"),
    "LSTM": lstm,
    "attention": attention(linen.dot_product_attention, broadcast_dropout=False),
    "attention in blocks": attention(linen.blockwise_attention, broadcast_dropout=False),
    "attention, values": attention(linen.dot_product_attention, noise_shape=(None, None, 1, None)),
    "attention, outputs": attention(linen.blockwise_attention, noise_shape=(None, None, None, 1)),
}
EXACT = {
    "drop_block": lambda key, rate: fs.drop_block(key, SEQUENCE, rate, block_size=2),
    "gaussian_dropout": lambda key, rate: fs.gaussian_dropout(key, SEQUENCE, rate),
    "spans of keys": attention(linen.dot_product_attention, broadcast_dropout=False, span=2),
}


@pytest.mark.parametrize("f", ROUNDING.values(), ids=list(ROUNDING))
def test_no_scale_is_computed_from_the_rate_before_it_is_rounded(f):
    """One key drops something and keeps something, so both rates would differ in a scale."""
    key = jax.random.key(1)
    assert (f(clone(key), 0.3) != f(clone(key), rounded(0.3))).any()  # shows that it can fail
    for rate in (0.3, jnp.float32(0.3)):
        y = f(fast_key(clone(key)), rate)
        np.testing.assert_array_equal(y, f(fast_key(clone(key)), rounded(0.3)))


@pytest.mark.parametrize("f", EXACT.values(), ids=list(EXACT))
def test_other_distributions_take_the_rate_itself(f):
    assert (f(fast(1), 0.3) != f(fast(1), rounded(0.3))).any()


RATES = {
    # rate, the rate that is drawn
    2**-17: 0.0,  # halves are rounded to the even multiple
    3 * 2**-18: 2**-16,
    2**-16: 2**-16,
    0.3: rounded(0.3),
    1 - 2**-16: 1 - 2**-16,
    1 - 1e-6: 1 - 2**-16,  # at least 2^-16 is kept unless the rate is 1
    1.0: 1.0,
}
CLIPPED = {-1.0: 0.0, 2.0: 1.0, np.nan: 1.0}


@pytest.mark.parametrize(("rate", "expected"), [*RATES.items(), *CLIPPED.items()])
def test_the_rate_that_is_drawn(rate, expected):
    if rate in RATES:
        assert drawn_rate(fast(1), rate) == expected
    for is_wide in (False, True):
        with jax.enable_x64(is_wide):
            found = jax.jit(drawn_rate)(fast(1), jnp.asarray(rate, float))
        assert found.dtype == np.float32
        assert found == expected


def test_all_other_keys_drop_at_the_rate_itself():
    rates = 0.3, jnp.float32(0.3)
    keys = jax.random.key(1), jax.random.key(1, impl="rbg"), jax.random.PRNGKey(1), None
    assert all(drawn_rate(key, rate) is rate for key in keys for rate in rates)


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
    for size in (3, 32):  # without groups, and with groups along the batch
        x = jnp.ones((size, 4))
        np.testing.assert_array_equal(exported.call(x), f(x))
    message = (
        "a fast key draws arrays whose axes are shorter than 2^32, and only the first axis may "
        "have a symbolic size: got (b, t)"
    )
    with pytest.raises(TypeError, match=exactly(message)):
        jax.export.export(f)(jax.ShapeDtypeStruct((batch, time), jnp.float32))


@pytest.mark.parametrize("rest", [(32, 7), (64, 7), (3, 512)])
def test_a_symbolic_batch_of_whole_groups(rest):
    (batch,) = jax.export.symbolic_shape("b")
    f = jax.jit(lambda x: dropout(fast(1), x, 0.5))
    exported = jax.export.export(f)(jax.ShapeDtypeStruct((batch, *rest), jnp.float32))
    for size in (1, 3):
        x = jnp.ones((size, *rest))
        np.testing.assert_array_equal(exported.call(x), f(x))


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
    layer = linen.Dropout(0.5, deterministic=False)
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


def rounds_over(shape, noise_shape):
    """Returns how many rounds of the hash a program computes for each element of x."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    f = jax.jit(lambda key, x: dropout(key, x, 0.5, noise_shape=noise_shape))
    text = f.lower(fast(7), x).compile().as_text()
    root = f"ROOT [^\n]*= f32\\[{','.join(map(str, shape))}\\]"
    return sum(part.count(" xor(") for part in text.split("\n\n") if re.search(root, part))


def test_no_program_over_all_of_x_hashes_a_small_mask():
    shape = (64, 32, 32, 128)
    assert rounds_over(shape, (None, 1, 1, None)) <= 1
    assert rounds_over((64, 31, 31, 128), None) >= 13  # shows that the test can fail


@pytest.mark.parametrize("shape", [(64, 32, 32, 128), (4096, 2048)], ids=str)
def test_on_cpus_four_elements_share_a_hash_in_memory_too(shape):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    program = jax.jit(lambda key, x: dropout(key, x, 0.5)).lower(fast(7), x).compile()
    assert max(sizes_of_words(program.as_text())) == math.prod(shape) // 4
    assert program.memory_analysis().temp_size_in_bytes < 1.01 * math.prod(shape) / 4


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
