"""The draws of a fast key follow their equation, which is computed here with Python integers."""

import importlib.util
import itertools
import math
import subprocess
import sys
import textwrap
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from scipy import stats

from flax_spatialdrop._random.groups import (
    Groups,
    draws_of_elements,
    draws_of_groups,
    groups_of,
)
from flax_spatialdrop._random.threefry import positions

from ..hlo import collectives
from .test_fast_key import KNOWN
from .test_threefry import threefry

WORDS = np.array([0x13198A2E, 0x03707344], np.uint32)

GROUPS = {
    (): None,
    (5,): None,
    (512,): Groups(-1, 128),
    (1536,): Groups(-1, 128),
    (256,): None,
    (32,): None,
    (3, 512): Groups(-1, 128),
    (32, 512): Groups(-1, 128),
    (32, 7): Groups(-2, 8),
    (2, 64, 9): Groups(-2, 8),
    (32, 16, 3): None,
    (33, 9): None,
    (2, 3, 32, 1): Groups(-2, 8),
    (1, 32): None,
}


def draw(index, shape):
    """Returns u of one element: the equation in the docstring of `groups`."""
    index, d = [*index], 0
    if shape and shape[-1] % 512 == 0:
        d = index[-1] % 512 // 128
        index[-1] -= 128 * d
    elif len(shape) > 1 and shape[-2] % 32 == 0:
        d = index[-2] % 32 // 8
        index[-2] -= 8 * d
    position = 0
    for i, size in zip(index, shape, strict=True):
        position = position * size + i
    h0, h1 = threefry(WORDS, position, 13)
    return (h0 & 0xFFFF, h0 >> 16, h1 & 0xFFFF, h1 >> 16)[d]


def draws(shape, start, sizes):
    """Returns u of each element of a part of a mask."""
    offsets = np.ndindex(*sizes)
    each = [draw(np.add(start, offset).tolist(), shape) for offset in offsets]
    return np.array(each, np.uint32).reshape(sizes)


@cache
def all_draws(shape):
    return draws(shape, (0,) * len(shape), shape)


@pytest.mark.parametrize(("key", "position", "words"), KNOWN)
def test_the_test_s_own_threefry_is_right(key, position, words):
    assert threefry(key, position[0] << 32 | position[1], 13) == words


@pytest.mark.parametrize(("shape", "groups"), GROUPS.items(), ids=str)
def test_each_element_draws_by_the_equation(shape, groups):
    assert groups_of(shape) == groups
    whole = jax.jit(lambda: draws_of_elements(WORDS, jnp.zeros(shape), None, shape))()
    np.testing.assert_array_equal(whole, all_draws(shape))


@pytest.mark.parametrize("shape", GROUPS, ids=str)
@pytest.mark.parametrize(("first", "last"), [(1, 0), (3, 5)])
def test_any_part_has_the_draws_of_the_whole(shape, first, last):
    start = tuple(min(first, size - 1) for size in shape)
    sizes = tuple(max(n - s - last, 1) for n, s in zip(shape, start, strict=True))
    part = tuple(slice(s, s + n) for s, n in zip(start, sizes, strict=True))
    f = jax.jit(lambda start: draws_of_elements(WORDS, jnp.zeros(sizes), start, shape))
    found = f(tuple(map(jnp.uint32, start)))
    np.testing.assert_array_equal(found, all_draws(shape)[part])


@pytest.mark.parametrize(
    ("shape", "start"),
    [
        ((2**17, 2**17), (2**17 - 3, 2**17 - 515)),
        ((2**20, 3, 2**20, 2**12 + 1), (2**20 - 2, 1, 2**20 - 35, 2**12 - 2)),
        ((2**31 - 1, 35), (2**31 - 4, 31)),
    ],
    ids=str,
)
def test_more_than_2_to_the_32_elements(shape, start):
    sizes = tuple(min(n - s, 40) for n, s in zip(shape, start, strict=True))
    part = draws_of_elements(WORDS, jnp.zeros(sizes), tuple(map(np.uint32, start)), shape)
    np.testing.assert_array_equal(part, draws(shape, start, sizes))
    assert math.prod(shape) > 2**32


