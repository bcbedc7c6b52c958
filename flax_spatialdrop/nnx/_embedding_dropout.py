"""The module of embedding dropout, which takes ids beside its inputs."""

from typing import Any

import jax
from flax import nnx

from .._embedding_dropout import embedding_choices, look_up
from .._typing import Array, Rate
from ._base import Stochastic
from ._call import draw_mask, regularize


class EmbeddingDropout(Stochastic):
    """Drops words of the vocabulary: one draw per row of the table, for all occurrences of a word.

        y[v, f] = table[v, f] * m[v] / (1 - rate),   m[vocab] ~ Bernoulli(1 - rate)

    The module of `flax_spatialdrop.embedding_dropout`. In place of `embed(ids)` it is called on
    the table of an `nnx.Embed`, with ids: `dropout(embed.embedding[...], ids=ids)`. (A dtype that
    the `nnx.Embed` was given for its outputs is for `embed.embedding[...].astype` then.)

    Args:
      rate: probability to drop a word, in [0, 1]; a number or a scalar array;
        None if each call gives one.
      per_sample: whether each sample of ids draws on its own.
      deterministic: True drops nothing, and looks up ids alone; set by `train()` and `eval()`, and
        overruled at the call.
      rng_collection: the name of the stream of `rngs` that the key is asked of (default "dropout").
      rngs: a stream is forked from it; without, the module holds no state and takes `rngs=` (a key
        will do) at the call.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_spatialdrop.nnx import EmbeddingDropout
      >>> class Model(nnx.Module):
      ...     def __init__(self, rngs):
      ...         self.embed = nnx.Embed(100, 8, rngs=rngs)
      ...         self.drop = EmbeddingDropout(0.1, rngs=rngs)
      ...     def __call__(self, ids):
      ...         return self.drop(self.embed.embedding[...], ids=ids)
      >>> model = Model(nnx.Rngs(params=0, dropout=1))
      >>> model(jnp.array([[7, 8, 7], [9, 7, 0]])).shape
      (2, 3, 8)

    Reference: Gal & Ghahramani, A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks, 2016, https://arxiv.org/abs/1512.05287; Merity et al., Regularizing and
    Optimizing LSTM Language Models, 2018, https://arxiv.org/abs/1708.02182
    """

    rate: Any = None

    def __init__(
        self,
        rate: Rate | None,
        *,
        per_sample: bool = False,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        self.rate = rate
        self.per_sample = per_sample
        super().__init__(deterministic, rng_collection, rngs)

    def __call__(
        self,
        inputs: Array,
        *,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
        ids: Array | None = None,
        rate: Rate | None = None,
        mask: Array | None = None,
    ) -> jax.Array:
        """Drops rows of the table, or looks up ids in a table with rows dropped.

        Args:
          inputs: the table, [vocab, features]: an array, or the Param of an nnx.Embed.
          deterministic: in place of the attribute.
          rngs: nnx.Rngs, a stream of it or a key to draw with, in place of the module's stream.
          ids: the words to look up; None for the whole table.
          rate: in place of the attribute (which may be None then), such as a schedule's value; may
            be traced.
          mask: bool, in noise shape, [vocab, 1] or [*batch, vocab] per sample, else in the shape of
            the output, used in place of a draw. `sample_mask` gives one.

        Returns:
          The table, or [*ids.shape, features] for ids.

        Raises:
          ValueError: for inputs that are no table, a mask or rate that does not fit, per_sample
            without ids of a batch; no `deterministic` anywhere; a mask to be drawn and no key.
          KeyError: for nnx.Rngs without the stream.
          TypeError: for an integer table, ids that are not, a traced `deterministic`, another type.
        """
        choices = embedding_choices(inputs, ids, self.per_sample)
        return regularize(
            self,
            look_up(inputs, ids),
            choices,
            rate=self.rate if rate is None else rate,
            deterministic=deterministic,
            rngs=rngs,
            mask=mask,
        )

    def sample_mask(
        self,
        inputs: Array,
        *,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
        ids: Array | None = None,
        rate: Rate | None = None,
    ) -> jax.Array:
        """Draws the mask that a call with the same arguments would have dropped with.

        Unless per sample it depends on no ids: with one mask the same words drop wherever the
        table is used, in the output layer of a language model too.

        Args:
          inputs: the table, of which only shape and dtype matter.
          deterministic, rngs, ids, rate: as at the call.

        Returns:
          bool [vocab, 1], or [*batch, vocab] per sample; True where a word is kept.

        Raises:
          ValueError, KeyError, TypeError: as the call.
        """
        return draw_mask(
            self,
            embedding_choices(inputs, ids, self.per_sample),
            rate=self.rate if rate is None else rate,
            deterministic=deterministic,
            rngs=rngs,
        )
