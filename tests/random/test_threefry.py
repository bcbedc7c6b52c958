"""The draw without a loop has the same bits as JAX's draw."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.random import clone
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flax_spatialdrop import dropout, sample_mask
from flax_spatialdrop._random.threefry import can_hash_by_position, positions, random_bits

from ..hlo import sizes_of_words

KEY = jax.random.key(11)
WORDS = jax.random.key_data(clone(KEY))


@settings(max_examples=12)
@given(st.lists(st.integers(0, 5), max_size=5))
def test_bits_are_those_of_jax(shape):
    bits = random_bits(WORDS, 20, jnp.zeros(shape))
    assert bits.dtype == jnp.uint32
    np.testing.assert_array_equal(bits, jax.random.bits(clone(KEY), tuple(shape)))


@pytest.mark.parametrize("mode", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("spec", [P("d"), P(None, "d"), P(None, None, "d")], ids=str)
def test_bits_on_8_devices(mode, spec):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(mode,))
    with jax.set_mesh(mesh):
        like = jax.device_put(jnp.zeros((8, 16, 24)), NamedSharding(mesh, spec))
        bits = jax.jit(lambda like: random_bits(WORDS, 20, like))(like)
        if mode is AxisType.Explicit:
            assert bits.sharding.is_equivalent_to(like.sharding, 3)
    np.testing.assert_array_equal(bits, jax.random.bits(clone(KEY), (8, 16, 24)))


def threefry(words, position, rounds):
    """Computes threefry-2x32 of one position with Python integers; returns its two words."""
    keys = [int(words[0]), int(words[1])]
    keys.append(keys[0] ^ keys[1] ^ 0x1BD11BDA)
    x0, x1 = (position >> 32) + keys[0], position % 2**32 + keys[1]
    for done in range(rounds):
        block, turn = divmod(done, 4)
        rotation = [(13, 15, 26, 6), (17, 29, 16, 24)][block % 2][turn]
        x0, x1 = (x0 + x1) % 2**32, x1 % 2**32
        x1 = x0 ^ ((x1 << rotation) % 2**32 | x1 >> (32 - rotation))
        if turn == 3:
            x0, x1 = x0 + keys[(block + 1) % 3], x1 + keys[(block + 2) % 3] + block + 1
    return x0 % 2**32, x1 % 2**32


def bits_of(words, position):
    """Returns one element of `jax.random.bits`."""
    x0, x1 = threefry(np.asarray(words), position, 20)
    return x0 ^ x1


def test_the_test_s_own_threefry_is_right():
    bits = [bits_of(WORDS, position) for position in range(1000)]
    np.testing.assert_array_equal(jax.random.bits(clone(KEY), (1000,)), np.array(bits, np.uint32))


@pytest.mark.parametrize(
    "shape",
    [
        (2**17, 2**17 + 3),
        (3, 2**31 - 1, 5),
        (2**20, 3, 2**20 + 7, 2**18 + 1),
        (2**30, 9),
    ],
    ids=str,
)
@pytest.mark.parametrize("end", [slice(None, 2), slice(-2, None)], ids=["first", "last"])
def test_more_elements_than_32_bits_can_count(shape, end):
    """Both corners of arrays that do not fit into memory; the program computes only the corners."""

    @jax.jit
    def corner():
        return random_bits(WORDS, 20, jnp.zeros(shape))[(end,) * len(shape)]

    picked = [range(size)[end] for size in shape]
    bits = np.asarray(corner())
    for offsets in np.ndindex(bits.shape):
        position = 0
        for size, places, offset in zip(shape, picked, offsets, strict=True):
            position = position * size + places[offset]
        assert bits[offsets] == bits_of(WORDS, position)


def test_only_axes_that_reach_beyond_32_bits_need_the_upper_word():
    """Else XLA shares counters between axes of one size, and sends them from chip to chip."""
    shape = (2**10, 2**12, 2**11)
    program = str(jax.make_jaxpr(lambda: positions(jnp.zeros(shape), None, shape))())
    assert program.count(" lt ") == 1  # the carry of the first axis


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.1, 0.5, 1e-7, 1 - 1e-7, jnp.float32(0.3)])
def test_the_threshold_is_that_of_bernoulli_to_the_last_of_8_million_draws(rate):
    """A threshold that is off by one changes one of 2^23 draws, so about 4 of the 2^25 here."""
    shape = (2**25,)
    y = jax.jit(lambda key: dropout(key, jnp.ones(shape, jnp.bfloat16), rate) != 0)(clone(KEY))
    np.testing.assert_array_equal(y, sample_mask(clone(KEY), rate, shape))


FALLBACKS = [
    pytest.param(jax.random.key(1, impl="rbg"), (4, 5), id="rbg"),
    pytest.param(jax.random.key(1, impl="unsafe_rbg"), (4, 5), id="unsafe_rbg"),
]


@pytest.mark.parametrize(("key", "shape"), FALLBACKS)
def test_other_keys_use_the_draw_of_jax_and_keep_the_mask(key, shape):
    assert not can_hash_by_position(key, shape)
    expect_kept_mask(key, shape)


def expect_kept_mask(key, shape):
    y, pullback = jax.vjp(lambda x: dropout(clone(key), x, 0.5), jnp.ones(shape))
    kept = jax.random.bernoulli(clone(key), np.float32(0.5), shape)
    np.testing.assert_array_equal(y != 0, kept)
    assert [(r.dtype, r.shape) for r in jax.tree.leaves(pullback)] == [(jnp.bool_, shape)]


def test_legacy_keys_are_of_the_default_implementation():
    legacy = jax.random.key_data(jax.random.key(1))
    assert can_hash_by_position(legacy, (4, 5))
    with jax.default_prng_impl("rbg"):
        assert not can_hash_by_position(jax.random.PRNGKey(1), (4, 5))
        expect_kept_mask(jax.random.PRNGKey(1), (4, 5))


def test_the_older_counters_of_threefry_use_the_draw_of_jax():
    with jax.threefry_partitionable(False):
        assert not can_hash_by_position(KEY, (4, 5))
        expect_kept_mask(jax.random.key(12), (4, 5))
    assert can_hash_by_position(KEY, (4, 5))


def test_symbolic_dimensions_draw_the_same():
    (batch,) = jax.export.symbolic_shape("b")
    x = jax.ShapeDtypeStruct((batch, 4), jnp.float32)
    exported = jax.export.export(jax.jit(lambda k, x: dropout(k, x, 0.5)))(WORDS, x)
    expected = dropout(clone(KEY), jnp.ones((3, 4)), 0.5)
    np.testing.assert_array_equal(exported.call(WORDS, jnp.ones((3, 4))), expected)


def test_an_axis_of_2_to_the_32_uses_the_draw_of_jax():
    assert can_hash_by_position(KEY, (2**32 - 1, 3))
    assert not can_hash_by_position(KEY, (2**32, 3))


SHAPE = (64, 32, 32, 128)
SIZE = math.prod(SHAPE)


def value_and_pullback(noise_shape):
    def f(key, x, ct):
        y, pullback = jax.vjp(lambda x: dropout(key, x, 0.5, noise_shape=noise_shape), x)
        return y, pullback(ct)

    return f


def compiled(noise_shape, dtype=jnp.float32):
    x = jax.ShapeDtypeStruct(SHAPE, dtype)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.jit(value_and_pullback(noise_shape)).lower(key, x, x).compile()


def test_no_program_over_all_of_x_hashes_a_small_mask():
    assert max(sizes_of_words(compiled((None, 1, 1, None)).as_text())) <= 64 * 128
    assert max(sizes_of_words(compiled(None).as_text())) == SIZE  # shows that the test can fail


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_mask_and_no_bits_of_a_draw_per_element_are_written_down(dtype):
    assert compiled(None, dtype).memory_analysis().temp_size_in_bytes < SIZE / 1000
