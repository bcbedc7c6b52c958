"""The module of token dropout."""

from collections.abc import Sequence

from flax import nnx

from .._ops.tokens import token_choices
from .._typing import Rate
from ._base import Regularizer, hashable


class TokenDropout(Regularizer):
    """Replaces tokens by a mask token at random, each on its own: word dropout.

        y = where(m or ids in special_ids, ids, mask_id),   m[ids.shape] ~ Bernoulli(1 - rate)

    The module of `flax_spatialdrop.token_dropout`; its inputs are ids, integers of any shape. A
    mask given at the call leaves special tokens as they are, too.

    Args:
      rate: probability to replace a token, in [0, 1]; a number or a scalar array;
        None if each call gives one.
      mask_id: the id that is put in.
      special_ids: the ids that are never replaced.
      vocab_size: how many ids there are; if given, mask_id and special_ids are checked by it.
      deterministic: True returns the inputs as they are; set by `train()` and `eval()`, and
        overruled at the call.
      rng_collection: the name of the stream of `rngs` that the key is asked of (default "dropout").
      rngs: a stream is forked from it; without, the module holds no state and takes `rngs=` (a key
        will do) at the call.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.nnx import TokenDropout
      >>> layer = TokenDropout(0.5, mask_id=3, special_ids=(0, 1, 2))
      >>> y = layer(jnp.array([[1, 7, 8, 9, 2, 0, 0]]), rngs=jax.random.key(0))
      >>> y[:, [0, 4, 5, 6]]
      Array([[1, 2, 0, 0]], dtype=int32)

    Reference: Bowman et al., Generating Sentences from a Continuous Space, 2016,
    https://arxiv.org/abs/1511.06349
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

    def _choices(self, inputs):
        return token_choices(inputs, self.mask_id, self.special_ids, self.vocab_size)