def whole_groups(shape, start, sizes):
    """Returns the draws of a part that holds whole groups, from a hash for each group."""
    groups = groups_of(shape)
    axis = len(shape) + groups.axis
    runs = []
    for first in range(0, sizes[axis], groups.span):
        corner = [*map(np.uint32, start)]
        corner[axis] = corner[axis] + np.uint32(first)
        like = jnp.zeros([groups.stride if i == axis else n for i, n in enumerate(sizes)])
        runs.extend(draws_of_groups(WORDS, *positions(like, tuple(corner), shape)))
    return jnp.concatenate(runs, axis)


@pytest.mark.parametrize(
    ("shape", "start", "sizes"),
    [
        ((3, 2048), (1, 512), (2, 1024)),
        ((1536,), (512,), (512,)),
        ((2, 96, 130), (1, 32, 5), (1, 64, 100)),
        ((2**20, 2**20), (2**20 - 2, 2**20 - 512), (2, 512)),
        ((2**20, 2**10, 2**10 + 1), (2**20 - 1, 2**10 - 64, 2**10 - 2), (1, 64, 3)),
    ],
    ids=str,
)
def test_four_draws_of_a_hash_are_those_of_four_elements(shape, start, sizes):
    corner = tuple(map(np.uint32, start))
    expected = draws_of_elements(WORDS, jnp.zeros(sizes), corner, shape)
    np.testing.assert_array_equal(whole_groups(shape, start, sizes), expected)


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        (("b",), (512, 1024, 500)),
        (("32 * b",), (32, 512)),
        (("b", "7"), (32, 64, 33)),
        (("b", "512"), (32, 3)),
        (("b", "32", "3"), (2,)),
    ],
    ids=str,
)
def test_a_symbolic_first_size_has_groups_if_it_turns_out_to_be_a_multiple(shape, sizes):
    symbolic = jax.export.symbolic_shape(", ".join(shape))
    f = jax.jit(lambda x: draws_of_elements(WORDS, x, None, x.shape))
    exported = jax.export.export(f)(jax.ShapeDtypeStruct(symbolic, np.float32))
    for size in sizes:
        known = (size, *map(int, shape[1:]))
        np.testing.assert_array_equal(exported.call(np.zeros(known, np.float32)), all_draws(known))


@pytest.mark.parametrize("mode", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("spec", [P("d"), P(None, "d"), P(None, None, "d")], ids=str)
@pytest.mark.parametrize("shape", [(8, 16, 512), (8, 32, 24), (8, 8, 8)], ids=str)
def test_each_of_8_devices_draws_its_own_part(mode, spec, shape):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(mode,))
    with jax.set_mesh(mesh):
        like = jax.device_put(jnp.zeros(shape), NamedSharding(mesh, spec))
        f = jax.jit(
            lambda like: draws_of_elements(WORDS, like, None, shape) + like.astype(np.uint32)
        )
        whole, text = f(like), f.lower(like).compile().as_text()
    assert whole.sharding.is_equivalent_to(like.sharding, 3)
    assert not collectives(text)
    np.testing.assert_array_equal(whole, draws_of_elements(WORDS, jnp.zeros(shape), None, shape))


FALSE_ALARM = 1e-9  # the probability that a statistical test fails although the code is right


@pytest.fixture(scope="module")
def many():
    """2^26 draws, as [groups, 4, 128]: row g has the four draws of 128 hashes."""
    words = jax.random.key_data(jax.random.key(2026))
    draw = jax.jit(lambda like: draws_of_elements(words, like, None, like.shape).astype(np.uint16))
    return np.asarray(draw(jnp.zeros((2**17, 512)))).reshape(2**17, 4, 128)


def chi_square_is_plausible(counts):
    """Whether counts look like those of equally likely cells, with false alarms at 1e-9."""
    expected = counts.sum() / counts.size
    low, high = stats.chi2.interval(1 - FALSE_ALARM, counts.size - 1)
    return low <= ((counts - expected) ** 2 / expected).sum() <= high


@pytest.mark.slow
def test_each_of_the_four_draws_is_uniform(many):
    for d in range(4):
        assert chi_square_is_plausible(np.bincount(many[:, d].ravel(), minlength=2**16))


