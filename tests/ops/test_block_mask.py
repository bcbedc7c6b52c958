"""The masks of blocks: how seeds become blocks, and the probability of a seed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_spatialdrop import drop_block
from flax_spatialdrop._ops.block_mask import (
    _dilate_by_shifts,
    _dilate_by_windows,
    no_seed_probability,
    resolve_blocks,
)

from ..catalogue import covers, no_seed

SHAPES = [((2, 9, 3), 4), ((2, 9, 8, 3), (3, 7)), ((2, 6, 5, 7, 3), (2, 1, 5)), ((2, 9, 8, 3), 2)]


def blocks_of(shape, block_size):
    return resolve_blocks(
        "x", shape, block_size, per_channel=True, data_format="channels_last", batch_dims=1
    )


@pytest.mark.parametrize(("shape", "block_size"), SHAPES, ids=str)
def test_tpus_and_others_spread_seeds_alike(shape, block_size):
    """There is one program for TPUs and one for all other platforms."""
    blocks = blocks_of(shape, block_size)
    seeds = jax.random.bernoulli(jax.random.key(0), 0.1, blocks.seed_shape)
    by_shifts = jax.jit(lambda seeds: _dilate_by_shifts(seeds, blocks))(seeds)
    by_windows = jax.jit(lambda seeds: _dilate_by_windows(seeds, blocks))(seeds)
    assert by_shifts.shape == shape
    np.testing.assert_array_equal(by_shifts, by_windows)
    assert seeds.sum() < by_shifts.sum() < by_shifts.size


@pytest.mark.parametrize(("shape", "block_size"), SHAPES, ids=str)
def test_the_probability_is_the_root_found_by_other_means(shape, block_size):
    blocks = blocks_of(shape, block_size)
    space = [blocks.noise_shape[axis] for axis in blocks.axes]
    traced = jax.jit(lambda rate: no_seed_probability(rate, blocks))
    for rate in map(float, np.float32([0.01, 0.3, 0.9, 0.999])):
        expected = no_seed(space, blocks.sizes, rate)
        np.testing.assert_allclose(no_seed_probability(rate, blocks), expected, rtol=1e-7)
        kept = np.mean(np.float64(traced(np.float32(rate))) ** covers(space, blocks.sizes))
        assert abs(kept - (1 - rate)) < 3e-7


def test_the_largest_number_below_1_drops_all_but_nothing_breaks():
    y = drop_block(jax.random.key(0), jnp.ones((2, 14, 14, 1)), 1 - 1e-16)
    np.testing.assert_array_equal(y, jnp.zeros_like(y))


def test_no_floating_point_temporary_has_the_size_of_x():
    """The only temporaries are bools, a quarter of the size of x each, and few exist at a time."""

    def f(key, x):
        y, pullback = jax.vjp(lambda x: drop_block(key, x, 0.1), x)
        return y, pullback(y)[0]

    x = jax.ShapeDtypeStruct((8, 28, 28, 64), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    program = jax.jit(f).lower(key, x).compile()
    assert program.memory_analysis().temp_size_in_bytes < x.size * 4
