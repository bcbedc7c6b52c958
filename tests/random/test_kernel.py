"""The kernel for TPUs: interpreted, lowered for TPUs, and compiled for them if libtpu is there."""

import importlib.util
import subprocess
import sys
import textwrap
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flax_spatialdrop import apply_mask, dropout, fast_key, sample_mask
from flax_spatialdrop._random import kernel
from flax_spatialdrop._random.mask import drawn_rate

KEY = jax.random.key(22)
SHAPE = (8, 64, 256)
X = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
KERNEL = "tpu_custom_call"


def drop(x, rate=0.25, key=KEY):
    return dropout(fast_key(clone(key)), x, rate)


def expected(x, rate=0.25, key=KEY):
    key = fast_key(clone(key))
    return apply_mask(x, sample_mask(clone(key), rate, x.shape), drawn_rate(key, rate))


def loss(x, key=KEY):
    return jnp.square(drop(x, key=key)).sum()


@pytest.fixture
def in_kernel(monkeypatch):
    """Runs the kernel on this machine, interpreted, in place of the fused operations."""
    interpreted = partial(kernel.by_kernel, interpret=True)
    monkeypatch.setattr(kernel, "_by_fusion", interpreted)
    monkeypatch.setattr(kernel, "by_kernel", interpreted)
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.usefixtures("in_kernel")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("shape", "rows"),
    [
        ((4, 3, 96, 128), 1152),  # groups of rows, in a block that is longer than x
        ((2, 32, 768), 64),  # two chunks along the lanes
        ((2, 2, 16, 1024), 64),  # groups of lanes
        ((16, 8192), 16),  # several groups of lanes in a chunk
        ((32, 65536), 32),  # several blocks along the lanes
        ((3, 100, 512), 100),  # an outer axis, since a register has 8 rows
    ],
    ids=str,
)
def test_the_kernel_draws_the_mask_of_its_key(shape, rows, dtype):
    assert kernel._view(shape, shape, jnp.dtype(dtype)).rows == rows
    x = jax.random.normal(clone(KEY), shape).astype(dtype)
    np.testing.assert_array_equal(drop(x), expected(x))
    dropped = jnp.where(sample_mask(fast_key(clone(KEY)), 0.25, shape), x, jnp.nan)
    np.testing.assert_array_equal(drop(dropped), expected(x))


@pytest.mark.usefixtures("in_kernel")
@pytest.mark.parametrize("rate", [0.1, 0.9, jnp.float32(0.1), jnp.float32(jnp.nan), jnp.float32(1)])
def test_the_kernel_at_other_rates(rate):
    scheduled = jax.jit(drop)(X, rate)
    np.testing.assert_array_equal(scheduled, drop(X, rate))
    np.testing.assert_array_equal(scheduled, expected(X, rate))


@pytest.mark.parametrize(
    ("shape", "dtype", "fits"),
    [
        ((64, 256), "float32", True),
        ((64, 256), "bfloat16", True),
        ((64, 256), "float16", False),
        ((64, 256), "complex64", False),
        ((16, 256), "float32", False),  # too small
        ((16, 37 * 512), "float32", False),  # the divisors of the lanes leave small blocks
        ((64, 320), "float32", False),  # the lanes are no multiple of a register's
        ((60, 256), "float32", False),  # neither rows nor lanes have groups
        ((60, 512), "float32", True),
        ((4096, 1, 512), "float32", False),  # a register of 8 rows would hold one
        ((2**15,), "float32", False),  # no rows
        ((0, 64, 256), "float32", False),
        ((2**11, 2**10, 2**11), "bfloat16", True),
        ((2**11, 2**10, 2**12), "bfloat16", False),  # the kernel counts to 2^32
    ],
    ids=str,
)
def test_which_inputs_have_a_kernel(shape, dtype, fits):
    x = jax.ShapeDtypeStruct(shape, dtype)
    assert kernel.has_kernel(fast_key(clone(KEY)), x) == fits
    assert not kernel.has_kernel(KEY, x)
    if x.size < 2**20:
        text = jax.jit(drop).trace(x).lower(lowering_platforms=("tpu",)).as_text()
        assert (KERNEL in text) == fits


