"""What does dropout cost in training, with models and batches that fill an accelerator?

The rows are a step (forward, backward, Adam) in bfloat16 with float32 parameters. The decoder drops
single values of the embeddings, of both branches of a layer, and of attention weights. The tagger
drops single values of the word vectors and of the outputs. Its last two contenders have GRUs of
this library, whose dropout acts inside the recurrence.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import flax_spatialdrop.linen as fsl
from flax_spatialdrop import fast_key

from . import timing
from .cases import NO_DROPOUT
from .here import SCRATCH, TIME
from .libraries import FLAX, FLAX_AGAIN, OURS, OURS_FAST, RATE
from .results import Record, timed

SECTION = "training at scale"
VOCABULARY, TAGS = 32_768, 32
DECODER: dict[str, Any] = {"layers": 12, "features": 1024, "heads": 16}
DECODER_BATCH = (16, 1024)
TAGGER: dict[str, Any] = {"features": 512}
TAGGER_BATCH = (1024, 64)
BLOCKWISE, BLOCKWISE_FAST = "in blocks", "in blocks, with fast_key"
BLOCKWISE_WITHOUT = "in blocks, no dropout"
RECURRENT, RECURRENT_WITHOUT = "recurrent dropout", "its GRU without dropout"

Dropout = Callable[..., Any]
BF16: dict[str, Any] = {"dtype": jnp.bfloat16}


class Contender(NamedTuple):
    """A model, and whether its masks are drawn with `fast_key`."""

    model: nn.Module
    is_fast: bool = False


def measure(only: re.Pattern[str], seconds: float) -> Iterator[Record]:
    """Yields time and memory of every matching row."""
    rows = {
        f"decoder, {DECODER['layers']} layers of {DECODER['features']}": (decoders, DECODER_BATCH),
        f"tagger, two GRUs of {TAGGER['features']}": (taggers, TAGGER_BATCH),
    }
    for name, (contenders, batch) in rows.items():
        row = f"{name}, bf16, {list(batch)} tokens"
        if only.search(f"{SECTION}: {row}"):
            yield from _row(row, contenders(), batch, seconds)


def decoders() -> dict[str, Contender]:
    """Returns what is compared in a decoder."""
    flax = Contender(Decoder(**DECODER, dropout=_flax))
    none = Decoder(**DECODER, dropout=_none, attention_rate=0.0)
    fused = Decoder(**DECODER, dropout=_ours, attention=fsl.dot_product_attention)
    in_blocks = partial(fsl.blockwise_attention, is_causal=True)
    blockwise = Decoder(**DECODER, dropout=_ours, attention=in_blocks, is_masked=False)
    return {
        NO_DROPOUT: Contender(none),
        BLOCKWISE_WITHOUT: Contender(none.clone(attention=in_blocks, is_masked=False)),
        OURS: Contender(fused),
        OURS_FAST: Contender(fused, is_fast=True),
        BLOCKWISE: Contender(blockwise),
        BLOCKWISE_FAST: Contender(blockwise, is_fast=True),
        FLAX: flax,
        FLAX_AGAIN: flax,
    }


def taggers() -> dict[str, Contender]:
    """Returns what is compared in a tagger."""
    none = Tagger(**TAGGER, dropout=_none, gru=_flax_gru)
    flax = Contender(none.clone(dropout=_flax))
    ours = none.clone(dropout=_ours)
    recurrent: dict[str, Any] = {"dropout": RATE, "recurrent_dropout": RATE, "deterministic": False}
    return {
        NO_DROPOUT: Contender(none),
        OURS: Contender(ours),
        OURS_FAST: Contender(ours, is_fast=True),
        RECURRENT_WITHOUT: Contender(none.clone(gru=fsl.GRU)),
        RECURRENT: Contender(none.clone(gru=partial(fsl.GRU, **recurrent))),
        FLAX: flax,
        FLAX_AGAIN: flax,
    }


def adam_step(loss: Callable[[Any, jax.Array, Any], jax.Array]) -> Callable[..., Any]:
    """Returns Adam's step: (key, (params, moments), batch) -> (params, moments)."""

    def step(key: jax.Array, state: Any, batch: Any) -> Any:
        params, moments = state
        updates, moments = ADAM.update(jax.grad(loss)(params, key, batch), moments, params)
        return optax.apply_updates(params, updates), moments

    return step


ADAM = optax.adam(1e-3)