@pytest.mark.slow
@pytest.mark.parametrize("shift", [10, 0], ids=["upper bits", "lower bits"])
def test_two_draws_of_a_hash_are_independent(many, shift):
    """The 2^12 pairs of 6 bits of two draws are equally likely, for each two of the four."""
    bits = [(many[:, d].ravel() >> shift & 63).astype(np.int32) for d in range(4)]
    for a, b in itertools.combinations(bits, 2):
        assert chi_square_is_plausible(np.bincount(a << 6 | b, minlength=2**12))


@pytest.mark.slow
def test_no_lag_inside_of_512_lanes_is_correlated(many):
    """The correlation at each lag is normal, with a deviation of 2^-13 for 2^26 pairs."""
    total = np.zeros(257)
    for part in np.split(many.reshape(-1, 512), 16):
        uniform = (part + 0.5) / 2**16 - 0.5
        total += (np.abs(np.fft.rfft(uniform)) ** 2).sum(0)
    correlation = np.fft.irfft(total)[1:257] / (2**26 / 12)  # of circular lags
    deviations = np.full(256, 2.0**-13)
    deviations[-1] *= np.sqrt(2)  # half a circle counts each pair twice
    assert np.abs(correlation / deviations).max() < stats.norm.isf(FALSE_ALARM / 2 / 256)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1 / 256, 0.1, 0.5, 0.9, 0.999])
def test_elements_are_kept_at_the_rate_and_apart_from_their_group(many, rate):
    """Exact binomial bounds for 2^26 elements, and for the pairs and quadruples of a hash."""
    count = round(2**16 * (1 - rate))
    kept, chance = many < count, count / 2**16
    pairs = [kept[:, a] & kept[:, b] for a, b in itertools.combinations(range(4), 2)]
    events = [(kept, chance), (~kept.any(1), (1 - chance) ** 4), (kept.all(1), chance**4)]
    for event, probability in [*events, *((pair, chance**2) for pair in pairs)]:
        low, high = stats.binom.interval(1 - FALSE_ALARM, event.size, probability)
        assert low <= event.sum() <= high


SHAPE, TILE = (64, 1024), (16, 512)


def kernel(words, u):
    """Writes the draws of a tile, from a hash for each group; the kernel knows its place."""
    start = tuple((pl.program_id(a) * n).astype(np.uint32) for a, n in enumerate(TILE))
    words = words[0], words[1]
    bases = positions(jnp.zeros((TILE[0], 128), bool), start, SHAPE)
    for d, draws in enumerate(draws_of_groups(words, *bases)):
        u[:, d * 128 : (d + 1) * 128] = draws


def other_kernel(words, u):
    """Writes the draws of a tile, from a hash for each element."""
    start = tuple((pl.program_id(a) * n).astype(np.uint32) for a, n in enumerate(TILE))
    u[...] = draws_of_elements((words[0], words[1]), jnp.zeros(TILE, bool), start, SHAPE)


KERNELS = [kernel, other_kernel]


def in_a_kernel(body, words, interpret):
    from jax.experimental.pallas import tpu

    return pl.pallas_call(
        body,
        grid=tuple(whole // part for whole, part in zip(SHAPE, TILE, strict=True)),
        out_shape=jax.ShapeDtypeStruct(SHAPE, np.uint32),
        in_specs=[pl.BlockSpec(memory_space=tpu.SMEM)],
        out_specs=pl.BlockSpec(TILE, lambda i, j: (i, j)),
        interpret=interpret,
    )(words)


@pytest.mark.parametrize("body", KERNELS)
def test_in_the_body_of_a_pallas_kernel(body):
    expected = draws_of_elements(WORDS, jnp.zeros(SHAPE), None, SHAPE)
    np.testing.assert_array_equal(in_a_kernel(body, WORDS, interpret=True), expected)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_in_a_kernel_compiled_for_a_tpu():
    """Runs in its own process, since libtpu takes control of the process."""
    code = """
        import jax, numpy as np
        jax.config.update("jax_platforms", "cpu")
        from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
        from experiments.tpu import topologies
        from tests.random.test_groups import KERNELS, in_a_kernel

        chip = Mesh(topologies.mesh("v5e:2x2").devices[:1], ("data",))
        words = jax.ShapeDtypeStruct((2,), np.uint32, sharding=NamedSharding(chip, P()))
        for body in KERNELS:
            f = jax.jit(lambda words: in_a_kernel(body, words, interpret=False))
            print("tpu_custom_call" in f.lower(words).compile().as_text())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True"] * len(KERNELS)
