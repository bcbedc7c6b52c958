"""The module of token dropout."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from .._host import draw_mask, drop_patches, regularize
from .._ops.patches import count_patches, patch_dropout
from .._ops.tokens import (
    embedding_dropout,
    embedding_recipe,
    look_up,
    token_dropout,
    token_recipe,
)
from .._typing import Array, Key, Rate
from ._base import Regularizer, Stochastic, call_of


class TokenDropout(Regularizer, of=token_dropout):
    """The module of `flax_spatialdrop.token_dropout`.

    Its inputs are ids, integers of any shape. Special tokens stay as they are under a mask that is
    given at the call, too.

    Attributes:
      rate: probability to replace a token, in [0, 1]; a number or a scalar array;
        None if each call gives one.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import TokenDropout
      >>> layer = TokenDropout(0.5, mask_id=3, special_ids=(0, 1, 2), deterministic=False)
      >>> ids = jnp.array([[1, 7, 8, 9, 2, 0, 0]])
      >>> y = layer.apply({}, ids, rngs={"dropout": jax.random.key(0)})
      >>> y[:, [0, 4, 5, 6]]
      Array([[1, 2, 0, 0]], dtype=int32)
    """

    rate: Rate | None
    mask_id: int
    special_ids: Sequence[int] = ()
    vocab_size: int | None = None
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    @nn.nowrap
    def _recipe(self, inputs):
        return token_recipe(inputs, self.mask_id, self.special_ids, self.vocab_size)


class EmbeddingDropout(Stochastic, of=embedding_dropout):
    """The module of `flax_spatialdrop.embedding_dropout`.

    In place of `embed(ids)` it is called on the table of an `nn.Embed`, with ids:
    `dropout(embed.embedding, ids=ids)`. (A dtype that the `nn.Embed` was given for its outputs is
    for `embed.embedding.astype` then.)

    Attributes:
      rate: probability to drop a word, in [0, 1]; a number or a scalar array;
        None if each call gives one.

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
        recipe = embedding_recipe(inputs, ids, self.per_sample)
        rows = look_up(inputs, ids)
        call = call_of(self, deterministic, rng)
        return regularize(call, rows, recipe, self.rate if rate is None else rate, mask)

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
        recipe = embedding_recipe(inputs, ids, self.per_sample)
        call = call_of(self, deterministic, rng)
        return draw_mask(call, recipe, self.rate if rate is None else rate)


class PatchDropout(Stochastic, of=patch_dropout):
    """The module of `flax_spatialdrop.patch_dropout`.

    It takes no mask, since the patches that are kept decide the shape of y. To keep the same
    patches of another array, gather by the indices returned.

    Attributes:
      rate: the part of the patches to drop, a number in [0, 1].

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import PatchDropout
      >>> layer = PatchDropout(0.75, deterministic=False)
      >>> x = jnp.ones((2, 1 + 196, 8))
      >>> y, indices = layer.apply({}, x, rngs={"dropout": jax.random.key(0)})
      >>> y.shape, indices.shape
      ((2, 50, 8), (2, 49))
    """

    rate: float | None = None
    num_keep: int | None = None
    num_prefix_tokens: int = 1
    batch_dims: int = 1
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    @nn.compact
    def __call__(
        self,
        inputs: Array,
        deterministic: bool | None = None,
        rng: Key = None,
        *,
        rate: float | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Drops patches.

        Args:
          inputs: [batch, tokens, features], of any dtype.
          deterministic: as the attribute; just one of the two must be given.
          rng: the key to draw with, in place of the stream's.
          rate: in place of the attribute; a number, and another shape of the output for each.

        Returns:
          The tokens kept, [batch, prefix + k, features], and which patches they are, int32
          [batch, k], counted from the end of the prefix; all of them when deterministic.

        Raises:
          ValueError: for inputs of the wrong rank, a prefix that leaves no patch, a k of 0 or
            above the number of patches; `deterministic` given twice or never.
          TypeError: for a rate that is an array, a traced `deterministic`, another type.
          flax.errors.InvalidRngError: when patches are to be drawn and the stream is missing.
        """
        patches = count_patches(
            inputs,
            self.rate if rate is None else rate,
            self.num_keep if rate is None else None,
            self.num_prefix_tokens,
            self.batch_dims,
        )
        return drop_patches(call_of(self, deterministic, rng), inputs, patches)
