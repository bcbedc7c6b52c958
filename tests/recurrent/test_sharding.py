"""Recurrent layers on 8 devices equal those on one; only gradients of weights communicate."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flax_spatialdrop.linen import GRU, LSTM, RNN

MODES = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
OPTIONS = {"dropout": 0.5, "recurrent_dropout": 0.25, "deterministic": False}
LAYERS = {
    "LSTM": lambda **more: LSTM(7, **OPTIONS, **more),
    "GRU": lambda **more: GRU(7, **OPTIONS, **more),
    "per gate": lambda **more: LSTM(7, **OPTIONS, per_gate=True, **more),
    "no memory loss": lambda **more: GRU(7, **OPTIONS, variant="no_memory_loss", **more),
    "zoneout": lambda **more: LSTM(7, **OPTIONS, variant="zoneout", **more),
    "any cell": lambda **more: RNN(nn.GRUCell(7), **OPTIONS, **more),
}


# Each layer, each kind of mesh and each order of axes, but not all of their combinations, since
# each of these is handled in a place of its own.
CASES = [
    ("LSTM", False, "auto"),
    ("LSTM", True, "explicit"),
    ("GRU", False, "explicit"),
    ("GRU", True, "auto"),
    ("per gate", False, "explicit"),
    ("no memory loss", False, "explicit"),
    ("zoneout", False, "auto"),
    ("zoneout", True, "explicit"),
    ("any cell", True, "auto"),  # Flax's cells do not take explicitly sharded inputs
]


@pytest.mark.parametrize(("name", "time_major", "mode"), CASES)
def test_as_on_one_device(name, time_major, mode):
    layer = LAYERS[name](time_major=time_major)
    x = jax.random.normal(jax.random.key(0), (19, 16, 5) if time_major else (16, 19, 5))
    keys = dict(zip(("params", "dropout"), jax.random.split(jax.random.key(1)), strict=True))
    params = layer.init(keys, x)
    lengths = np.arange(16) + 2

    @jax.jit
    def gradients(params, x):
        def loss(params, x):
            rngs = {"dropout": jax.random.key(2)}
            return (layer.apply(params, x, rngs=rngs, seq_lengths=lengths) ** 2).sum()

        return jax.grad(loss, argnums=(0, 1))(params, x)

    expected = gradients(params, x)
    mesh = jax.make_mesh((8,), ("d",), axis_types=(MODES[mode],))
    with jax.set_mesh(mesh):
        x = jax.device_put(x, NamedSharding(mesh, P(None, "d") if time_major else P("d")))
        params = jax.device_put(params, NamedSharding(mesh, P()))
        program = gradients.lower(params, x).compile()
        found = program(params, x)
    assert found[1].sharding.is_equivalent_to(x.sharding, x.ndim)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected
    )
    text = program.as_text()
    moved = ("all-gather", "all-to-all", "collective-permute", "reduce-scatter")
    assert not re.findall(rf"\b(?:{'|'.join(moved)})(?:-start)?\(", text)
    assert jnp.isfinite(found[1]).all()
