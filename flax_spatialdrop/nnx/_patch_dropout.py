"""The module of patch dropout, which returns what it kept as well."""

from functools import partial
from typing import Any

import jax
from flax import nnx

from .._host import drop_patches
from .._ops.patches import count_patches
from .._typing import Array
from ._base import Stochastic
from ._call import find_key, is_deterministic, where


class PatchDropout(Stochastic):
    """Keeps a number of patches of each sample, drawn without replacement, and drops the others.

        y = concatenate(x[:, :prefix], x[:, prefix + indices]),   indices = k of n patches, sorted

    The module of `flax_spatialdrop.patch_dropout`. It takes no mask: what is kept decides the
    shape of y. To keep the same patches of another array, gather by the indices returned.

    Args:
      rate: the part of the patches to drop, a number in [0, 1].
      num_keep: how many to keep, in place of rate.
      num_prefix_tokens: how many tokens in front are no patches and are kept (default 1).
      batch_dims: how many leading axes are batch axes (default 1).
      deterministic: True keeps all; set by `train()` and `eval()`, and overruled at the call.
      rng_collection: the name of the stream of `rngs` that the key is asked of (default "dropout").
      rngs: a stream is forked from it; without, the module holds no state and takes `rngs=` (a key
        will do) at the call.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.nnx import PatchDropout
      >>> layer = PatchDropout(0.75)
      >>> y, indices = layer(jnp.ones((2, 1 + 196, 8)), rngs=jax.random.key(0))
      >>> y.shape, indices.shape
      ((2, 50, 8), (2, 49))

    Reference: Liu et al., PatchDropout: Economizing Vision Transformers Using Patch Dropout, 2022,
    https://arxiv.org/abs/2208.07220
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
        return drop_patches(
            inputs,
            patches,
            deterministic=is_deterministic(self, deterministic),
            find_key=partial(find_key, self, rngs),
            where=partial(where, self, rngs),
        )
