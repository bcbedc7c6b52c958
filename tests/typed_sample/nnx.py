"""NNX models."""

from typing import Any, assert_type

import jax
import jax.numpy as jnp
from flax import nnx

from flax_spatialdrop import DropInReport, Summary
from flax_spatialdrop import nnx as fsd


class Tagger(nnx.Module):
    """Words to tags, by a network in both directions."""

    def __init__(self, vocab_size: int, rate: float = 0.25, *, rngs: nnx.Rngs):
        self.words = fsd.TokenDropout(0.1, mask_id=0, rngs=rngs)
        self.embed = nnx.Embed(vocab_size, 8, rngs=rngs)
        self.drop = fsd.SpatialDropout1D(rate, rngs=rngs)
        self.lstm = fsd.LSTM(8, 8, dropout=0.2, recurrent_dropout=0.2, rngs=rngs)
        self.both = fsd.Bidirectional(fsd.GRU(8, 4, variant="zoneout", rngs=rngs))
        self.head = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, ids: jax.Array, rate: float | jax.Array | None = None) -> jax.Array:
        x = self.drop(self.embed(self.words(ids)), rate=rate)
        x = self.lstm(x)
        return self.head(self.both(x))


class Block(nnx.Module):
    """Attention and a residual branch."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.attend = nnx.MultiHeadAttention(
            num_heads=2,
            in_features=8,
            dropout_rate=0.25,
            attention_fn=fsd.dot_product_attention,
            decode=False,
            deterministic=False,
            rngs=rngs,
        )
        self.path = fsd.DropPath(0.25, mode="row", rngs=rngs)
        branch = nnx.Sequential(nnx.LayerNorm(8, rngs=rngs), nnx.Linear(8, 8, rngs=rngs))
        self.residual = fsd.ResidualDropPath(branch, 0.5, rngs=rngs)
        self.drop = fsd.Dropout(0.5, broadcast_dims=(1,), rngs=rngs)
        self.drop_steps = fsd.Dropout(0.5, noise_shape=(None, 1, None))

    def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:
        x = self.residual(x + self.path(self.attend(x)))
        return self.drop_steps(self.drop(x), rngs=key, deterministic=False)


class Own(fsd.SpatialDropout2D):
    """A derived class."""

    def __init__(self) -> None:
        super().__init__(0.5, deterministic=True)


class OwnLSTM(fsd.LSTM):
    """A derived class without a constructor."""


@nnx.jit
def gradient(model: Tagger, ids: jax.Array) -> Any:
    """Splits the parameters off, as in tree mode."""
    graph, params, *rest = nnx.split(model, nnx.Param, ...)

    def loss(params: Any, rest: Any) -> jax.Array:
        merged: Tagger = nnx.merge(graph, params, *rest)
        return merged(ids, rate=0.5).mean()

    return nnx.grad(loss)(params, rest)


def run() -> None:
    ids, key = jnp.ones((2, 3), jnp.int32), jax.random.key(0)
    model = Tagger(8, rngs=nnx.Rngs(0, dropout=1))
    gradient(model, ids)
    assert_type(fsd.LSTM(8, 8, axis_name="data", rngs=nnx.Rngs(0)), fsd.LSTM)
    assert_type(fsd.DropBlock(0.5, axis_name=("data", "model")), fsd.DropBlock)
    assert_type(Block(rngs=nnx.Rngs(2))(jnp.ones((2, 3, 8)), key), jax.Array)
    query = jnp.ones((2, 4, 2, 8))
    y = fsd.blockwise_attention(
        query, query, query, dropout_rng=jax.random.key(4), dropout_rate=0.5, is_causal=True
    )
    assert_type(y, jax.Array)
    segments = jnp.zeros((2, 4), int)
    y = fsd.dot_product_attention(query, query, query, segment_ids=segments, window=2, soft_cap=50)
    fsd.blockwise_attention(y, query, query, segment_ids=(segments, segments), window=(2, None))
    assert_type(Own()(jnp.ones((2, 4, 4, 3))), jax.Array)
    fsd.RNN(OwnLSTM(8, 8, dropout=0.5, rngs=nnx.Rngs(4)).cell, recurrent_dropout=0.5, rngs=False)
    fsd.EmbeddingDropout(0.5, per_sample=True)
    fsd.PatchDropout(num_keep=3)
    report = fsd.drop_in(nnx.Sequential(nnx.Dropout(0.5, rngs=nnx.Rngs(3))))
    assert_type(report, DropInReport)
    linear = nnx.Sequential(nnx.Linear(8, 8, rngs=nnx.Rngs(5)))
    fsd.insert(linear, lambda path, module: "layers" in path, lambda path: fsd.DropPath(0.5))
    fsd.insert(linear, (nnx.Sequential, nnx.Conv), nnx.Dropout(0.5))
    fsd.ConditionDropout(0.1, null=10)
    fsd.ModalityDropout({"audio": 0.1, "image": 0.2})


def summarize() -> None:
    assert_type(fsd.summarize(Own(), jnp.ones((2, 4, 4, 3))), Summary)


def mistakes(x: jax.Array) -> None:
    fsd.SpatialDropout1D("0.5")  # type: ignore[arg-type]
    fsd.SpatialDropout1D(0.5, data_format="NCHW")  # type: ignore[arg-type]
    fsd.LSTM(8, 8)  # type: ignore[call-arg]
    fsd.DropPath(0.5)(x, determinstic=True)  # type: ignore[call-arg]
    fsd.Dropout(0.5, axis_name=0)  # type: ignore[arg-type]