@pytest.mark.usefixtures("in_kernel")
def test_the_kernel_under_transformations():
    y, keys = expected(X), jax.random.split(clone(KEY), 3)
    slope = np.where(y == 0, 0, np.float32(4 / 3))
    np.testing.assert_allclose(jax.grad(loss)(X), 2 * y * slope, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(jax.checkpoint(loss))(X), 2 * y * slope, rtol=1e-6)
    value, tangent = jax.jvp(drop, (X,), (2 * X,))
    np.testing.assert_array_equal(value, y)
    np.testing.assert_array_equal(tangent, 2 * y)
    curvature = jax.hessian(lambda s: loss(s * X))(np.float32(1))
    np.testing.assert_allclose(curvature, 2 * np.square(y).sum(), rtol=1e-5)

    by_key = jax.vmap(lambda key: drop(X, key=key))
    each = np.stack([expected(X, key=key) for key in keys])
    np.testing.assert_array_equal(by_key(keys), each)
    outputs = jax.lax.scan(lambda x, key: (x, drop(x, key=key)), X, keys)[1]
    np.testing.assert_array_equal(outputs, each)
    by_sample = jax.vmap(lambda x: drop(x, key=keys[1]), 1, 1)
    two = np.stack([X, 2 * X], 1)
    np.testing.assert_array_equal(by_sample(two)[:, 1], 2 * each[1])
    both = jax.vmap(lambda x: jax.vmap(lambda key: drop(x, key=key))(keys))(two.swapaxes(0, 1))
    np.testing.assert_array_equal(both[1], 2 * each)
    d_x = jax.grad(lambda x: jax.vmap(lambda key: loss(x, key))(keys).sum())(X)
    np.testing.assert_allclose(d_x, 2 * (each * (each != 0)).sum(0) * 4 / 3, rtol=1e-5)
    by_rate = jax.vmap(lambda rate: drop(X, rate))(jnp.array([0.25, 0.5], np.float32))
    np.testing.assert_array_equal(by_rate[1], expected(X, jnp.float32(0.5)))
    with jax.disable_jit():
        np.testing.assert_array_equal(drop(X), y)


def test_the_gradient_keeps_the_key_only():
    kept = jax.eval_shape(lambda x: jax.vjp(drop, x)[1], X)
    assert sum(leaf.size for leaf in jax.tree.leaves(kept)) <= 4  # words, threshold and scale
    assert "name=flax_spatialdrop" in str(jax.make_jaxpr(drop)(X))


def mesh_of(mode):
    return jax.make_mesh((4, 2), ("a", "b"), axis_types=(mode,) * 2)


def placed(mode, spec, f=drop):
    """Returns f(x) on a mesh of 4 x 2 devices."""
    mesh = mesh_of(mode)
    x = jax.device_put(X, NamedSharding(mesh, spec))
    with jax.set_mesh(mesh):
        return jax.jit(f)(x)


SPECS = [
    P(),
    P("a"),
    P(None, "b"),
    P(("b", "a")),
    P("b", None, "a"),
    P("a", "b"),
    P(None, None, "b"),
]


@pytest.mark.usefixtures("in_kernel")
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_each_device_draws_its_part_of_the_whole_mask(spec, monkeypatch):
    monkeypatch.setattr(kernel, "_LEAST", 2**10)
    monkeypatch.setattr(kernel, "_by_fusion", kernel._by_shards)
    sharding = NamedSharding(mesh_of(AxisType.Explicit), spec)
    if kernel._view(sharding.shard_shape(SHAPE), SHAPE, X.dtype) is None:
        pytest.skip("no whole groups in a part")
    y = placed(AxisType.Explicit, spec)
    assert y.sharding.spec == P(*spec, *[None] * (3 - len(spec)))
    np.testing.assert_array_equal(y, expected(X))
    gradient = placed(AxisType.Explicit, spec, jax.grad(loss))
    np.testing.assert_allclose(gradient, 2 * y * np.where(y == 0, 0, np.float32(4 / 3)), rtol=1e-6)


def lowered(f, spec, mode):
    """Returns the text of f(x) for 8 TPUs, before it is compiled."""
    mesh = mesh_of(mode)
    x = jax.ShapeDtypeStruct((16, 64, 512), np.float32, sharding=NamedSharding(mesh, spec))
    with jax.set_mesh(mesh):
        return jax.jit(f).trace(x).lower(lowering_platforms=("tpu",)).as_text()


def mapped(axes):
    return lambda x: jax.shard_map(drop, in_specs=P("a"), out_specs=P("a"), axis_names=axes)(x)


@pytest.mark.parametrize(
    ("f", "spec", "mode", "has_kernel"),
    [
        (drop, P("a"), AxisType.Auto, False),  # XLA does not partition kernels
        (drop, P("a"), AxisType.Explicit, True),
        (drop, P("a", "b"), AxisType.Explicit, True),
        (drop, P(None, None, "b"), AxisType.Explicit, False),  # parts of 256 lanes split groups
        (mapped({"a", "b"}), P("a"), AxisType.Auto, True),
        (mapped({"a"}), P("a"), AxisType.Auto, False),  # XLA decides about the other axis
        (jax.grad(loss), P("a"), AxisType.Explicit, True),
    ],
)
def test_which_programs_for_several_tpus_have_a_kernel(f, spec, mode, has_kernel):
    assert (KERNEL in lowered(f, spec, mode)) == has_kernel


def test_an_axis_of_the_mesh_with_one_device():
    """Its stride is 2^32."""
    mesh = jax.make_mesh((1, 2), ("a", "b"), axis_types=(AxisType.Explicit,) * 2)
    sharding = NamedSharding(mesh, P("a", "b"))
    x = jax.ShapeDtypeStruct((2**11, 2**10, 2**11), jnp.bfloat16, sharding=sharding)
    with jax.set_mesh(mesh):
        assert KERNEL in jax.jit(drop).trace(x).lower(lowering_platforms=("tpu",)).as_text()


