"""Functions."""

from typing import assert_type

import jax
import jax.numpy as jnp
import numpy as np

import flax_spatialdrop as fsd

Params = dict[str, jax.Array]


def forward(key: jax.Array, x: jax.Array, rate: float | jax.Array) -> jax.Array:
    keys = iter(jax.random.split(key, 8))
    x = fsd.dropout(next(keys), x, rate, noise_shape=(None, 1, None))
    x = fsd.dropout(next(keys), x, rate, broadcast_dims=(-2,))
    x = fsd.spatial_dropout_1d(next(keys), x, rate, data_format="channels_last")
    x = fsd.spatial_dropout(next(keys), x, rate, batch_dims=1)
    x = fsd.drop_block(next(keys), x, rate, block_size=(3,), normalize="expected")
    x = fsd.drop_path(next(keys), x, rate, mode="batch", batch_axis=(0,))
    x = fsd.alpha_dropout(next(keys), x, 0.25)
    return fsd.residual_drop_path(next(keys), x, lambda x: x + x, 0.5)


def loss(params: Params, key: jax.Array, ids: jax.Array) -> jax.Array:
    words, rows, weights = jax.random.split(key, 3)
    ids = fsd.token_dropout(words, ids, 0.25, mask_id=0, special_ids=(1, 2), vocab_size=8)
    params = assert_type(fsd.drop_connect(weights, params, 0.5, paths="kernel"), Params)
    rows, noise = jax.random.split(rows)
    x = fsd.embedding_dropout(rows, params["table"], 0.25, ids=ids)
    x = fsd.embedding_noise(noise, x, 5.0, lengths=np.array([3, 2]))
    return (x @ params["kernel"]).mean()


def blocks(key: jax.Array, x: jax.Array, max_rate: float | jax.Array) -> jax.Array:
    for i, rate in enumerate(fsd.linear_rates(max_rate, 4, convention="timm")):
        x = fsd.sample_dropout(jax.random.fold_in(key, i), x, rate)
    return x


def recurrent_step(key: jax.Array, carry: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    candidate, state = jax.random.split(key)
    new = jnp.tanh(carry + fsd.recurrent_dropout(candidate, x, 0.25))
    carry = fsd.zoneout(state, new, 0.5, previous=carry)
    return carry, carry


def shard(key: jax.Array, x: jax.Array) -> jax.Array:
    key = assert_type(fsd.fold_in_axes(key, "data"), jax.Array)
    return fsd.dropout(fsd.fold_in_axes(key, ["model"]), x, 0.5)


def run() -> None:
    key, x = jax.random.key(0), jnp.ones((2, 4, 3))
    assert_type(forward(jax.random.key(1), x, 0.5), jax.Array)
    assert_type(
        fsd.gaussian_dropout(jax.random.key(2), np.ones((2, 3), np.float32), 0.5), jax.Array
    )
    mask = assert_type(fsd.sample_mask(jax.random.key(3), 0.5, (2, 1, 3)), jax.Array)
    assert_type(fsd.apply_mask(x, mask, 0.5), jax.Array)
    fsd.mask_block(fsd.fast_key(jax.random.key(4)), 0.5, (4, 4), (0, 2), (2, 2))
    assert_type(
        fsd.span_mask(jax.random.key(10), np.array([3, 4]), 4, num=1, max_width=2), jax.Array
    )
    assert_type(fsd.spec_augment(jax.random.key(11), x, max_time_width=2, fill="mean"), jax.Array)
    tokens, indices = fsd.patch_dropout(
        jax.random.key(5), jnp.ones((2, 5, 3)), 0.5, num_prefix_tokens=1
    )
    assert_type((tokens, indices), tuple[jax.Array, jax.Array])
    labels = fsd.condition_dropout(jax.random.key(10), indices, fsd.rate_of_each(0.1, 3), null=7)
    assert_type(labels, jax.Array)
    inputs, presence = fsd.modality_dropout(
        jax.random.key(11), {"audio": x, "image": x}, {"audio": 0.1, "image": jnp.asarray(0.2)}
    )
    assert_type((inputs, presence), tuple[dict[str, jax.Array], dict[str, jax.Array]])
    params = {"table": jnp.ones((8, 3)), "kernel": jnp.ones((3, 2))}
    jax.value_and_grad(loss)(params, jax.random.key(6), jnp.ones((2, 4), jnp.int32))
    result = fsd.monte_carlo(lambda key: fsd.dropout(key, x, 0.5), jax.random.key(7), 2)
    assert_type(result, fsd.MonteCarlo)
    assert_type(fsd.recurrent_masks(jax.random.key(8), 0.5, 2, 3, gates=4), jax.Array)
    recurrent_step(jax.random.key(9), x[:, 0], x[:, 1])
    blocks(key, x, jnp.asarray(0.5))
    jax.vmap(jax.vmap(shard, (None, 0), axis_name="model"), (None, 0), axis_name="data")(
        jax.random.key(12), x
    )
    assert_type(fsd.explain(x.shape, (None, 1, None)), str)


def mistakes(key: jax.Array, x: jax.Array) -> None:
    fsd.dropout(key, x, "0.5")  # type: ignore[arg-type]
    fsd.dropout(key, x, 0.5, (None, 1, None))  # type: ignore[call-arg]
    fsd.dropout(key, x, 0.5, keep_rate=0.5)  # type: ignore[call-arg]
    fsd.spatial_dropout_2d(key, x, 0.5, data_format="NCHW")  # type: ignore[arg-type]
    fsd.drop_path(key, x, 0.5, mode="rows")  # type: ignore[arg-type]
    fsd.fold_in_axes(key, 0)  # type: ignore[arg-type]
    fsd.spatial_dropout_4d(key, x, 0.5)  # type: ignore[attr-defined]
