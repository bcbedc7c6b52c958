"""The module of token dropout."""

from collections.abc import Sequence

import flax.linen as nn

from .._ops.tokens import token_choices
from .._typing import Rate
from ._base import Regularizer


class TokenDropout(Regularizer):
    """Replaces tokens by a mask token at random, each on its own: word dropout.

        y = where(m or ids in special_ids, ids, mask_id),   m[ids.shape] ~ Bernoulli(1 - rate)

    The module of `flax_spatialdrop.token_dropout`; its inputs are ids, integers of any shape. A
    mask given at the call leaves special tokens as they are, too.

    Attributes:
      rate: probability to replace a token, in [0, 1]; a number or a scalar array;
        None if each call gives one.
      mask_id: the id that is put in.
      special_ids: the ids that are never replaced.
      vocab_size: how many ids there are; if given, mask_id and special_ids are checked by it.
      deterministic: True returns the inputs as they are; to be given here or at the call.
      rng_collection: the name of the stream that the key is asked of (default "dropout").

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import TokenDropout
      >>> layer = TokenDropout(0.5, mask_id=3, special_ids=(0, 1, 2), deterministic=False)
      >>> ids = jnp.array([[1, 7, 8, 9, 2, 0, 0]])
      >>> y = layer.apply({}, ids, rngs={"dropout": jax.random.key(0)})
      >>> y[:, [0, 4, 5, 6]]
      Array([[1, 2, 0, 0]], dtype=int32)

    Reference: Bowman et al., Generating Sentences from a Continuous Space, 2016,
    https://arxiv.org/abs/1511.06349
    """

    rate: Rate | None
    mask_id: int
    special_ids: Sequence[int] = ()
    vocab_size: int | None = None
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    @nn.nowrap
    def _choices(self, inputs):
        return token_choices(inputs, self.mask_id, self.special_ids, self.vocab_size)
