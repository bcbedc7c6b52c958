"""Attention with every axis sharded equals attention on one device, at a known cost.

test_blockwise_transforms.py has meshes of three axes, biases, and keys that lie elsewhere.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import flax_spatialdrop.linen
import flax_spatialdrop.nnx

from ..sharded import MODES, Row, assert_same_on_devices

X = np.asarray(jax.random.normal(jax.random.key(0), (4, 8, 4, 8)))  # [batch, length, heads, depth]
# The keys and values come to all devices, and their gradients are sums over the queries. If the
# depth is sharded, an Auto mesh adds the products of its parts, and an Explicit mesh gathers it.
SENT = {
    1: {"all-gather": 2, "all-reduce": 1},
    ("auto", 1): {"all-gather": 2, "all-reduce": 1, "collective-permute": 2},  # halos of spans
    ("auto", 3): {"all-reduce": 3},
    ("explicit", 3): {"all-gather": 4},
}


def row_of(name, attention, split, **options):
    def f(key, x):
        query, value = x / 2, jnp.sin(x)
        given = {"dropout_rng": key, "dropout_rate": 0.5, "deterministic": False}
        return attention(query, x, value, **given, **options)

    split = dict.fromkeys(split, 0.5)
    return Row(name, f, X, sent=SENT, split=split, tolerance=2e-5)


OF_LINEN = flax_spatialdrop.linen.dot_product_attention
ROWS = [
    row_of("weights", OF_LINEN, (0, 1, 2), broadcast_dropout=False),
    row_of("queries share", OF_LINEN, (0, 2), broadcast_dims=(-2,)),
    row_of("keys share", OF_LINEN, (0, 1, 2), broadcast_dims=(-1,)),
    row_of("spans", OF_LINEN, (0,), noise_shape=(None, 1, 1, None), span=3),
    row_of("NNX", flax_spatialdrop.nnx.dot_product_attention, (1,), broadcast_dims=(0, 1)),
    row_of(
        "blockwise, queries share",
        flax_spatialdrop.linen.blockwise_attention,
        (0, 2),
        broadcast_dims=(-2,),
    ),
]
CASES = [
    (row, mode, axis)
    for row in ROWS
    for mode in MODES
    for axis in row.axes
    if (row.name.startswith("blockwise"), mode, axis) != (True, "auto", 1)  # its loop is gathered
]


@pytest.mark.parametrize(
    ("row", "mode", "axis"), CASES, ids=[f"{r.name}-{m}-{a}" for r, m, a in CASES]
)
def test_each_axis_on_two_devices(row, mode, axis):
    assert_same_on_devices(row, mode, P(*[None] * axis, "a"))
