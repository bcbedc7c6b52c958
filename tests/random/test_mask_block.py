"""mask_block draws the same part of the mask as sample_mask, wherever it runs."""

import importlib.util
import math
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.experimental import pallas as pl
from jax.random import clone
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from flax_spatialdrop import fast_key, mask_block, sample_mask

from ..errors import exactly
from .test_threefry import bits_of

KEY = jax.random.key(11)
WORDS = np.asarray(jax.random.key_data(KEY))
SHAPE = (6, 1, 10)
WHOLE = sample_mask(clone(KEY), 0.4, SHAPE)

axes = st.integers(0, 6).flatmap(
    lambda size: st.integers(0, size).flatmap(
        lambda part: st.tuples(st.just(size), st.just(part), st.integers(0, size - part))
    )
)


@settings(max_examples=40)
@given(st.lists(axes, max_size=4), st.sampled_from([0, 0.3, 1.0]))
def test_any_block_is_that_part_of_the_mask(axes, rate):
    shape, sizes, start = (tuple(a[i] for a in axes) for i in range(3))
    block = mask_block(KEY, rate, shape, start, sizes)
    part = tuple(slice(s, s + n) for s, n in zip(start, sizes, strict=True))
    assert block.dtype == bool
    np.testing.assert_array_equal(block, sample_mask(clone(KEY), rate, shape)[part])


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(lambda: clone(KEY), id="typed"),
        pytest.param(lambda: jax.random.key_data(clone(KEY)), id="legacy"),
        pytest.param(lambda: fast_key(clone(KEY)), id="fast"),
    ],
)
@pytest.mark.parametrize("rate", [1e-7, 0.7, jnp.float32(0.4), jnp.float32(2), jnp.float32("nan")])
def test_for_every_key_that_can_and_every_rate(key, rate):
    block = mask_block(key(), rate, SHAPE, (2, 0, 3), (4, 1, 5))
    np.testing.assert_array_equal(block, sample_mask(key(), rate, SHAPE)[2:6, :, 3:8])


@pytest.mark.parametrize(
    ("shape", "start", "sizes"),
    [
        ((3, 1024), (1, 500), (2, 300)),
        ((3, 1024), (0, 512), (3, 512)),
        ((2, 64, 5), (1, 9, 1), (1, 50, 3)),
        ((2, 64, 5), (0, 32, 0), (2, 32, 5)),
        ((2, 63, 5), (0, 32, 0), (2, 31, 5)),
    ],
    ids=str,
)
def test_blocks_of_a_fast_key_cut_through_its_groups(shape, start, sizes):
    whole = sample_mask(fast_key(clone(KEY)), 0.4, shape)
    part = tuple(slice(s, s + n) for s, n in zip(start, sizes, strict=True))
    f = jax.jit(lambda start: mask_block(fast_key(clone(KEY)), 0.4, shape, start, sizes))
    for corner in (start, jnp.array(start)):
        np.testing.assert_array_equal(f(corner), whole[part])


def test_the_words_of_a_key_stand_for_it():
    words = tuple(jax.random.key_data(clone(KEY)))
    np.testing.assert_array_equal(mask_block(words, 0.4, SHAPE, (0, 0, 0), SHAPE), WHOLE)


def test_a_key_is_not_consumed():
    """With strict checks of keys, the key can still be consumed once."""
    key = jax.random.key(1)
    rows = [mask_block(key, 0.5, SHAPE, (row, 0, 0), (1, 1, 10)) for row in range(6)]
    np.testing.assert_array_equal(jnp.concatenate(rows), sample_mask(key, 0.5, SHAPE))
    with pytest.raises(jax.errors.KeyReuseError):
        sample_mask(key, 0.5, SHAPE)


@pytest.mark.parametrize("rate", [0, 1.0])
def test_nothing_is_drawn_at_the_numbers_0_and_1(rate):
    block = mask_block(None, rate, (2**33, 1, 10), (2**32, 0, 0), (2, 1, 3))
    np.testing.assert_array_equal(block, jnp.full((2, 1, 3), rate == 0))


