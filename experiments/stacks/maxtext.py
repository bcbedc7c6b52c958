"""A decoder as MaxText builds it, in Linen and in NNX.

A layer computes attention and MLP from one normalized input, drops features of their sum for all
positions, and adds the input. Layers run in a scan, with remat by a policy of names.
"""

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

import flax_spatialdrop.linen as fsl
import flax_spatialdrop.nnx as fsx

from . import Example
from .layers import scanned

NAMES = ("decoder_layer_input", "out_proj", "mlpwi", "mlpwo")
"""The names that a layer gives to its activations. Dropout adds "flax_spatialdrop"."""

_policies = jax.checkpoint_policies
POLICIES: dict[str, Callable[..., Any] | None] = {
    "full": None,
    "minimal": _policies.save_only_these_names("out_proj", "mlpwi", "mlpwo"),
    "with dropout": _policies.save_only_these_names(*NAMES[1:], "flax_spatialdrop"),
    "all but dropout": _policies.save_anything_except_these_names("flax_spatialdrop"),
    "offloaded": _policies.save_and_offload_only_these_names(
        names_which_can_be_saved=["out_proj", "mlpwi", "mlpwo"],
        names_which_can_be_offloaded=["flax_spatialdrop"],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


class Dropout(NamedTuple):
    """The dropout of the stack: a layer, and the function of attention."""

    layer: Callable[..., Any]
    attention_fn: Callable[..., jax.Array]


THEIRS = Dropout(nn.Dropout, nn.dot_product_attention)
OURS = Dropout(fsl.Dropout, fsl.dot_product_attention)


class DecoderLayer(nn.Module):
    """Attention and MLP side by side: maps [batch, length, features] to the same shape."""

    dropout: Dropout
    rate: float
    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, None]:
        """Returns the output, and nothing for each layer of a scan."""
        features = x.shape[-1]
        x = checkpoint_name(x, "decoder_layer_input")
        y = nn.RMSNorm(name="norm")(x)
        attended = nn.MultiHeadDotProductAttention(
            self.heads,
            dropout_rate=self.rate,
            broadcast_dropout=False,
            deterministic=False,
            attention_fn=self.dropout.attention_fn,
            name="attention",
        )(y, mask=mask)
        attended = checkpoint_name(attended, "out_proj")
        hidden = nn.gelu(checkpoint_name(nn.Dense(4 * features, name="wi")(y), "mlpwi"))
        hidden = self._drop()(hidden)
        y = attended + checkpoint_name(nn.Dense(features, name="wo")(hidden), "mlpwo")
        return x + self._drop()(y), None

    def _drop(self):
        return self.dropout.layer(self.rate, broadcast_dims=(-2,), deterministic=False)


class Decoder(nn.Module):
    """A causal language model: maps [batch, length] tokens to [batch, length, vocabulary]."""

    dropout: Dropout
    layers: int
    vocabulary: int = 256
    features: int = 128
    heads: int = 4
    rate: float = 0.1
    scan_layers: bool = True
    remat_policy: str = "none"

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Returns the logits of the next tokens, with dropout on."""
        embed = nn.Embed(self.vocabulary, self.features)
        layer = self.dropout.layer(self.rate, broadcast_dims=(-2,), deterministic=False)
        x, mask = layer(embed(tokens)), nn.make_causal_mask(tokens)
        block: Any = DecoderLayer
        if self.remat_policy != "none":
            policy = POLICIES[self.remat_policy]
            block = nn.remat(block, prevent_cse=not self.scan_layers, policy=policy)
        options: dict[str, Any] = {"dropout": self.dropout, "rate": self.rate, "heads": self.heads}
        if self.scan_layers:
            x, _ = scanned(block, self.layers)(**options, name="layers")(x, mask)
        else:
            for i in range(self.layers):
                x, _ = block(**options, name=f"layers_{i}")(x, mask)
        return embed.attend(nn.RMSNorm(name="norm")(x))


class ForkedDropout(nnx.Dropout):
    """MaxText's class: Flax's call, with a constructor that keeps a fork of all streams."""

    def __init__(self, rate: float, *, broadcast_dims: Sequence[int] = (), rngs: nnx.Rngs):
        self.rate = rate
        self.broadcast_dims = broadcast_dims
        self.deterministic = False
        self.rng_collection = "dropout"
        self.rngs = rngs.fork()


class OurForkedDropout(ForkedDropout, fsx.Dropout):  # type: ignore[misc]
    """The same constructor, with this library's class as the base."""


NNX_THEIRS = Dropout(ForkedDropout, nnx.dot_product_attention)
NNX_OURS = Dropout(OurForkedDropout, fsx.dot_product_attention)


class NNXDecoderLayer(nnx.Module):
    """The layer in NNX."""

    def __init__(self, dropout: Dropout, rate: float, features: int, heads: int, rngs: nnx.Rngs):
        self.norm = nnx.RMSNorm(features, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            heads,
            features,
            dropout_rate=rate,
            broadcast_dropout=False,
            deterministic=False,
            decode=False,
            attention_fn=dropout.attention_fn,
            rngs=rngs,
        )
        self.wi = nnx.Linear(features, 4 * features, rngs=rngs)
        self.wo = nnx.Linear(4 * features, features, rngs=rngs)
        self.hidden_dropout = dropout.layer(rate, broadcast_dims=(-2,), rngs=rngs)
        self.dropout = dropout.layer(rate, broadcast_dims=(-2,), rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps [batch, length, features] to the same shape."""
        x = checkpoint_name(x, "decoder_layer_input")
        y = self.norm(x)
        attended = checkpoint_name(self.attention(y, mask=mask), "out_proj")
        hidden = self.hidden_dropout(nnx.gelu(checkpoint_name(self.wi(y), "mlpwi")))
        y = attended + checkpoint_name(self.wo(hidden), "mlpwo")
        return x + self.dropout(y)


class NNXDecoder(nnx.Module):
    """The decoder in NNX, whose layers are stacked along a first axis of their state."""

    def __init__(
        self,
        dropout: Dropout,
        layers: int,
        *,
        vocabulary: int = 256,
        features: int = 128,
        heads: int = 4,
        rate: float = 0.1,
        rngs: nnx.Rngs,
    ):
        self.embed = nnx.Embed(vocabulary, features, rngs=rngs)
        self.dropout = dropout.layer(rate, broadcast_dims=(-2,), rngs=rngs)
        make = partial(NNXDecoderLayer, dropout, rate, features, heads)
        stacked = nnx.split_rngs(splits=layers)(nnx.vmap(lambda rngs: make(rngs)))
        self.layers = stacked(rngs)
        self.norm = nnx.RMSNorm(features, rngs=rngs)
        self.depth = layers

    def __call__(
        self, tokens: jax.Array, scan_layers: bool = True, remat_policy: str = "none"
    ) -> jax.Array:
        """Returns the logits of the next tokens, with dropout on."""
        mask = nnx.make_causal_mask(tokens)
        parts: Any = nnx.split(self.layers, nnx.Param, ...)
        graph, params, streams = parts

        def block(x, state):
            layer = nnx.merge(graph, *state)
            return layer(x, mask), nnx.state(layer, nnx.Not(nnx.Param))

        if remat_policy != "none":
            policy = POLICIES[remat_policy]
            block = jax.checkpoint(block, prevent_cse=not scan_layers, policy=policy)
        run = jax.lax.scan if scan_layers else _loop
        x, streams = run(block, self.dropout(self.embed(tokens)), (params, streams))
        nnx.update(self.layers, streams)
        return self.embed.attend(self.norm(x))


def _loop(block, x, states):
    """Does what jax.lax.scan does, as a loop in Python."""
    collected = []
    for i in range(len(jax.tree.leaves(states)[0])):
        x, state = block(x, jax.tree.map(operator.itemgetter(i), states))
        collected.append(state)
    return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *collected)


def cross_entropy(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """Returns the mean loss of predicting each next token."""
    log_p = jax.nn.log_softmax(logits[:, :-1])
    return -jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=-1).mean()


def example(dropout: Dropout | None, **options: Any) -> Example:
    """Returns the loss of the Linen decoder on a batch of noise. None drops nothing."""
    if dropout is None:
        dropout, options = THEIRS, {**options, "rate": 0.0}
    model = Decoder(dropout, **{"layers": 4, **options})
    tokens = jax.random.randint(jax.random.key(1), (4, 128), 0, model.vocabulary)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(2)}
    params = jax.jit(model.init)(keys, tokens)

    def loss(params, key, tokens):
        logits: Any = model.apply(params, tokens, rngs={"dropout": key})
        return cross_entropy(logits, tokens)

    return Example(loss, params, tokens)


def nnx_example(dropout: Dropout | None, call: Any = None, **options: Any) -> Example:
    """Returns the loss of the NNX decoder, called with the arguments `call`.

    Its streams hold the keys, and are part of the batch.
    """
    if dropout is None:
        dropout, options = NNX_THEIRS, {**options, "rate": 0.0}
    rngs = nnx.Rngs(params=0, dropout=2)
    model = NNXDecoder(dropout, **{"layers": 4, **options}, rngs=rngs)
    tokens = jax.random.randint(jax.random.key(1), (4, 128), 0, model.embed.num_embeddings)
    parts: Any = nnx.split(model, nnx.Param, ...)
    graph, params, streams = parts

    def loss(params, key, batch):
        tokens, streams = batch
        model = nnx.merge(graph, params, streams, copy=True)
        return cross_entropy(model(tokens, **(call or {})), tokens)

    return Example(loss, params, (tokens, streams))
