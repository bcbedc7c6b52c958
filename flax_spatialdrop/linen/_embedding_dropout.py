"""The module of embedding dropout, which takes ids beside its inputs."""

import flax.linen as nn
import jax

from .._embedding_dropout import embedding_choices, look_up
from .._typing import Array, Key, Rate
from ._call import Stochastic, draw_mask, regularize


class EmbeddingDropout(Stochastic):
    """Drops words of the vocabulary: one draw per row of the table, for all occurrences of a word.

        y[v, f] = table[v, f] * m[v] / (1 - rate),   m[vocab] ~ Bernoulli(1 - rate)

    The module of `flax_spatialdrop.embedding_dropout`. In place of `embed(ids)` it is called on
    the table of an `nn.Embed`, with ids: `dropout(embed.embedding, ids=ids)`. (A dtype that the
    `nn.Embed` was given for its outputs is for `embed.embedding.astype` then.)

    Attributes:
      rate: probability to drop a word, in [0, 1]; a number or a scalar array;
        None if each call gives one.
      per_sample: whether each sample of ids draws on its own.
      deterministic: True drops nothing, and looks up ids alone; to be given here or at the call.
      rng_collection: the name of the stream that the key is asked of (default "dropout").

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import EmbeddingDropout
      >>> class Model(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, ids, train):
      ...         embed = nn.Embed(100, 8)
      ...         return EmbeddingDropout(0.1)(embed.embedding, not train, ids=ids)
      >>> ids = jnp.array([[7, 8, 7], [9, 7, 0]])
      >>> variables = Model().init(jax.random.key(0), ids, train=False)
      >>> y = Model().apply(variables, ids, train=True, rngs={"dropout": jax.random.key(1)})
      >>> y.shape
      (2, 3, 8)

    Reference: Gal & Ghahramani, A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks, 2016, https://arxiv.org/abs/1512.05287; Merity et al., Regularizing and
    Optimizing LSTM Language Models, 2018, https://arxiv.org/abs/1708.02182
    """

    rate: Rate | None
    per_sample: bool = False
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    @nn.compact
    def __call__(
        self,
        inputs: Array,
        deterministic: bool | None = None,
        rng: Key = None,
        *,
        ids: Array | None = None,
        rate: Rate | None = None,
        mask: Array | None = None,
    ) -> jax.Array:
        """Drops rows of the table, or looks up ids in a table with rows dropped.

        Args:
          inputs: the table, [vocab, features].
          deterministic: as the attribute; just one of the two must be given.
          rng: the key to draw with, in place of the stream's.
          ids: the words to look up; None for the whole table.
          rate: in place of the attribute (which may be None then), such as a schedule's value; may
            be traced.
          mask: bool, in noise shape, [vocab, 1] or [*batch, vocab] per sample, else in the shape of
            the output, used in place of a draw. `sample_mask` gives one.

        Returns:
          The table, or [*ids.shape, features] for ids.

        Raises:
          ValueError: for inputs that are no table, a mask or rate that does not fit, per_sample
            without ids of a batch; `deterministic` given twice or never.
          TypeError: for an integer table, ids that are not, a traced `deterministic`, another type.
          flax.errors.InvalidRngError: when a mask is to be drawn and the stream is missing.
        """
        choices = embedding_choices(inputs, ids, self.per_sample)
        return regularize(
            self,
            look_up(inputs, ids),
            choices,
            rate=self.rate if rate is None else rate,
            deterministic=deterministic,
            rng=rng,
            mask=mask,
        )

    def sample_mask(
        self,
        inputs: Array,
        deterministic: bool | None = None,
        rng: Key = None,
        *,
        ids: Array | None = None,
        rate: Rate | None = None,
    ) -> jax.Array:
        """Draws the mask that a call with the same arguments would have dropped with.

        Unless per sample it depends on no ids: with one mask the same words drop wherever the
        table is used, in the output layer of a language model too.

        Args:
          inputs: the table, of which only shape and dtype matter.
          deterministic, rng, ids, rate: as at the call.

        Returns:
          bool [vocab, 1], or [*batch, vocab] per sample; True where a word is kept.

        Raises:
          ValueError, TypeError, flax.errors.InvalidRngError: as the call.
        """
        return draw_mask(
            self,
            embedding_choices(inputs, ids, self.per_sample),
            rate=self.rate if rate is None else rate,
            deterministic=deterministic,
            rng=rng,
        )
