"""Every mechanism in a shard_map that checks replication (`check_vma`), with a key of each shard.

The mesh has an axis over which the batch is split, and one over which all is replicated. Outputs
and gradients are those of each shard alone, and their types say along which axes they vary.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import flax_spatialdrop as fs
import flax_spatialdrop.linen
from flax_spatialdrop._compat import varying_axes

from .catalogue import FIRST_OF_EACH

KEY = jax.random.key(6)
MESH = jax.make_mesh((2, 2), ("data", "model"), (AxisType.Auto,) * 2, devices=jax.devices()[:4])
W = jax.random.normal(jax.random.key(1), (6, 6))


@dataclasses.dataclass
class Case:
    f: Callable[[Any, Any], Any]
    shape: tuple[int, ...] = (4, 8, 6)


def residual(**options):
    def f(key, x):
        return fs.residual_drop_path(key, x, lambda x: jnp.tanh(x @ W), 0.5, **options)

    return Case(f)


def attention(**options):
    attend = flax_spatialdrop.linen.blockwise_attention
    options = {"query_block_size": 4, "key_block_size": 4, "is_causal": True, **options}

    def f(key, x):
        return attend(x, 2 * x, x + 1, dropout_rng=key, dropout_rate=0.3, **options)

    return Case(f, (2, 8, 2, 3))


def modality(key, x):
    dropped, _ = fs.modality_dropout(key, {"image": x, "sound": 2 * x}, 0.5)
    return dropped["image"] + dropped["sound"]


CASES = {
    case.id: Case(partial(lambda f, key, x: f(key, x, 0.3), case.face()), case.shape)
    for case in FIRST_OF_EACH
    if case.kind.like is not fs.dropout or case.function is fs.dropout
} | {
    "shared, fast_key": Case(lambda key, x: fs.spatial_dropout_1d(fs.fast_key(key), x, 0.3)),
    "drop_block, batch": Case(
        lambda key, x: fs.drop_block(key, x, 0.3, block_size=(3,), normalize="batch")
    ),
    "mask_block": Case(
        lambda key, x: fs.apply_mask(
            x, fs.mask_block(key, 0.5, (4, 8, 9), (0, 0, 3), (4, 8, 6)), 0.5
        )
    ),
    "drop_connect": Case(lambda key, x: fs.drop_connect(key, {"kernel": x}, 0.5)["kernel"]),
    "patch_dropout": Case(lambda key, x: fs.patch_dropout(key, x, 0.5)[0]),
    "spec_augment": Case(
        lambda key, x: fs.spec_augment(key, x, max_time_width=3, max_freq_width=2, fill="mean")
    ),
    "embedding_noise": Case(lambda key, x: fs.embedding_noise(key, x, 5.0)),
    "modality_dropout": Case(modality),
    "residual, row": residual(),
    "residual, batch": residual(mode="batch"),
    "residual, subset": residual(mode="subset", groups=2),
    "attention, weights": attention(broadcast_dropout=False),
    "attention, spans": attention(broadcast_dropout=False, span=2),
    "attention, keys": attention(broadcast_dims=(-2,)),
}


def with_gradient(f):
    """Returns the output of f, and the gradient of half of the sum of its squares."""

    def both(key, x):
        y, pullback = jax.vjp(lambda x: f(key, x), x)
        return y, *pullback(y)

    return both


def in_each_shard(f, x, of_x):
    """Runs in a shard_map; `of_x` are the axes over which x is split."""

    def shard(key, x):
        y, dx = with_gradient(f)(fs.fold_in_axes(key, "data"), x)
        assert varying_axes(y) == {"data"}
        assert varying_axes(dx) == varying_axes(x)
        return y, dx

    specs = {"in_specs": (P(), of_x), "out_specs": (P("data"), of_x)}
    return jax.jit(jax.shard_map(shard, mesh=MESH, **specs))(clone(KEY), x)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_values_and_gradients_are_those_of_each_shard_alone(case):
    xs = jax.random.normal(jax.random.key(0), (2, *case.shape))
    alone = jax.jit(with_gradient(case.f))
    keys = [jax.random.fold_in(clone(KEY), i) for i in range(2)]
    y, dx = in_each_shard(case.f, jnp.concatenate(xs), P("data"))
    ys, dxs = zip(*map(alone, keys, xs), strict=True)
    np.testing.assert_allclose(y, jnp.concatenate(ys), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dx, jnp.concatenate(dxs), rtol=1e-5, atol=1e-5)


SHARED = ["dropout(3,4,5)", "patch_dropout", "residual, subset", "attention, weights"]


@pytest.mark.parametrize("case", [CASES[name] for name in SHARED], ids=SHARED)
def test_an_input_that_shards_share_has_the_sum_of_their_gradients(case):
    x = jax.random.normal(jax.random.key(0), case.shape)
    y, dx = in_each_shard(case.f, x, P())
    alone = jax.jit(with_gradient(case.f))
    ys, dxs = zip(*(alone(jax.random.fold_in(clone(KEY), i), x) for i in range(2)), strict=True)
    np.testing.assert_allclose(y, jnp.concatenate(ys), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dx, dxs[0] + dxs[1], rtol=1e-5, atol=1e-5)
    assert (ys[0] != ys[1]).any()
