"""The module of patch dropout, which returns what it kept as well."""

from functools import partial

import flax.linen as nn
import jax

from .._host import drop_patches
from .._ops.patches import count_patches
from .._typing import Array, Key
from ._call import Stochastic, find_key, is_deterministic, where


class PatchDropout(Stochastic):
    """Keeps a number of patches of each sample, drawn without replacement, and drops the others.

        y = concatenate(x[:, :prefix], x[:, prefix + indices]),   indices = k of n patches, sorted

    The module of `flax_spatialdrop.patch_dropout`. It takes no mask: what is kept decides the
    shape of y. To keep the same patches of another array, gather by the indices returned.

    Attributes:
      rate: the part of the patches to drop, a number in [0, 1].
      num_keep: how many to keep, in place of rate.
      num_prefix_tokens: how many tokens in front are no patches and are kept (default 1).
      batch_dims: how many leading axes are batch axes (default 1).
      deterministic: True keeps all; to be given here or at the call.
      rng_collection: the name of the stream that the key is asked of (default "dropout").

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import PatchDropout
      >>> layer = PatchDropout(0.75, deterministic=False)
      >>> x = jnp.ones((2, 1 + 196, 8))
      >>> y, indices = layer.apply({}, x, rngs={"dropout": jax.random.key(0)})
      >>> y.shape, indices.shape
      ((2, 50, 8), (2, 49))

    Reference: Liu et al., PatchDropout: Economizing Vision Transformers Using Patch Dropout, 2022,
    https://arxiv.org/abs/2208.07220
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
        return drop_patches(
            inputs,
            patches,
            deterministic=is_deterministic(self, deterministic),
            find_key=partial(find_key, self, rng),
            where=partial(where, self, rng),
        )
