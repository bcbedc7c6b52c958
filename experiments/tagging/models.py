"""Networks that map words to scores of their tags."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flax_spatialdrop import linen

REGULARIZERS: dict[str, type[nn.Module] | None] = {
    "none": None,
    "Dropout": linen.Dropout,
    "SpatialDropout1D": linen.SpatialDropout1D,
    "TimestepDropout": linen.TimestepDropout,
    "FeatureDropout": linen.FeatureDropout,
    "SampleDropout": linen.SampleDropout,
    "RecurrentDropout": None,
}
"""The module that acts on the word vectors. RecurrentDropout acts inside the GRUs instead."""


class RegularizedEmbedding(nn.Module):
    """Word vectors, followed by the regularizer under test."""

    vocabulary_size: int
    features: int
    regularizer: str
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, words: jax.Array, rate: jax.Array, deterministic: bool) -> jax.Array:
        """Maps words [batch, time] to vectors [batch, time, features]."""
        x = nn.Embed(self.vocabulary_size, self.features, dtype=self.dtype)(words)
        regularizer = REGULARIZERS[self.regularizer]
        if regularizer is None:
            return x
        return regularizer(rate, deterministic=deterministic)(x)


class Network(nn.Module):
    """The base class of the networks: makes word vectors, and GRUs with their dropout.

    Attributes:
      vocabulary_size, num_tags: the numbers of words and tags.
      features, hidden: the numbers of features of a word vector and of a GRU's state.
      regularizer: the regularizer under test, which drops at the rate of the call.
      dropout, recurrent_dropout: the rates of every GRU. With RecurrentDropout, both are the rate
        of the call.
      dtype: the type to compute in. Parameters and scores are float32.
    """

    vocabulary_size: int
    num_tags: int
    features: int
    hidden: int
    regularizer: str = "none"
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.nowrap
    def embedding(self) -> RegularizedEmbedding:
        """Makes the word vectors."""
        return RegularizedEmbedding(
            self.vocabulary_size, self.features, self.regularizer, self.dtype
        )

    @nn.nowrap
    def gru(self, rate: jax.Array, deterministic: bool) -> linen.GRU:
        """Makes a GRU."""
        dropout: Any = self.dropout
        recurrent_dropout: Any = self.recurrent_dropout
        if self.regularizer == "RecurrentDropout":
            dropout = recurrent_dropout = rate
        return linen.GRU(
            self.hidden,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            deterministic=deterministic,
            dtype=self.dtype,
        )

    @nn.nowrap
    def scores(self, x: jax.Array) -> jax.Array:
        """Maps features [..., features] to tag scores [..., num_tags]."""
        return nn.Dense(self.num_tags, dtype=self.dtype)(x).astype(jnp.float32)


class Tagger(Network):
    """Embedding -> regularizer -> bidirectional GRU -> Dense per token."""

    @nn.compact
    def __call__(
        self, words: jax.Array, lengths: jax.Array, rate: jax.Array, *, deterministic: bool
    ) -> jax.Array:
        """Maps words [batch, time] to tag scores [batch, time, num_tags]."""
        x = self.embedding()(words, rate, deterministic)
        forward, backward = (self.gru(rate, deterministic) for _ in range(2))
        outputs = linen.Bidirectional(forward, backward)(x, seq_lengths=lengths)
        return self.scores(outputs)


class Seq2Seq(Network):
    """Embedding -> regularizer -> GRU -> RepeatVector -> GRU -> Dense per step.

    The whole sentence passes through one vector, the last state of the first GRU.
    """

    @nn.compact
    def __call__(
        self, words: jax.Array, lengths: jax.Array, rate: jax.Array, *, deterministic: bool
    ) -> jax.Array:
        """Maps words [batch, time] to tag scores [batch, time, num_tags]."""
        x = self.embedding()(words, rate, deterministic)
        encoder, decoder = (self.gru(rate, deterministic) for _ in range(2))
        sentence, _ = encoder(x, seq_lengths=lengths, return_carry=True)
        repeated = jnp.repeat(sentence[:, None], words.shape[1], axis=1)
        return self.scores(decoder(repeated))


MODELS: dict[str, type[Tagger] | type[Seq2Seq]] = {"tagger": Tagger, "seq2seq": Seq2Seq}
