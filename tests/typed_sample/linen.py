"""Linen models."""

from typing import Any, assert_type

import flax.linen as nn
import jax
import jax.numpy as jnp

from flax_spatialdrop import DropInReport, Summary, scale_rates, schedules
from flax_spatialdrop import linen as fsd


class Tagger(nn.Module):
    """Words to tags, by a network in both directions."""

    vocab_size: int
    rate: float = 0.25

    @nn.compact
    def __call__(self, ids: jax.Array, deterministic: bool, rate: float | None = None) -> jax.Array:
        ids = fsd.TokenDropout(0.1, mask_id=0)(ids, deterministic)
        x = nn.Embed(self.vocab_size, 8)(ids)
        x = fsd.SpatialDropout1D(self.rate)(x, deterministic=deterministic, rate=rate)
        x = fsd.LSTM(8, dropout=0.2, recurrent_dropout=0.2)(x, deterministic=deterministic)
        forward, backward = fsd.GRU(4, variant="zoneout"), fsd.GRU(4)
        x = fsd.Bidirectional(forward, backward)(x, deterministic=deterministic)
        return nn.Dense(4)(x)


class Block(nn.Module):
    """Attention and a residual branch."""

    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        attend = nn.MultiHeadDotProductAttention(
            num_heads=2,
            dropout_rate=0.25,
            deterministic=self.deterministic,
            attention_fn=fsd.dot_product_attention,
        )
        x = x + fsd.DropPath(0.25, mode="row", deterministic=self.deterministic)(attend(x))
        branch = nn.Sequential([nn.LayerNorm(), nn.Dense(8)])
        x = fsd.ResidualDropPath(branch, 0.5, deterministic=self.deterministic)(x)
        x = fsd.Dropout(0.5, broadcast_dims=(1,), deterministic=self.deterministic)(x)
        return fsd.Dropout(0.5, noise_shape=(None, 1, None), deterministic=self.deterministic)(x)


class Own(fsd.SpatialDropout2D):
    """A derived class with a field of its own."""

    note: str = ""


def loss(model: Tagger, params: Any, key: jax.Array, ids: jax.Array) -> jax.Array:
    logits = model.apply({"params": params}, ids, deterministic=False, rngs={"dropout": key})
    assert isinstance(logits, jax.Array)
    return logits.mean()


def run() -> None:
    ids, key = jnp.ones((2, 3), jnp.int32), jax.random.key(0)
    model = Tagger(vocab_size=8)
    params = model.init(jax.random.key(1), ids, deterministic=True)["params"]
    jax.grad(loss, argnums=1)(model, params, key, ids)
    assert_type(fsd.LSTM(8, axis_name="data"), fsd.LSTM)
    assert_type(fsd.DropBlock(0.5, axis_name=("data", "model")), fsd.DropBlock)
    x, rngs = jnp.ones((2, 3, 8)), {"params": jax.random.key(2), "dropout": jax.random.key(3)}
    Block(deterministic=False).init_with_output(rngs, x)
    query = jnp.ones((2, 4, 2, 8))
    y = fsd.blockwise_attention(
        query, query, query, dropout_rng=jax.random.key(4), dropout_rate=0.5, is_causal=True
    )
    assert_type(y, jax.Array)
    segments = jnp.zeros((2, 4), int)
    y = fsd.dot_product_attention(query, query, query, segment_ids=segments, window=2, soft_cap=50)
    fsd.blockwise_attention(y, query, query, segment_ids=(segments, segments), window=(2, None))
    layer = Own(0.5, deterministic=True, note="first")
    assert isinstance(layer.apply({}, jnp.ones((2, 4, 4, 3))), jax.Array)
    with fsd.insert((nn.Dense, nn.Conv), fsd.DropPath(0.5, deterministic=True)):
        nn.Dense(8).init(jax.random.key(6), x)
    with fsd.insert(lambda path, module: path[-1] == "mlp", lambda path: None), fsd.drop_in():
        nn.Dropout(0.5, deterministic=True).apply({}, x)
    with scale_rates(schedules.early(100, decay=False)(3)), fsd.drop_in(scale=0.5) as report:
        nn.Dropout(0.5, deterministic=True).apply({}, x)
    assert_type(report, DropInReport)


def summarize() -> None:
    layer, streams = Own(0.5), {"dropout": jax.random.key(5)}
    x = jnp.ones((2, 4, 4, 3))
    assert_type(fsd.summarize(layer, x, deterministic=False, rngs=streams), Summary)


def mistakes(x: jax.Array) -> None:
    fsd.SpatialDropout1D("0.5")  # type: ignore[arg-type]
    fsd.SpatialDropout1D(0.5, data_format="NCHW")  # type: ignore[arg-type]
    fsd.LSTM(8, recurrent_rate=0.5)  # type: ignore[call-arg]
    fsd.DropPath(0.5)(x, determinstic=True)  # type: ignore[call-arg]
    fsd.Dropout(0.5, axis_name=0)  # type: ignore[arg-type]
