"""An LSTM that maps words to scores of the next word, with dropout at each of its places."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flax_spatialdrop import drop_connect, linen

PLACES: dict[str, tuple[str, ...]] = {
    "none": (),
    "element-wise": ("element-wise",),
    "embedding": ("embedding",),
    "inputs": ("inputs",),
    "states": ("states",),
    "outputs": ("outputs",),
    "weights": ("weights",),
    "variational": ("embedding", "inputs", "states", "outputs"),
    "AWD-LSTM": ("embedding", "inputs", "weights", "outputs"),
}
"""The places where a regularizer drops. "variational" is that of Gal and Ghahramani, 2016."""


class WordLSTM(nn.Module):
    """Word vectors, LSTMs in a row, and scores by the same word vectors.

    Attributes:
      vocabulary_size: the number of different words.
      layers, features: the number of LSTMs, and the size of word vectors and of states.
      places: where values are dropped, at the rate of the call. "embedding" drops words of a batch.
        "inputs" drops features of the inputs of each LSTM, "states" of its state and "outputs" of
        the last output, each for all words of a window. "element-wise" drops inputs and outputs
        anew for each word (Zaremba et al., 2014). "weights" drops recurrent weights.
      dtype: the type to compute in. Parameters and scores are float32.
    """

    vocabulary_size: int
    layers: int
    features: int
    places: tuple[str, ...] = ()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, words: jax.Array, rate: Any, *, deterministic: bool) -> jax.Array:
        """Maps words [batch, time] to scores of the next ones [batch, time, vocabulary]."""

        def is_off(place: str) -> bool:
            return deterministic or place not in self.places

        embed = nn.Embed(self.vocabulary_size, self.features, dtype=self.dtype)
        table = embed.embedding.astype(self.dtype)
        x = linen.EmbeddingDropout(rate, deterministic=is_off("embedding"))(table, ids=words)
        each_word = partial(linen.Dropout, rate, deterministic=is_off("element-wise"))
        for index in range(self.layers):
            x = self._lstm(index, rate, is_off)(each_word()(x))
        x = linen.SpatialDropout1D(rate, deterministic=is_off("outputs"))(each_word()(x))
        return embed.attend(x).astype(jnp.float32)

    @nn.nowrap
    def _lstm(self, index: int, rate: Any, is_off: Callable[[str], bool]) -> nn.Module:
        layer: Any = linen.LSTM
        if not is_off("weights"):
            key = self.make_rng("dropout")
            layer = nn.map_variables(
                layer, "params", partial(drop_connect, key, rate=rate, paths="h./kernel")
            )
        return layer(
            self.features,
            dropout=0.0 if is_off("inputs") else rate,
            recurrent_dropout=0.0 if is_off("states") else rate,
            deterministic=False,
            dtype=self.dtype,
            name=f"lstm_{index}",
        )