def test_traced_starts_in_loops_and_a_traced_rate():
    @jax.jit
    def by_scan(key, rate):
        def row(_, i):
            return None, mask_block(key, rate, SHAPE, (i, 0, 2 * i), (1, 1, 2))

        return lax.scan(row, None, jnp.arange(5))[1]

    @jax.jit
    def by_loop(key):
        def put(i, mask):
            block = mask_block(key, 0.4, SHAPE, (i, 0, jnp.uint8(5)), (1, 1, 5))
            return lax.dynamic_update_slice(mask, block, (i, 0, 5))

        return lax.fori_loop(0, 6, put, jnp.zeros(SHAPE, bool))

    expected = [WHOLE[i : i + 1, :, 2 * i : 2 * i + 2] for i in range(5)]
    np.testing.assert_array_equal(by_scan(clone(KEY), jnp.float32(0.4)), expected)
    np.testing.assert_array_equal(by_loop(clone(KEY))[..., 5:], WHOLE[..., 5:])


def test_vmap_over_starts_keys_and_rates():
    starts = jnp.array([[0, 0, 0], [5, 0, 8], [2, 0, 1]])
    blocks = jax.vmap(lambda s: mask_block(KEY, 0.4, SHAPE, s, (1, 1, 2)))(starts)
    expected = [WHOLE[i : i + 1, :, j : j + 2] for i, _, j in starts.tolist()]
    np.testing.assert_array_equal(blocks, expected)

    keys, rates = jax.random.split(jax.random.key(5), 3), jnp.array([0.2, 0.5, 0.9])
    blocks = jax.vmap(lambda k, r: mask_block(k, r, SHAPE, (1, 0, 2), (4, 1, 3)))(keys, rates)
    expected = [
        sample_mask(k, r, SHAPE)[1:5, :, 2:5] for k, r in zip(clone(keys), rates, strict=True)
    ]
    np.testing.assert_array_equal(blocks, expected)


@pytest.mark.parametrize("start", [-1, -(2**31), 5, 2**31 - 1, np.int8(-128), np.uint32(2**32 - 1)])
def test_a_traced_start_is_clipped_into_the_mask(start):
    index = jnp.asarray(start)
    block = jax.jit(lambda i: mask_block(KEY, 0.4, SHAPE, (i, 0, i), (3, 1, 4)))(index)
    row, column = (min(max(int(start), 0), last) for last in (3, 6))
    np.testing.assert_array_equal(block, WHOLE[row : row + 3, :, column : column + 4])


def test_a_start_of_64_bits():
    with jax.enable_x64(True):
        for start, (row, column) in {-(2**40): (0, 0), 2**40: (3, 6), 2: (2, 2)}.items():
            index = jnp.asarray(start, jnp.int64)
            block = jax.jit(lambda i: mask_block(KEY, 0.4, SHAPE, (i, 0, i), (3, 1, 4)))(index)
            np.testing.assert_array_equal(block, WHOLE[row : row + 3, :, column : column + 4])


@pytest.mark.parametrize("shape", [(2**17, 2**17 + 3), (3, 2**31 - 1, 5), (2**32 - 1, 7)], ids=str)
def test_masks_of_more_than_2_to_the_32_elements(shape):
    """Draws the last corner, with a known start and with a traced one."""
    start = tuple(size - min(size, 3) for size in shape)
    sizes = tuple(min(size, 3) for size in shape)
    whole = mask_block(KEY, 0.4, shape, start, sizes)
    traced = jax.jit(lambda s: mask_block(KEY, 0.4, shape, s, sizes))(jnp.array(start, jnp.uint32))
    threshold = round(0.6 * 2**23) << 9
    for offsets in np.ndindex(sizes):
        place = 0
        for size, first, offset in zip(shape, start, offsets, strict=True):
            place = place * size + first + offset
        assert place >= 2**32
        assert whole[offsets] == (bits_of(WORDS, place) < threshold)
    np.testing.assert_array_equal(traced, whole)


def test_each_device_draws_its_own_part():
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    shape = (4, 3, 8)

    def part(key):
        start = (2 * lax.axis_index("a"), 0, 2 * lax.axis_index("b"))
        return mask_block(key, 0.4, shape, start, (2, 3, 2))

    draw = jax.shard_map(part, mesh=mesh, in_specs=P(), out_specs=P("a", None, "b"))
    np.testing.assert_array_equal(jax.jit(draw)(clone(KEY)), sample_mask(clone(KEY), 0.4, shape))