def _row(
    row: str, contenders: dict[str, Contender], shape: tuple[int, ...], seconds: float
) -> Iterator[Record]:
    tokens = jnp.asarray(np.random.default_rng(0).integers(VOCABULARY, size=shape))
    model = contenders[NO_DROPOUT].model
    params = jax.jit(model.init)(jax.random.key(0), tokens)
    arguments = jax.random.key(1), (params, ADAM.init(params)), tokens
    programs = timing.compiled(
        {name: adam_step(partial(_loss, contender)) for name, contender in contenders.items()},
        *arguments,
    )
    calls: dict[str, timing.Call] = {n: partial(f, *arguments) for n, f in programs.items()}
    yield timed(SECTION, row, TIME, timing.times(calls, seconds), baseline=NO_DROPOUT)
    scratch = {name: timing.scratch_bytes(program) / 2**20 for name, program in programs.items()}
    yield Record(SECTION, row, SCRATCH, scratch)


def _loss(contender: Contender, params: Any, key: jax.Array, tokens: jax.Array) -> jax.Array:
    """The cross entropy of each token's label: the next token, or a class of the token."""
    rngs = {"dropout": fast_key(key) if contender.is_fast else key}
    scores: Any = contender.model.apply(params, tokens, rngs=rngs)
    labels = jnp.roll(tokens, -1, axis=1) % scores.shape[-1]
    losses = optax.softmax_cross_entropy_with_integer_labels(scores.astype(jnp.float32), labels)
    return losses.mean()


class Decoder(nn.Module):
    """A causal language model: maps [batch, time] to [batch, time, VOCABULARY].

    Attributes:
      layers, features, heads: the sizes of the transformer.
      dropout: makes a layer f(x).
      attention, attention_rate: the function that computes attention, and the rate of its weights.
      is_masked: whether attention gets a causal mask. Otherwise it is causal by itself.
    """

    layers: int
    features: int
    heads: int
    dropout: Dropout
    attention: Callable[..., Any] = nn.dot_product_attention
    attention_rate: float = RATE
    is_masked: bool = True

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Returns the scores of the next tokens, with dropout on."""
        shape = (tokens.shape[1], self.features)
        places = self.param("places", nn.initializers.normal(0.02), shape)
        x = nn.Embed(VOCABULARY, self.features, **BF16)(tokens) + places.astype(jnp.bfloat16)[None]
        x = self.dropout()(x)
        attention = nn.MultiHeadDotProductAttention(
            self.heads,
            dropout_rate=self.attention_rate,
            broadcast_dropout=False,
            deterministic=False,
            attention_fn=self.attention,
            parent=None,
            **BF16,
        )
        stack = nn.scan(
            Layer,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=self.layers,
        )
        mask = nn.make_causal_mask(tokens[:1], dtype=bool) if self.is_masked else None
        x, _ = stack(attention, self.dropout)(x, mask)
        return nn.Dense(VOCABULARY, **BF16)(nn.LayerNorm(**BF16)(x))


class Layer(nn.Module):
    """One layer of the decoder, as the body of a scan."""

    attention: nn.Module
    dropout: Dropout

    @nn.compact
    def __call__(self, x: jax.Array, mask: Any) -> tuple[jax.Array, None]:
        """Maps [batch, time, features] to the same shape."""
        features = x.shape[-1]
        x = x + self.dropout()(self.attention(nn.LayerNorm(**BF16)(x), mask=mask))
        hidden = nn.gelu(nn.Dense(4 * features, **BF16)(nn.LayerNorm(**BF16)(x)))
        return x + self.dropout()(nn.Dense(features, **BF16)(hidden)), None


class Tagger(nn.Module):
    """Word vectors -> bidirectional GRU -> Dense: maps [batch, time] to [batch, time, TAGS].

    Attributes:
      features: the number of features of a word vector and of a GRU's state.
      dropout: makes a layer f(x).
      gru: makes a recurrent layer from its number of features.
    """

    features: int
    dropout: Dropout
    gru: Callable[..., Any]

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Returns the scores of the tags, with dropout on."""
        x = self.dropout()(nn.Embed(VOCABULARY, self.features, **BF16)(tokens))
        forward, backward = (self.gru(self.features, name=f"gru_{i}", **BF16) for i in range(2))
        x = nn.Bidirectional(forward, backward)(x)
        return nn.Dense(TAGS, **BF16)(self.dropout()(x))


def _flax_gru(features: int, name: str, **dtypes: Any) -> nn.Module:
    return nn.RNN(nn.GRUCell(features, parent=None, **dtypes), name=name)


_flax = partial(nn.Dropout, RATE, deterministic=False)
_ours = partial(fsl.Dropout, RATE, deterministic=False)


def _none() -> Any:
    return lambda x: x