def printed(code):
    """Runs code in its own process, since libtpu takes control of the process."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


@needs_libtpu
@pytest.mark.parametrize(
    ("topology", "most"), [("v5e:2x2", 1.1), ("v6e:2x2", 1.7), ("v5p:2x2x1", 1.45)]
)
def test_compiled_for_a_tpu_the_kernel_takes_little_more_than_a_copy(topology, most, tmp_path):
    code = f"""
        import jax, jax.numpy as jnp
        from pathlib import Path
        jax.config.update("jax_platforms", "cpu")
        from jax.sharding import SingleDeviceSharding
        from experiments.tpu import schedule, topologies
        from flax_spatialdrop import dropout, fast_key

        schedules = Path("{tmp_path}")
        chip = topologies.chips("{topology}", schedules)[0]
        key = jax.eval_shape(lambda: jax.random.key(0))
        layer = lambda key, x: dropout(fast_key(key), x, 0.1)
        pullback = lambda key, x: jax.vjp(lambda x: layer(key, x), x)[1](x)[0]
        peak = topologies.peak("{topology}")
        for f in layer, pullback:
            x = jax.ShapeDtypeStruct((32, 64, 64, 128), jnp.bfloat16)
            args = jax.tree.map(lambda a: a.update(sharding=SingleDeviceSharding(chip)), (key, x))
            program = jax.jit(f).lower(*args).compile()
            found = schedule.read(program.as_text(), schedule.counts(schedules), peak)
            assert not found.gap, found
            moved = program.memory_analysis().argument_size_in_bytes * 2 / peak.bytes_a_cycle
            print(found.cycles / moved, program.memory_analysis().temp_size_in_bytes)
            for path in schedules.iterdir():
                path.unlink()
    """
    for line in printed(code):
        ratio, scratch = line.split()
        assert 0.9 < float(ratio) < most
        assert int(scratch) < 2**20  # x is not copied


@needs_libtpu
def test_compiled_for_a_tpu_other_shapes_have_kernels_without_copies():
    code = """
        import jax, jax.numpy as jnp
        jax.config.update("jax_platforms", "cpu")
        from jax.sharding import SingleDeviceSharding
        from experiments.tpu import topologies
        from flax_spatialdrop import dropout, fast_key

        def drop(key, x):
            return dropout(fast_key(key), x, 0.1)

        def each(key, x):
            return jax.vmap(drop)(jax.random.split(key, len(x)), x)

        where = SingleDeviceSharding(topologies.chips("v5e:2x2")[0])
        key = jax.eval_shape(lambda: jax.random.key(0)).update(sharding=where)
        for dtype in jnp.float32, jnp.bfloat16:
            for f, shape in [
                (drop, (4, 3, 96, 128)),
                (drop, (2, 32, 768)),
                (drop, (16, 8192)),
                (drop, (32, 65536)),
                (drop, (3, 100, 512)),
                (each, (3, 64, 256)),
            ]:
                x = jax.ShapeDtypeStruct(shape, dtype, sharding=where)
                program = jax.jit(f).lower(key, x).compile()
                kernels = program.as_text().count('custom_call_target="tpu_custom_call"')
                scratch = program.memory_analysis().temp_size_in_bytes
                print(kernels, scratch >= x.size * x.dtype.itemsize)  # x is copied
    """
    assert printed(code) == ["1 False"] * 12


@needs_libtpu
def test_compiled_for_16_tpus_nothing_is_sent():
    code = """
        import jax, jax.numpy as jnp, numpy as np
        jax.config.update("jax_platforms", "cpu")
        from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
        from experiments.tpu import hlo, topologies
        from flax_spatialdrop import dropout, fast_key

        def drop(key, x):
            return dropout(fast_key(key), x, 0.1)

        def mapped(key, x):
            return jax.shard_map(drop, in_specs=(P(), P("a")), out_specs=P("a"))(key, x)

        chips = np.array(topologies.chips("v5e:4x4")).reshape(4, 4)
        for f, mode, spec, shape in [
            (drop, AxisType.Auto, P("a"), (16, 64, 512)),
            (drop, AxisType.Explicit, P("a", "b"), (16, 256, 512)),
            (drop, AxisType.Explicit, P("a", None, "b"), (16, 100, 2048)),
            (mapped, AxisType.Auto, P("a"), (16, 64, 512)),
        ]:
            mesh = Mesh(chips, ("a", "b"), axis_types=(mode,) * 2)
            key = jax.eval_shape(lambda: jax.random.key(0))
            with jax.set_mesh(mesh):
                x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, spec))
                key = key.update(sharding=NamedSharding(mesh, P()))
                text = jax.jit(f).lower(key, x).compile().as_text()
            print(text.count('custom_call_target="tpu_custom_call"'), *hlo.collectives(text))
    """
    assert printed(code) == ["0", "1", "1", "1"]