def test_no_more_is_written_down_than_the_block():
    def kept(key, i):
        return mask_block(key, 0.4, (2**15, 2**15), (i, i), (64, 64)).sum()

    shapes = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((), jnp.int32)
    memory = jax.jit(kept).lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 8 * 64 * 64


KERNEL_SHAPE, TILE = (64, 512), (16, 128)


def keep_kernel(words, x, y):
    """Writes x where it is kept, else 0, with the mask of this program's tile."""
    start = tuple(pl.program_id(axis) * size for axis, size in enumerate(TILE))
    mask = mask_block((words[0], words[1]), 0.4, KERNEL_SHAPE, start, TILE)
    y[...] = jnp.where(mask, x[...], jnp.zeros(TILE, x.dtype))


def keep_in_a_kernel(words, x, interpret):
    from jax.experimental.pallas import tpu

    tiles = pl.BlockSpec(TILE, lambda i, j: (i, j))
    return pl.pallas_call(
        keep_kernel,
        grid=tuple(whole // part for whole, part in zip(KERNEL_SHAPE, TILE, strict=True)),
        out_shape=jax.ShapeDtypeStruct(KERNEL_SHAPE, x.dtype),
        in_specs=[pl.BlockSpec(memory_space=tpu.SMEM), tiles],
        out_specs=tiles,
        interpret=interpret,
    )(words, x)


def test_in_the_body_of_a_pallas_kernel():
    x = jax.random.normal(jax.random.key(0), KERNEL_SHAPE)
    y = keep_in_a_kernel(jax.random.key_data(clone(KEY)), x, interpret=True)
    np.testing.assert_array_equal(y, jnp.where(sample_mask(clone(KEY), 0.4, KERNEL_SHAPE), x, 0))


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_in_a_kernel_compiled_for_a_tpu():
    """Runs in its own process, since libtpu takes control of the process."""
    code = """
        import jax, jax.numpy as jnp, numpy as np
        jax.config.update("jax_platforms", "cpu")
        from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
        from experiments.tpu import topologies
        from tests.random.test_mask_block import KERNEL_SHAPE, keep_in_a_kernel

        chip = Mesh(topologies.mesh("v5e:2x2").devices[:1], ("data",))
        shape = lambda shape, dtype: jax.ShapeDtypeStruct(
            shape, dtype, sharding=NamedSharding(chip, P())
        )
        f = jax.jit(lambda words, x: keep_in_a_kernel(words, x, interpret=False))
        program = f.lower(shape((2,), jnp.uint32), shape(KERNEL_SHAPE, jnp.float32)).compile()
        print("tpu_custom_call" in program.as_text())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True"]


BAD = {
    "rank": (
        {"start": (0, 0)},
        ValueError,
        "start and sizes need one entry per axis of the mask: got 2 and 3 for "
        "noise_shape=(6, 1, 10)",
    ),
    "outside": (
        {"start": (4, 0, 0)},
        ValueError,
        "start and sizes must lie in noise_shape, which has 6 along axis 0: got from 4 to 7 there",
    ),
    "before": (
        {"start": (0, 0, -1)},
        ValueError,
        "start and sizes must lie in noise_shape, which has 10 along axis 2: "
        "got from -1 to 3 there",
    ),
    "too large": (
        {"sizes": (1, 2, 1)},
        ValueError,
        "start and sizes must lie in noise_shape, which has 1 along axis 1: got from 0 to 2 there",
    ),
    "outside, by an array": (
        {"start": jnp.array([4, 0, 0])},
        ValueError,
        "start and sizes must lie in noise_shape, which has 6 along axis 0: got from 4 to 7 there",
    ),
    "words of a long mask": (
        {"key": tuple(WORDS), "noise_shape": (2**33, 1, 10), "start": (2**32, 0, 0)},
        ValueError,
        "a part of a mask can be drawn alone only if every axis is shorter than 2^32: "
        f"got a mask of shape {(2**33, 1, 10)}",
    ),
    "no start": (
        {"start": 3},
        TypeError,
        "start must be a tuple with one entry per axis of the mask, or an array of them: got 3",
    ),
    "half a place": (
        {"start": (0, 0, 0.5)},
        TypeError,
        "start must hold integers or integer scalar arrays: got 0.5",
    ),
    "float start": (
        {"start": jnp.zeros(3)},
        TypeError,
        "start must hold integers or integer scalar arrays: got one of dtype float32",
    ),
    "rate": (
        {"rate": -0.5},
        ValueError,
        "rate is the probability to drop and must be in [0, 1]: got rate=-0.5",
    ),
    "None in the shape": (
        {"noise_shape": (6, None, 10)},
        TypeError,
        "the noise_shape of a mask must hold integers: got None in (6, None, 10); entries "
        "may be None only where x is given",
    ),
    "no key": (
        {"key": None},
        ValueError,
        "key must be a JAX PRNG key where anything is drawn: got key=None; pass one, such as "
        "jax.random.key(0)",
    ),
    "one word": (
        {"key": (np.uint32(1),)},
        ValueError,
        "key must have the two words of threefry: got a tuple of 1",
    ),
    "signed words": (
        {"key": (np.int32(1), np.int32(2))},
        TypeError,
        f"key must be a JAX PRNG key or a tuple of two uint32 scalars: got {np.int32(1)!r} in it",
    ),
    "rbg": (
        {"key": jax.random.key(0, impl="rbg")},
        ValueError,
        "key must be a threefry2x32 key or a fast_key, since a part of a mask is drawn alone: "
        "got a key of rbg; write jax.random.key(seed, impl='threefry2x32')",
    ),
}


@pytest.mark.parametrize(("bad", "error", "message"), BAD.values(), ids=list(BAD))
def test_what_is_refused(bad, error, message):
    good = {"key": KEY, "rate": 0.4, "noise_shape": SHAPE, "start": (0,) * 3, "sizes": (3, 1, 4)}
    with pytest.raises(error, match=exactly(message)):
        mask_block(**{**good, **bad})


def test_a_block_that_fits_nowhere():
    message = "start and sizes must lie in noise_shape, which has 6 along axis 0: got 7 there"
    with pytest.raises(ValueError, match=exactly(message)):
        jax.jit(lambda i: mask_block(KEY, 0.4, SHAPE, (i, 0, 0), (7, 1, 1)))(0)


def test_sizes_that_are_traced():
    with pytest.raises(TypeError, match="the sizes of a block must be known when tracing: got"):
        jax.jit(lambda n: mask_block(KEY, 0.4, SHAPE, (0, 0, 0), (n, 1, 1)))(2)


def test_keys_and_axes_of_which_no_part_can_be_drawn_alone():
    message = (
        "a part of a mask can be drawn alone only if every axis is shorter than 2^32: got a mask "
    )
    with pytest.raises(ValueError, match=exactly(f"{message}of shape {(2**32, 2)}")):
        mask_block(KEY, 0.4, (2**32, 2), (2**32 - 1, 0), (1, 1))
    message = (
        "jax_threefry_partitionable must be on, since a part of a mask is drawn alone: got False; "
        "turn it on or make key a fast_key"
    )
    with (
        jax.threefry_partitionable(False),
        pytest.raises(ValueError, match=exactly(message)),
    ):
        mask_block(KEY, 0.4, SHAPE, (0, 0, 0), SHAPE)
    with jax.default_prng_impl("rbg"), pytest.raises(ValueError, match="got a key of rbg"):
        mask_block(jax.random.PRNGKey(0), 0.4, SHAPE, (0, 0, 0), SHAPE)


def test_the_mean_of_blocks_is_the_rate():
    """The mean of 2^18 draws is off by more than 5.5 standard deviations once in 2e7 runs."""
    draws = jax.jit(lambda i: mask_block(KEY, 0.3, (2**20, 2**20), (i, i), (512, 512)).mean())
    for i in (0, 2**19 + 1, 2**20 - 512):
        assert abs(float(draws(i)) - 0.7) < 5.5 * math.sqrt(0.3 * 0.7 / 2**18)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64])
def test_whole_numbers_of_numpy_do_not_overflow(dtype):
    message = (
        "start and sizes must lie in noise_shape, which has 100 along axis 0: got from 100 to 200"
    )
    for start in ((dtype(100),), np.array([100], dtype)):
        with pytest.raises(ValueError, match=exactly(f"{message} there")):
            mask_block(KEY, 0.4, (dtype(100),), start, (dtype(100),))
