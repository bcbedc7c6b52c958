"""Every regularizer with every axis of its input sharded: equal to one device, at a known cost.

`ROWS` has one row for each program; test_programs.py shows that the others, and the modules, have
the same programs on meshes of explicit axes. Layers have rows of their own in recurrent/ and
attention/.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_spatialdrop as fs
from flax_spatialdrop import dropout, fast_key, sample_mask
from flax_spatialdrop._compat import CAN_DRAW_SHARDED
from flax_spatialdrop.linen import Dropout, drop_in

from .sharded import (
    KEY,
    MODES,
    Row,
    assert_close,
    assert_same_on_devices,
    assert_sharded_as,
    mesh_of,
    put,
)

SHAPE = (8, 16, 24)
SPECS = [P("d"), P(None, "d"), P(None, None, "d"), P()]
X = np.asarray(jax.random.normal(jax.random.key(0), SHAPE))


def normal(*shape):
    return np.asarray(jax.random.normal(jax.random.key(0), shape))


SEQUENCE, IMAGE, PICTURES = normal(16, 8, 8), normal(4, 16, 8, 4), normal(16, 8, 8, 2)
LENGTHS = np.arange(16, dtype=np.int32) % 9
IDS = np.asarray(jax.random.randint(jax.random.key(1), (16, 8), 0, 8), np.int32)
TABLE = normal(8, 4)
PATCHES = np.stack([np.sort(row) for row in np.argsort(normal(16, 8))[:, :4]]).astype(np.int32)
SUM, TWO_SUMS, GATHER = {"all-reduce": 1}, {"all-reduce": 2}, {"all-gather": 1}


def call(function, rate=0.3, **options):
    return lambda key, x: function(key, x, rate, **options)


def of_noise(name, function, *axes, x=SEQUENCE, **options):
    """A row of a regularizer that shares no draw along these axes."""
    noise_shape = tuple(None if axis in axes else 1 for axis in range(x.ndim))
    f = call(function, noise_shape=noise_shape, **options)
    return Row(f"{name}{list(axes)}", f, x, split=dict.fromkeys(axes, 0.5))


HALO = {"collective-permute": 6}  # for the forward pass; the gradient sends nothing


def of_blocks(name, **options):
    """A row of DropBlock, which draws some seeds on two devices."""
    f = call(fs.drop_block, **{"block_size": (3, 2)} | options)
    sent = {("auto", 1): HALO, ("auto", 2): HALO}
    split = {0: 0.5, 1: 10 / 14, 2: 5 / 7, 3: 0.5}
    return Row(f"drop_block{name}", f, IMAGE, sent=sent, split=split)


def with_sums(row, *axes):
    """The row, with one sum over these axes more."""
    sent = {(mode, axis): row.sent.get((mode, axis), {}) | SUM for mode in MODES for axis in axes}
    return dataclasses.replace(row, sent={**row.sent, **sent})


def with_fast_key(row, per_hash=1):
    f = row.f
    name = f"fast {row.name}"
    fast = dataclasses.replace(row, name=name, f=lambda key, *args: f(fast_key(key), *args))
    return dataclasses.replace(fast, per_hash=per_hash)


def condition(key, x, labels, joint=True):
    inputs, null = {"text": x, "labels": labels}, {"text": 0.0, "labels": 9}
    return fs.condition_dropout(key, inputs, 0.5, null=null, joint=joint)


def modality(key, x, other, keep_one=True):
    return fs.modality_dropout(key, {"a": x, "b": other}, 0.5, keep_one=keep_one)


def residual(mode, **options):
    return lambda key, x: fs.residual_drop_path(key, x, jnp.sin, 0.5, mode=mode, **options)


SPANS = {"max_time_width": 5, "max_freq_width": 5}
FIRST = {0: 0.5}

ROWS = [
    of_noise("dropout", dropout, 0, 1, 2),
    of_noise("dropout", dropout, 0, 2),
    of_noise("dropout", dropout, 0, 1),
    of_noise("dropout", dropout, 0),
    of_noise("dropout", dropout, 2),
    of_noise("dropout", dropout),
    Row("dropout of nothing", call(dropout, 0.0), SEQUENCE),
    Row("dropout of everything", call(dropout, 1.0), SEQUENCE),
    with_fast_key(of_noise("dropout", dropout, 0, 1, 2)),
    with_fast_key(of_noise("dropout", dropout, 0, 2)),
    with_fast_key(of_noise("dropout of rows", dropout, 0, 1, 2, x=normal(8, 32, 8)), per_hash=4),
    with_fast_key(of_noise("dropout of lanes", dropout, 0, 1, 2, x=normal(8, 8, 512)), per_hash=4),
    of_noise("alpha_dropout", fs.alpha_dropout, 0, 1, 2),
    of_noise("alpha_dropout", fs.alpha_dropout, 0, 2),
    of_noise("gaussian_dropout", fs.gaussian_dropout, 0, 1, 2),
    of_noise("gaussian_dropout", fs.gaussian_dropout, 0, 2),
    Row("drop_path", call(fs.drop_path, scale=False), SEQUENCE, split=FIRST),
    Row("drop_connect", call(fs.drop_connect), SEQUENCE, split=dict.fromkeys(range(3), 0.5)),
    Row(
        "zoneout",
        lambda key, x: fs.zoneout(key, x, 0.5, previous=2 * x),
        SEQUENCE,
        split=dict.fromkeys(range(3), 0.5),
    ),
    of_blocks(""),
    of_blocks(" of a traced rate", rate=jnp.float32(0.3)),
    of_blocks(" unscaled", normalize=None),
    with_sums(of_blocks(" by sample", normalize="sample"), 1, 2, 3),
    with_sums(of_blocks(" by batch", normalize="batch"), 0, 1, 2, 3),
    Row(
        "cutout", call(fs.cutout, block_size=(2, 3), num_blocks=2), normal(16, 8, 8, 2), split=FIRST
    ),
    Row(
        "cutout with the mean",
        call(fs.cutout, block_size=(2, 3), fill="mean"),
        PICTURES,
        sent={1: TWO_SUMS, 2: TWO_SUMS},
        split=FIRST,
    ),
    Row("token_dropout", call(fs.token_dropout, mask_id=3), IDS, split={0: 0.5, 1: 0.5}),
    Row("embedding_dropout", call(fs.embedding_dropout), TABLE, split=FIRST),
    Row(
        "embedding_dropout of ids",
        lambda key, ids: fs.embedding_dropout(key, TABLE, 0.5, ids=ids),
        IDS,
    ),
    Row(
        "embedding_dropout per sample",
        lambda key, ids: fs.embedding_dropout(key, TABLE, 0.5, ids=ids, per_sample=True),
        IDS,
        split=FIRST,
    ),
    Row(
        "embedding_noise",
        lambda key, x, lengths: fs.embedding_noise(key, x, 5.0, lengths=lengths),
        SEQUENCE,
        (LENGTHS,),
        split=dict.fromkeys(range(3), 0.5),
    ),
    Row(
        "spec_augment",
        lambda key, x, lengths: fs.spec_augment(key, x, lengths=lengths, **SPANS),
        SEQUENCE,
        (LENGTHS,),
        split=FIRST,
    ),
    Row(
        "spec_augment with the mean",
        lambda key, x: fs.spec_augment(key, x, fill="mean", **SPANS),
        SEQUENCE,
        sent={1: TWO_SUMS, 2: TWO_SUMS},
        split=FIRST,
    ),
    Row(
        "span_mask",
        lambda key, lengths: fs.span_mask(key, lengths, 8, num=2, max_width=4),
        LENGTHS,
        split=FIRST,
    ),
    Row("condition_dropout", condition, SEQUENCE, (LENGTHS,), split=FIRST),
    Row(
        "condition_dropout of each",
        functools.partial(condition, joint=False),
        SEQUENCE,
        (LENGTHS,),
        split=FIRST,
    ),
    Row("modality_dropout", modality, SEQUENCE, (normal(16),), split=FIRST),
    Row(
        "modality_dropout, all or none",
        functools.partial(modality, keep_one=False),
        SEQUENCE,
        (normal(16),),
        split=FIRST,
    ),
    Row(
        "patch_dropout",
        lambda key, x: fs.patch_dropout(key, x, 0.5, num_prefix_tokens=0),
        SEQUENCE,
        sent={("auto", 1): SUM, ("explicit", 1): GATHER},
        split=FIRST,
        free=frozenset({1}),
    ),
    Row(
        "restore_patches",
        lambda key, x, patches: fs.restore_patches(x, patches, 8, fill=2.0),
        normal(16, 4, 8),
        (PATCHES,),
        sent={("auto", 1): SUM, ("explicit", 1): GATHER},
        free=frozenset({1}),
    ),
    Row(
        "patch_mask",
        lambda key, patches: fs.patch_mask(patches, 8),
        PATCHES,
        sent={1: SUM},
        free=frozenset({1}),
    ),
    Row("residual_drop_path", residual("row"), SEQUENCE, split=FIRST),
    Row("residual_drop_path of the batch", residual("batch"), SEQUENCE),
    Row("residual_drop_path of groups", residual("subset", groups=4), SEQUENCE, split=FIRST),
    Row(
        "residual_drop_path of all rows",
        residual("subset"),
        SEQUENCE,
        sent={("auto", 0): TWO_SUMS, ("explicit", 0): {"all-gather": 2}},
    ),
]
# The quick tests shard each axis in one mode, and each mode has every second axis of the table.
SINGLE = [
    pytest.param(
        row,
        mode,
        axis,
        id=f"{row.name}-{mode}-{axis}",
        marks=[pytest.mark.slow] * ((number + turn) % 2),
    )
    for number, (row, axis) in enumerate((row, axis) for row in ROWS for axis in row.axes)
    for turn, mode in enumerate(MODES)
]


@pytest.mark.parametrize(("row", "mode", "axis"), SINGLE)
def test_each_axis_on_two_devices(row, mode, axis):
    assert_same_on_devices(row, mode, one_axis(axis))


def one_axis(axis):
    return P(*[None] * axis, "a")


def two_axes(row):
    """Returns the ways to shard over a mesh of two axes."""
    pairs = [(i, j) for i in row.axes for j in row.axes if i < j]
    over_one = [i for i in row.axes if row.x.shape[i] % 4 == 0]
    return [P(*[{i: "a", j: "b"}.get(axis) for axis in range(j + 1)]) for i, j in pairs] + [
        P(*[None] * i, ("a", "b")) for i in over_one
    ]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_two_axes_on_four_devices(row):
    assert_same_on_devices(row, "explicit", two_axes(row)[0])


PAIRS = [
    (row, mode, spec)
    for row in ROWS
    for mode in MODES
    # The test above has the first one.
    for spec in two_axes(row)[mode == "explicit" :]
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "mode", "spec"), PAIRS, ids=[f"{r.name}-{m}-{s}" for r, m, s in PAIRS]
)
def test_all_other_two_axes_on_four_devices(row, mode, spec):
    assert_same_on_devices(row, mode, spec)


def test_blocks_on_devices_that_are_not_at_an_edge():
    """Two devices share an axis of the other tests, so each of them is at an edge of the map."""
    row, mesh = of_blocks(""), mesh_of("explicit", 4)
    with jax.set_mesh(mesh):
        found = row.f(clone(KEY), *put(row, mesh, one_axis(1)))
    assert_close(found, row.on_one_device[0][0], row.tolerance)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_without_jit(row):
    """Eagerly, each operation is a program of its own, and its result has a sharding."""
    axis = row.axes[-1]
    mesh = mesh_of("explicit", 2)
    with jax.set_mesh(mesh):
        x, *others = put(row, mesh, one_axis(axis))
        found = row.f(clone(KEY), x, *others)
    assert_close(found, row.on_one_device[0][0], row.tolerance)
    if axis not in row.free:
        assert_sharded_as(x, found)


def is_on_mesh(x):
    return AxisType.Explicit in jax.typeof(x).sharding.mesh.axis_types


def another_mask(key, x):
    return dropout(jax.random.fold_in(key, int(is_on_mesh(x))), x, 0.5)


def another_sharding(key, x):
    y = dropout(key, x, 0.5)
    return jax.sharding.reshard(y, P()) if is_on_mesh(x) else y


def a_sum(key, x):
    return dropout(key, x, 0.5) + 1e-9 * x.sum(0, keepdims=True)


def a_whole_mask(key, x):
    return fs.apply_mask(x, sample_mask(key, 0.5, x.shape), 0.5)


FAULTS = {
    another_mask: "Not equal to tolerance",
    another_sharding: "is sharded by",
    a_sum: "sends",
    a_whole_mask: "draws",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_would_be_seen(fault):
    if fault is a_whole_mask and not CAN_DRAW_SHARDED:
        pytest.skip("JAX before 0.10 draws whole masks")
    row = Row("broken", fault, SEQUENCE, split=FIRST)
    with pytest.raises(AssertionError, match=FAULTS[fault]):
        assert_same_on_devices(row, "explicit", P("a"))


@pytest.mark.parametrize("spec", SPECS[:3], ids=str)
def test_modules_take_explicitly_sharded_input_where_flax_s_own_fails(spec):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Explicit,))
    layer = Dropout(0.3, broadcast_dims=(1,), deterministic=False)
    with jax.set_mesh(mesh):
        x = jax.device_put(X, NamedSharding(mesh, spec))
        theirs = nn.Dropout(0.3, broadcast_dims=(1,), deterministic=False)
        with pytest.raises(Exception, match=r"[Ss]harding"):
            theirs.apply({}, x, rngs={"dropout": clone(KEY)})
        y = layer.apply({}, x, rngs={"dropout": clone(KEY)})
        assert y.sharding.is_equivalent_to(x.sharding, x.ndim)
        with drop_in():  # inside, Flax's layer keeps the sharding too
            again = theirs.apply({}, x, rngs={"dropout": clone(KEY)})
        assert again.sharding.is_equivalent_to(x.sharding, x.ndim)
    np.testing.assert_array_equal(y, layer.apply({}, X, rngs={"dropout": clone(KEY)}))
    np.testing.assert_array_equal(again, y)


def test_a_mask_drawn_in_parts_on_all_devices_is_the_same_mask():
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    draw = jax.jit(
        lambda key: sample_mask(key, 0.3, SHAPE), out_shardings=NamedSharding(mesh, P(None, "d"))
    )
    np.testing.assert_array_equal(draw(clone(KEY)), sample_mask(clone(KEY), 0.3, SHAPE))


@pytest.mark.parametrize("noise_shape", [None, (None, 1, None)], ids=str)
@pytest.mark.parametrize("make", [lambda key: key, fast_key], ids=["key", "fast_key"])
def test_same_values_inside_shard_map(noise_shape, make):
    """A key that is the same on every device draws the same mask on every device."""
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    f = jax.shard_map(
        lambda key, x: dropout(key, x, 0.5, noise_shape=noise_shape),
        mesh=mesh,
        in_specs=(P(), P("d")),
        out_specs=P("d"),
    )
    y = np.asarray(jax.jit(f)(make(clone(KEY)), jnp.ones((8, 32, 24))))
    one = dropout(make(clone(KEY)), jnp.ones((1, 32, 24)), 0.5, noise_shape=noise_shape)
    np.testing.assert_array_equal(y, np.repeat(one, 8, axis=0))
