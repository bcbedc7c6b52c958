"""A transformer that maps words to scores of the next word, with dropout at each of its places."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flax_spatialdrop import linear_rates, linen

from ..transformer import Block, positions

PLACES: dict[str, tuple[str, ...]] = {
    "none": (),
    "embedding": ("embedding",),
    "attention": ("attention",),
    "residual": ("residual",),
    "layer": ("layer",),
    "all": ("embedding", "attention", "residual", "layer"),
}
"""The places where a regularizer drops."""


class WordTransformer(nn.Module):
    """A decoder-only transformer that scores words by their word vectors.

    Attributes:
      vocabulary_size: the number of different words.
      layers, features, heads: the sizes of the transformer. Its dense layers have 4 * features.
      places: where values are dropped, at the rate of the call. "embedding" drops values of the
        word vectors, "attention" attention weights, "residual" values of a branch and "layer" whole
        branches of a sample, at rates that grow to that of the call with the depth.
      dtype: the type to compute in. Parameters and scores are float32.
    """

    vocabulary_size: int
    layers: int
    features: int
    heads: int
    places: tuple[str, ...] = ()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, words: jax.Array, rate: Any, *, deterministic: bool) -> jax.Array:
        """Maps words [batch, time] to scores of the next ones [batch, time, vocabulary]."""
        embed = nn.Embed(self.vocabulary_size, self.features, dtype=self.dtype)
        x = self.features**0.5 * embed(words)
        x = x + positions(words.shape[1], self.features)[None].astype(self.dtype)
        off = {place: deterministic or place not in self.places for place in PLACES["all"]}
        x = linen.Dropout(rate, deterministic=off["embedding"])(x)

        def drop(branch: jax.Array, path_rate: Any) -> jax.Array:
            branch = linen.Dropout(rate, deterministic=off["residual"])(branch)
            return linen.DropPath(path_rate, deterministic=off["layer"])(branch)

        form = "weights" if "attention" in self.places else "none"
        for path_rate in linear_rates(rate, self.layers):
            block = Block(self.heads, form=form, dtype=self.dtype)
            x = block(x, rate, deterministic, partial(drop, path_rate=path_rate))
        return embed.attend(nn.LayerNorm(dtype=self.dtype)(x)).astype(jnp.float32)
