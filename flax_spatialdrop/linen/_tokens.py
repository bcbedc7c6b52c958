"""The modules of token, embedding and patch dropout, and of embedding noise."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from .._docs import completed_by
from .._host import draw_mask, drop_patches, find_patches, regularize
from .._ops import tokens
from .._ops.noise import embedding_noise, noise_recipe
from .._ops.patches import patch_dropout
from .._typing import Array, AxisNames, Key, Rate
from ._base import Regularizer, Stochastic, call_of


class TokenDropout(Regularizer, of=tokens.token_dropout, recipe=tokens.token_recipe):
    """The module of `flax_spatialdrop.token_dropout`.

    Its inputs are ids. Special tokens are kept even if a mask given at the call drops them.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import TokenDropout
      >>> layer = TokenDropout(0.5, mask_id=3, special_ids=(0, 1, 2), deterministic=False)
      >>> y = layer.apply({}, jnp.array([[1, 7, 8, 2, 0]]), rngs={"dropout": jax.random.key(0)})
    """

    rate: Rate | None
    mask_id: int
    special_ids: Sequence[int] = ()
    vocab_size: int | None = None
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    axis_name: AxisNames | None = None


class EmbeddingDropout(Regularizer, of=tokens.embedding_dropout):
    """The module of `flax_spatialdrop.embedding_dropout`.

    Instead of `embed(ids)`, call it with the table of the `nn.Embed` and the ids:
    `dropout(embed.embedding, ids=ids)`. If the `nn.Embed` has a `dtype` for its outputs, pass
    `embed.embedding.astype(dtype)`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import EmbeddingDropout
      >>> table, ids = jnp.ones((100, 8)), jnp.array([[7, 8, 7], [9, 7, 0]])
      >>> layer, rngs = EmbeddingDropout(0.1, deterministic=False), {"dropout": jax.random.key(0)}
      >>> y = layer.apply({}, table, ids=ids, rngs=rngs)
    """

    rate: Rate | None
    per_sample: bool = False
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    axis_name: AxisNames | None = None

    @nn.compact
    @completed_by(Regularizer.__call__)
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
        """Drops rows of the table, or looks up ids in a table with dropped rows.

        Args:
          inputs: the table, [vocab, features].
          ids: the words to look up. None returns the whole table.
          mask: used in place of a draw: bool [vocab, 1], or [*batch, vocab] if per_sample, or in
            the shape of the output. `sample_mask` returns one. It has no effect if nothing is
            dropped.

        Returns:
          The table, or rows of shape [*ids.shape, features].
        """
        recipe = tokens.embedding_recipe(inputs, ids, self.per_sample)
        call, rate = call_of(self, deterministic, rng), self.rate if rate is None else rate
        return regularize(call, tokens.look_up(inputs, ids), recipe, rate, mask)

    @completed_by(Regularizer.sample_mask)
    def sample_mask(
        self,
        inputs: Array,
        deterministic: bool | None = None,
        rng: Key = None,
        *,
        ids: Array | None = None,
        rate: Rate | None = None,
    ) -> jax.Array:
        """Draws the mask that a call with the same arguments would draw.

        Unless per_sample, the mask does not depend on ids. Pass it to all calls that use the table,
        such as in the output layer of a language model, and they drop the same words.

        Args:
          deterministic, rng, ids, rate: as at the call.

        Returns:
          bool [vocab, 1], or [*batch, vocab] if per_sample; True where a word is kept.
        """
        recipe = tokens.embedding_recipe(inputs, ids, self.per_sample)
        call, rate = call_of(self, deterministic, rng), self.rate if rate is None else rate
        return draw_mask(call, recipe, rate)


class PatchDropout(Stochastic, of=patch_dropout):
    """The module of `flax_spatialdrop.patch_dropout`.

    It takes no mask, because the number of kept patches determines the shape of the output. To keep
    the same patches of another array, gather by the indices returned.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import PatchDropout
      >>> layer, x = PatchDropout(0.75, deterministic=False), jnp.ones((2, 1 + 196, 8))
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
    axis_name: AxisNames | None = None

    @nn.compact
    @completed_by(drop_patches, Regularizer.__call__)
    def __call__(
        self,
        inputs: Array,
        deterministic: bool | None = None,
        rng: Key = None,
        *,
        rate: float | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Removes patches."""
        rate, num_keep = (self.rate, self.num_keep) if rate is None else (rate, None)
        patches = find_patches(inputs, rate, num_keep, self.num_prefix_tokens, self.batch_dims)
        return drop_patches(call_of(self, deterministic, rng), inputs, patches)


class EmbeddingNoise(Stochastic, of=embedding_noise):
    """The module of `flax_spatialdrop.embedding_noise`.

    Its mask is the noise that is added: `mask=` takes and `sample_mask` returns float32 noise in
    the shape of the inputs, which is 0 everywhere if nothing would change.

    Attributes:
      alpha: as in `embedding_noise`. None if each call gives one.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import EmbeddingNoise
      >>> layer, rngs = EmbeddingNoise(5.0, deterministic=False), {"dropout": jax.random.key(0)}
      >>> y = layer.apply({}, jnp.ones((2, 4, 3)), lengths=jnp.array([4, 2]), rngs=rngs)
    """

    alpha: Rate | None
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    axis_name: AxisNames | None = None

    @nn.compact
    @completed_by(regularize, Regularizer.__call__)
    def __call__(
        self,
        inputs: Array,
        deterministic: bool | None = None,
        rng: Key = None,
        *,
        lengths: int | Array | None = None,
        alpha: Rate | None = None,
        mask: Array | None = None,
    ) -> jax.Array:
        """Adds noise.

        Args:
          lengths: the number of tokens of each sample, integers [*batch]; None if none is padded.
          alpha: used in place of the attribute, such as the value of a schedule; may be traced.
          mask: added in place of noise that is drawn: float32, in the shape of inputs.
            `sample_mask` returns one. It has no effect in a deterministic call, or if alpha is the
            number 0.
        """
        call, recipe = call_of(self, deterministic, rng), noise_recipe(inputs, lengths)
        return regularize(call, inputs, recipe, self.alpha if alpha is None else alpha, mask)

    @completed_by(draw_mask, Regularizer.sample_mask)
    def sample_mask(
        self,
        inputs: Array,
        deterministic: bool | None = None,
        rng: Key = None,
        *,
        lengths: int | Array | None = None,
        alpha: Rate | None = None,
    ) -> jax.Array:
        """Draws the noise that a call with the same arguments would add.

        Args:
          lengths, alpha: as at the call.

        Returns:
          float32 in the shape of inputs; 0 everywhere if nothing would change.
        """
        call, recipe = call_of(self, deterministic, rng), noise_recipe(inputs, lengths)
        return draw_mask(call, recipe, self.alpha if alpha is None else alpha)
