"""An encoder and decoder as T5X builds them, whose dropout shares draws among positions.

Residuals share a draw among positions, attention weights among queries. There are no biases.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

import flax_spatialdrop.linen as fsl
from flax_spatialdrop import dropout as drop

from . import Example
from .layers import scanned


class Dropout(NamedTuple):
    """The dropout of the stack: a layer, and a function (key, weights, rate) in attention."""

    layer: Callable[..., Any]
    weights: Callable[[jax.Array, jax.Array, float], jax.Array]


def drop_weights(key: jax.Array, weights: jax.Array, rate: float) -> jax.Array:
    """Drops keys of [batch, heads, queries, keys] for all queries, as T5X writes it out."""
    shape = (*weights.shape[:-2], 1, weights.shape[-1])
    keep = jax.random.bernoulli(key, 1 - rate, shape)
    return weights * (keep.astype(weights.dtype) / jnp.asarray(1 - rate, weights.dtype))


def drop_weights_here(key: jax.Array, weights: jax.Array, rate: float) -> jax.Array:
    """The same with this library."""
    return drop(key, weights, rate, broadcast_dims=(-2,))


THEIRS = Dropout(nn.Dropout, drop_weights)
OURS = Dropout(fsl.Dropout, drop_weights_here)


class Attention(nn.Module):
    """Attention of [batch, length, features] to itself or to another sequence."""

    dropout: Dropout
    rate: float
    heads: int

    @nn.compact
    def __call__(
        self, x: jax.Array, other: jax.Array, mask: jax.Array | None, deterministic: bool
    ) -> jax.Array:
        """Returns an array of the shape of x. The mask is bool[batch, 1, queries, keys]."""
        features = x.shape[-1]
        size = (self.heads, features // self.heads)
        query = nn.DenseGeneral(size, use_bias=False, name="query")(x)
        key = nn.DenseGeneral(size, use_bias=False, name="key")(other)
        value = nn.DenseGeneral(size, use_bias=False, name="value")(other)
        logits = jnp.einsum("bqhd,bkhd->bhqk", query, key) / size[1] ** 0.5
        weights = jax.nn.softmax(logits if mask is None else jnp.where(mask, logits, -1e10))
        if not deterministic and self.rate > 0:
            weights = self.dropout.weights(self.make_rng("dropout"), weights, self.rate)
        y = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
        return nn.DenseGeneral(features, axis=(-2, -1), use_bias=False, name="out")(y)


class Layer(nn.Module):
    """A layer of the encoder, or of the decoder if there is an encoded sequence."""

    dropout: Dropout
    rate: float
    heads: int

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        encoded: jax.Array | None,
        encoded_mask: jax.Array | None,
        deterministic: bool,
    ) -> tuple[jax.Array, None]:
        """Returns the output, and nothing for each layer of a scan."""

        def dropped(y):
            layer = self.dropout.layer(self.rate, broadcast_dims=(-2,))
            return layer(y, deterministic=deterministic)

        options: dict[str, Any] = {"dropout": self.dropout, "rate": self.rate, "heads": self.heads}
        y = nn.RMSNorm(name="attention_norm")(x)
        x += dropped(Attention(**options, name="attention")(y, y, mask, deterministic))
        if encoded is not None:
            y = nn.RMSNorm(name="cross_norm")(x)
            cross = Attention(**options, name="cross_attention")
            x += dropped(cross(y, encoded, encoded_mask, deterministic))
        y = nn.RMSNorm(name="mlp_norm")(x)
        y = nn.relu(nn.Dense(4 * x.shape[-1], use_bias=False, name="wi")(y))
        return x + dropped(nn.Dense(x.shape[-1], use_bias=False, name="wo")(dropped(y))), None


class Stack(nn.Module):
    """The encoder or the decoder: embedded tokens go through all layers and a norm."""

    dropout: Dropout
    layers: int
    rate: float
    heads: int
    scan_layers: bool
    remat: bool

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        encoded: jax.Array | None,
        encoded_mask: jax.Array | None,
        deterministic: bool,
    ) -> jax.Array:
        """Maps [batch, length, features] to the same shape."""

        def dropped(x):
            layer = self.dropout.layer(self.rate, broadcast_dims=(-2,))
            return layer(x, deterministic=deterministic)

        block: Any = Layer
        if self.remat:
            policy = jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims
            cse = {"prevent_cse": not self.scan_layers}
            block = nn.remat(block, policy=policy, static_argnums=(5,), **cse)
        options: dict[str, Any] = {"dropout": self.dropout, "rate": self.rate, "heads": self.heads}
        x, rest = dropped(x), (mask, encoded, encoded_mask, deterministic)
        if self.scan_layers:
            x, _ = scanned(block, self.layers)(**options, name="layers")(x, *rest)
        else:
            for i in range(self.layers):
                x, _ = block(**options, name=f"layers_{i}")(x, *rest)
        return dropped(nn.RMSNorm(name="norm")(x))


class Transformer(nn.Module):
    """Maps [batch, length] inputs and targets to [batch, length, vocabulary] logits."""

    dropout: Dropout
    layers: int
    vocabulary: int = 256
    features: int = 128
    heads: int = 4
    rate: float = 0.1
    scan_layers: bool = True
    remat: bool = False

    @nn.compact
    def __call__(
        self, inputs: jax.Array, targets: jax.Array, deterministic: bool = False
    ) -> jax.Array:
        """Returns the logits of the targets. The decoder sees each target one place later."""
        embed = nn.Embed(self.vocabulary, self.features, name="embed")
        forms = {"scan_layers": self.scan_layers, "remat": self.remat}
        options: dict[str, Any] = {
            "dropout": self.dropout,
            "rate": self.rate,
            "heads": self.heads,
            **forms,
        }
        here = nn.make_attention_mask(inputs > 0, inputs > 0, dtype=bool)
        encoder = Stack(layers=self.layers, **options, name="encoder")
        encoded = encoder(embed(inputs), here, None, None, deterministic)
        shifted = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))
        across = nn.make_attention_mask(targets > 0, inputs > 0, dtype=bool)
        decoder = Stack(layers=self.layers, **options, name="decoder")
        causal = nn.make_causal_mask(targets, dtype=bool)
        y = decoder(embed(shifted), causal, encoded, across, deterministic)
        return embed.attend(y) / self.features**0.5


def example(dropout: Dropout | None, **options: Any) -> Example:
    """Returns the loss on a batch of noise. None drops nothing."""
    if dropout is None:
        dropout, options = THEIRS, {**options, "rate": 0.0}
    model = Transformer(dropout, **{"layers": 2, **options})
    batch = tuple(jax.random.randint(jax.random.key(1), (2, 4, 128), 1, model.vocabulary))
    init = jax.jit(partial(model.init, deterministic=True))
    params = init(jax.random.key(0), *batch)

    def loss(params, key, batch):
        inputs, targets = batch
        logits: Any = model.apply(params, inputs, targets, rngs={"dropout": key})
        log_p = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(log_p, targets[..., None], axis=-1).mean()

    return Example(loss, params, batch)
