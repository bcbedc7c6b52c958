"""Recurrent layers on several devices equal those on one, and send only what they must."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.random import clone
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import flax_spatialdrop.nnx
from flax_spatialdrop.linen import GRU, LSTM, RNN, Bidirectional

from ..hlo import collectives, shapes
from ..sharded import KEY, MODES, Row, assert_close, assert_same_on_devices, mesh_of

OPTIONS = {"dropout": 0.5, "recurrent_dropout": 0.25, "deterministic": False}
LAYERS = {
    "LSTM": lambda **more: LSTM(7, **OPTIONS, **more),
    "GRU": lambda **more: GRU(7, **OPTIONS, **more),
    "per gate": lambda **more: LSTM(7, **OPTIONS, per_gate=True, **more),
    "no memory loss": lambda **more: GRU(7, **OPTIONS, variant="no_memory_loss", **more),
    "zoneout": lambda **more: LSTM(7, **OPTIONS, variant="zoneout", **more),
    "any cell": lambda **more: RNN(nn.GRUCell(7), **OPTIONS, **more),
}
X = np.asarray(jax.random.normal(jax.random.key(0), (16, 6, 4)))


# Each layer, each kind of mesh and each order of axes, but not all of their combinations, since
# each of these is handled in a place of its own.
@pytest.mark.parametrize(
    ("name", "time_major", "mode"),
    [
        ("LSTM", False, "auto"),
        ("LSTM", True, "explicit"),
        ("GRU", False, "explicit"),
        ("per gate", False, "explicit"),
        ("no memory loss", False, "explicit"),
        ("zoneout", True, "explicit"),
        ("any cell", True, "explicit"),
    ],
)
def test_gradients_of_weights_on_a_sharded_batch(name, time_major, mode):
    layer = LAYERS[name](time_major=time_major)
    x = X.swapaxes(0, 1) if time_major else X
    keys = dict(zip(("params", "dropout"), jax.random.split(jax.random.key(1)), strict=True))
    params = layer.init(keys, x)
    lengths = np.arange(16) % 6 + 1

    @jax.jit
    def gradients(params, x):
        def loss(params, x):
            rngs = {"dropout": jax.random.key(2)}
            return (layer.apply(params, x, rngs=rngs, seq_lengths=lengths) ** 2).sum()

        return jax.grad(loss, argnums=(0, 1))(params, x)

    expected = gradients(params, x)
    mesh = mesh_of(mode, 4)
    with jax.set_mesh(mesh):
        x = jax.device_put(x, NamedSharding(mesh, P(None, "a") if time_major else P("a")))
        params = jax.device_put(params, NamedSharding(mesh, P()))
        program = gradients.lower(params, x).compile()
        found = program(params, x)
    assert found[1].sharding.is_equivalent_to(x.sharding, x.ndim)
    assert_close(found, expected, 1e-4)
    assert set(collectives(program.as_text())) == {"all-reduce"}
    assert jnp.isfinite(found[1]).all()


@pytest.mark.parametrize("platform", ["tpu", "default"])
def test_no_device_holds_the_whole_batch_on_accelerators(platform, monkeypatch):
    layer = Bidirectional(GRU(7, **OPTIONS))
    batch = 4 * 13  # a size that nothing else in the program has
    x = jax.random.normal(jax.random.key(0), (batch, 19, 4))
    keys = dict(zip(("params", "dropout"), jax.random.split(jax.random.key(1)), strict=True))
    params, lengths = layer.init(keys, x), jnp.arange(batch) % 19 + 1

    def gradients(params, x, lengths):
        def loss(params):
            rngs = {"dropout": jax.random.key(2)}
            return (layer.apply(params, x, rngs=rngs, seq_lengths=lengths) ** 2).sum()

        return jax.grad(loss)(params)

    expected = jax.jit(gradients)(params, x, lengths)
    called = []

    def take_branch(*, cpu, default, **others):
        called.append({"default": default, **others}[platform])
        return called[-1]()

    monkeypatch.setattr(jax.lax, "platform_dependent", take_branch)
    mesh = mesh_of("auto", 4)
    with jax.set_mesh(mesh):
        x, lengths = jax.device_put((x, lengths), NamedSharding(mesh, P("a")))
        program = jax.jit(gradients).lower(params, x, lengths).compile()
        found = program(params, x, lengths)
    assert called
    assert_close(found, expected, 1e-4)
    assert set(collectives(program.as_text())) == {"all-reduce"}
    assert batch not in {size for shape in shapes(program.as_text()) for size in shape}


def linen_row(name, layer, **options):
    params = layer.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, X)

    def f(key, x):
        return layer.apply(params, x, rngs={"dropout": key})

    return row_of(name, f, **options)


def nnx_row(name, layer, **options):
    graph, state = nnx.split(layer)
    return row_of(name, lambda key, x: nnx.merge(graph, state)(x, rngs=key), **options)


def row_of(name, f, both=1, split_features=0.5):
    """A row of a layer; a loop over time needs all steps, and a product sums over features."""
    gathered = {"all-gather": 1 + both, "collective-permute": both}
    sent = {1: gathered, 2: {"all-reduce": both}}
    split = {0: 0.5, 2: split_features}
    return Row(name, f, X, sent=sent, split=split, free=frozenset({1, 2}), tolerance=1e-5)


# The larger mask is that of the state where the features are not divided.
ROWS = [
    *(
        linen_row(name, make(), split_features=1)
        for name, make in LAYERS.items()
        if name in ("LSTM", "zoneout", "any cell")
    ),
    linen_row("Bidirectional", Bidirectional(LAYERS["GRU"]()), both=2, split_features=1),
    nnx_row(
        "GRU of NNX",
        flax_spatialdrop.nnx.GRU(4, 7, dropout=0.5, recurrent_dropout=0.25, rngs=nnx.Rngs(0)),
        split_features=1,
    ),
]
CASES = [(row, mode, axis) for row in ROWS for mode in MODES for axis in row.axes]


@pytest.mark.parametrize(
    ("row", "mode", "axis"), CASES, ids=[f"{r.name}-{m}-{a}" for r, m, a in CASES]
)
def test_each_axis_on_two_devices(row, mode, axis):
    assert_same_on_devices(row, mode, P(*[None] * axis, "a"))


def test_outputs_keep_a_sharded_time_axis():
    """On a mesh of explicit axes; elsewhere XLA chooses."""
    row, mesh = ROWS[0], mesh_of("explicit", 2, 2)
    with jax.set_mesh(mesh):
        x = jax.device_put(X, NamedSharding(mesh, P("a", "b")))
        y = jax.jit(row.f)(clone(KEY), x)
    assert y.sharding.is_equivalent_to(x.sharding, 3)
    assert_close(y, row.on_one_device[0][0], row.tolerance)
