"""A transformer that maps characters to scores of the next character."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ..transformer import Block, positions


class LanguageModel(nn.Module):
    """A decoder-only transformer with dropout of attention weights only.

    Attributes:
      vocabulary_size: the number of different characters.
      layers, features, heads: the sizes of the transformer. Its dense layers have 4 * features.
      attention, form, dtype: as in CausalAttention. Scores are float32.
    """

    vocabulary_size: int
    layers: int
    features: int
    heads: int
    attention: str = "blockwise"
    form: str = "none"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, characters: jax.Array, rate: Any, *, deterministic: bool) -> jax.Array:
        """Maps characters [batch, time] to scores of the next ones [batch, time, vocabulary]."""
        x = nn.Embed(self.vocabulary_size, self.features, dtype=self.dtype)(characters)
        x = self.features**0.5 * x
        x = x + positions(characters.shape[1], self.features)[None].astype(self.dtype)
        for _ in range(self.layers):
            x = Block(self.heads, self.attention, self.form, self.dtype)(x, rate, deterministic)
        x = nn.LayerNorm(dtype=self.dtype)(x)
        return nn.Dense(self.vocabulary_size, dtype=self.dtype)(x).astype(jnp.float32)
