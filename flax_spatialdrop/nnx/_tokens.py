"""The module of token dropout."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from .._host import draw_mask, drop_patches, regularize
from .._ops.patches import count_patches, patch_dropout
from .._ops.tokens import (
    embedding_dropout,
    embedding_recipe,
    look_up,
    token_dropout,
    token_recipe,
)
from .._typing import Array, Rate
from ._base import Regularizer, Stochastic, call_of, hashable


class TokenDropout(Regularizer, of=token_dropout):
    """The module of `flax_spatialdrop.token_dropout`.

    Its inputs are ids, integers of any shape. Special tokens stay as they are under a mask that is
    given at the call, too.

    Args:
      rate: probability to replace a token, in [0, 1]; a number or a scalar array;
        None if each call gives one.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.nnx import TokenDropout
      >>> layer = TokenDropout(0.5, mask_id=3, special_ids=(0, 1, 2))
      >>> y = layer(jnp.array([[1, 7, 8, 9, 2, 0, 0]]), rngs=jax.random.key(0))
      >>> y[:, [0, 4, 5, 6]]
      Array([[1, 2, 0, 0]], dtype=int32)
    """

    def __init__(
        self,
        rate: Rate | None,
        *,
        mask_id: int,
        special_ids: Sequence[int] = (),
        vocab_size: int | None = None,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        self.mask_id = mask_id
        self.special_ids = hashable(special_ids)
        self.vocab_size = vocab_size
        super().__init__(rate, deterministic, rng_collection, rngs)

    def _recipe(self, inputs):
        return token_recipe(inputs, self.mask_id, self.special_ids, self.vocab_size)


class EmbeddingDropout(Stochastic, of=embedding_dropout):
    """The module of `flax_spatialdrop.embedding_dropout`.

    In place of `embed(ids)` it is called on the table of an `nnx.Embed`, with ids:
    `dropout(embed.embedding[...], ids=ids)`. (A dtype that the `nnx.Embed` was given for its
    outputs is for `embed.embedding[...].astype` then.)

    Args:
      rate: probability to drop a word, in [0, 1]; a number or a scalar array;
        None if each call gives one.

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
        recipe = embedding_recipe(inputs, ids, self.per_sample)
        rows = look_up(inputs, ids)
        call = call_of(self, deterministic, rngs)
        return regularize(call, rows, recipe, self.rate if rate is None else rate, mask)

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
        recipe = embedding_recipe(inputs, ids, self.per_sample)
        call = call_of(self, deterministic, rngs)
        return draw_mask(call, recipe, self.rate if rate is None else rate)


class PatchDropout(Stochastic, of=patch_dropout):
    """The module of `flax_spatialdrop.patch_dropout`.

    It takes no mask, since the patches that are kept decide the shape of y. To keep the same
    patches of another array, gather by the indices returned.

    Args:
      rate: the part of the patches to drop, a number in [0, 1].

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.nnx import PatchDropout
      >>> layer = PatchDropout(0.75)
      >>> y, indices = layer(jnp.ones((2, 1 + 196, 8)), rngs=jax.random.key(0))
      >>> y.shape, indices.shape
      ((2, 50, 8), (2, 49))
    """

    rate: Any = None

    def __init__(
        self,
        rate: float | None = None,
        *,
        num_keep: int | None = None,
        num_prefix_tokens: int = 1,
        batch_dims: int = 1,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        self.rate = rate
        self.num_keep = num_keep
        self.num_prefix_tokens = num_prefix_tokens
        self.batch_dims = batch_dims
        super().__init__(deterministic, rng_collection, rngs)

    def __call__(
        self,
        inputs: Array,
        *,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
        rate: float | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Drops patches.

        Args:
          inputs: [batch, tokens, features], of any dtype.
          deterministic: in place of the attribute.
          rngs: nnx.Rngs, a stream of it or a key to draw with, in place of the module's stream.
          rate: in place of the attribute; a number, and another shape of the output for each.

        Returns:
          The tokens kept, [batch, prefix + k, features], and which patches they are, int32
          [batch, k], counted from the end of the prefix; all of them when deterministic.

        Raises:
          ValueError: for inputs of the wrong rank, a prefix that leaves no patch, a k of 0 or
            above the number of patches; no `deterministic` anywhere; patches to be drawn, no key.
          KeyError: for nnx.Rngs without the stream.
          TypeError: for a rate that is an array, a traced `deterministic`, another type.
        """
        patches = count_patches(
            inputs,
            self.rate if rate is None else rate,
            self.num_keep if rate is None else None,
            self.num_prefix_tokens,
            self.batch_dims,
        )
        return drop_patches(call_of(self, deterministic, rngs), inputs, patches)
