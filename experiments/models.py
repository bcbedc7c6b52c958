"""The networks: words in, one row of tag scores per word out."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from flax_spatialdrop import linen

REGULARIZERS: dict[str, type[nn.Module] | None] = {
    "none": None,
    "Dropout": linen.Dropout,
    "SpatialDropout1D": linen.SpatialDropout1D,
    "TimestepDropout": linen.TimestepDropout,
    "FeatureDropout": linen.FeatureDropout,
    "SampleDropout": linen.SampleDropout,
}


class RegularizedEmbedding(nn.Module):
    """Word vectors, with the regularizer under test right behind them."""

    vocabulary_size: int
    features: int
    regularizer: str

    @nn.compact
    def __call__(self, words: jax.Array, rate: jax.Array, deterministic: bool) -> jax.Array:
        """Maps words [batch, time] to vectors [batch, time, features]."""
        x = nn.Embed(self.vocabulary_size, self.features)(words)
        regularizer = REGULARIZERS[self.regularizer]
        if regularizer is None:
            return x
        return regularizer(rate, deterministic=deterministic)(x)


class Tagger(nn.Module):
    """Embedding -> regularizer -> bidirectional GRU -> Dense per token."""

    vocabulary_size: int
    num_tags: int
    features: int
    hidden: int
    regularizer: str = "none"

    @nn.compact
    def __call__(
        self, words: jax.Array, lengths: jax.Array, rate: jax.Array, *, deterministic: bool
    ) -> jax.Array:
        """Maps words [batch, time] to tag scores [batch, time, num_tags]."""
        embed = RegularizedEmbedding(self.vocabulary_size, self.features, self.regularizer)
        forward, backward = (nn.RNN(nn.GRUCell(self.hidden)) for _ in range(2))
        x = nn.Bidirectional(forward, backward)(
            embed(words, rate, deterministic), seq_lengths=lengths
        )
        return nn.Dense(self.num_tags)(x)


class Seq2Seq(nn.Module):
    """Embedding -> regularizer -> GRU -> RepeatVector -> GRU -> Dense per step.

    The whole sentence has to pass through one vector, the first GRU's last state.
    """

    vocabulary_size: int
    num_tags: int
    features: int
    hidden: int
    regularizer: str = "none"

    @nn.compact
    def __call__(
        self, words: jax.Array, lengths: jax.Array, rate: jax.Array, *, deterministic: bool
    ) -> jax.Array:
        """Maps words [batch, time] to tag scores [batch, time, num_tags]."""
        embed = RegularizedEmbedding(self.vocabulary_size, self.features, self.regularizer)
        encoder = nn.RNN(nn.GRUCell(self.hidden), return_carry=True)
        sentence, _ = encoder(embed(words, rate, deterministic), seq_lengths=lengths)
        repeated = jnp.repeat(sentence[:, None], words.shape[1], axis=1)
        return nn.Dense(self.num_tags)(nn.RNN(nn.GRUCell(self.hidden))(repeated))


MODELS: dict[str, type[Tagger] | type[Seq2Seq]] = {"tagger": Tagger, "seq2seq": Seq2Seq}
