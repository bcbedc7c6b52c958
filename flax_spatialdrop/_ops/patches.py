"""Patch dropout: fewer tokens for the layers that follow, not zeros in their place."""

import math
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from .._checks import (
    check_array,
    check_batch_dims,
    check_key,
    check_rate,
    check_whole,
    is_at_most,
    is_symbolic,
    plural,
    shown,
)
from .._noise_shape import shape_given
from .._random.sharding import explicit_sharding
from .._typing import Array, Key


def patch_dropout(
    key: Key,
    x: Array,
    rate: float | None = None,
    *,
    num_keep: int | None = None,
    num_prefix_tokens: int = 1,
    batch_dims: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """Keeps a number of patches of each sample, drawn without replacement, and drops the others.

        y = concatenate(x[:, :prefix], x[:, prefix + indices]),   indices = k of n patches, sorted

    What is dropped is gone: y is shorter, and so what follows computes less. The tokens in front
    (the class token) are kept. Each sample draws k patches of its own, all sets of k alike, and
    keeps them in their order: those with the smallest of `jax.random.bits(key, [*batch, n],
    "uint32")`. Positions are to be added before. Nothing is scaled, and values that are dropped
    reach neither y nor the gradient.

    Args:
      key: one JAX PRNG key; consumed. None will do where all patches are kept.
      x: [batch, tokens, features], of any dtype; the tokens are a prefix and n patches.
      rate: the part of the patches to drop, in [0, 1]; k is round((1 - rate) * n). It decides the
        shape of y and so must be a number, known when tracing. (So must the number of tokens,
        where any are dropped.)
      num_keep: k itself, in place of rate: from 1 to n.
      num_prefix_tokens: how many tokens in front are no patches; 0 for none.
      batch_dims: how many leading axes are batch axes; 0 for one example.

    Returns:
      y: [*batch, num_prefix_tokens + k, features], of x's dtype; x itself where k is n.
      indices: int32 [*batch, k], the patches kept, counted from the end of the prefix.

    Raises:
      ValueError: for x that has not batch_dims + 2 axes, a prefix that leaves no patch, a k of 0
        or above n, rate and num_keep both given or neither, a missing key.
      TypeError: for a rate that is an array, or an argument of another type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import patch_dropout
      >>> x = jnp.arange(10.0).reshape(2, 5, 1)  # a class token and 4 patches
      >>> y, indices = patch_dropout(jax.random.key(0), x, 0.5)
      >>> y[..., 0]
      Array([[0., 3., 4.],
             [5., 7., 8.]], dtype=float32)
      >>> indices
      Array([[2, 3],
             [1, 2]], dtype=int32)

    Reference: Liu et al., PatchDropout: Economizing Vision Transformers Using Patch Dropout, 2022,
    https://arxiv.org/abs/2208.07220
    """
    return keep_patches(key, x, count_patches(x, rate, num_keep, num_prefix_tokens, batch_dims))


class Patches(NamedTuple):
    """The patches of x, and how many of them are kept."""

    batch_shape: tuple[int, ...]
    num_prefix: int
    num_patches: int
    num_keep: int | None  # None where it depends on a symbolic number of patches

    @property
    def are_all_kept(self) -> bool:
        """Whether nothing is dropped, and so nothing drawn."""
        return self.num_keep == self.num_patches

    @property
    def rate(self) -> float:
        """The part of the patches that is dropped."""
        return math.nan if self.num_keep is None else 1 - self.num_keep / self.num_patches


def keep_patches(key: Key, x: Array, patches: Patches) -> tuple[jax.Array, jax.Array]:
    """The tokens kept, and which patches they are."""
    if patches.are_all_kept:
        return jnp.asarray(x), _numbers(jnp.asarray(x), patches)
    if patches.num_keep is None:
        raise ValueError(
            "x must have a known number of tokens where patches are dropped: "
            f"got the symbolic size {shown(x.shape[-2])}"
        )
    return _keep(check_key(key), jnp.asarray(x), patches)


def count_patches(
    x: Array, rate: Any, num_keep: Any, num_prefix_tokens: Any, batch_dims: int
) -> Patches:
    """Says how many patches x has and how many are kept, or what is wrong with the arguments."""
    shape = check_array(x, "x").shape
    batch_dims = check_batch_dims(batch_dims)
    if len(shape) != batch_dims + 2:
        raise ValueError(
            f"patch dropout takes x with {batch_dims + 2} axes "
            f"({plural(batch_dims, 'batch axis')}, tokens, features): "
            f"got {shape_given(shape, batch_dims)}"
        )
    num_prefix_tokens = check_whole(num_prefix_tokens, "num_prefix_tokens")
    num_patches = shape[-2] - num_prefix_tokens
    if num_prefix_tokens < 0 or is_at_most(num_patches, 0):
        raise ValueError(
            f"num_prefix_tokens must be at least 0 and leave a patch of the {shape[-2]} tokens: "
            f"got num_prefix_tokens={num_prefix_tokens} for x.shape={shape}"
        )
    if (rate is None) == (num_keep is None):
        raise ValueError(
            "one of rate and num_keep says how many patches are kept, and just one must be given: "
            f"got rate={shown(rate)} and num_keep={shown(num_keep)}"
        )
    if num_keep is None:
        kept = _num_kept(rate, num_patches)
    else:
        kept = check_whole(num_keep, "num_keep")
        if is_symbolic(num_patches) and kept >= 1:
            kept = None
        elif not 1 <= kept <= num_patches:
            raise ValueError(
                f"num_keep must be from 1 to {num_patches}, the patches of x: "
                f"got num_keep={kept} for x.shape={shape}"
            )
    return Patches(shape[:-2], num_prefix_tokens, num_patches, kept)


def _num_kept(rate: Any, num_patches: int) -> int | None:
    rate = check_rate(rate)
    if not isinstance(rate, float):
        raise TypeError(
            "the rate of patch dropout decides the shape of y and must be a number, known when "
            f"tracing: got an array of dtype {rate.dtype}"
        )
    if rate == 0:
        return num_patches
    if is_symbolic(num_patches):
        return None
    kept = round((1 - rate) * num_patches)
    if kept == 0:
        raise ValueError(
            f"rate must keep one of the {num_patches} patches after num_prefix_tokens, and "
            f"(1 - rate) * {num_patches} rounds to 0: got rate={rate}"
        )
    return kept


@partial(jax.jit, static_argnums=2)
def _keep(key, x, patches):
    numbers = _numbers(x, patches)
    # Of equal lots the earlier patch wins; as floats they would be equal 512 times as often.
    lots = jax.random.bits(key, numbers.shape, np.uint32, out_sharding=_batch_sharding(x))
    _, drawn = jax.lax.sort_key_val(lots, numbers)
    indices = jnp.sort(drawn[..., : patches.num_keep])
    prefix, rest = jnp.split(_with_whole_tokens(x), [patches.num_prefix], axis=-2)
    kept = jnp.take_along_axis(rest, indices[..., None], axis=-2, mode="promise_in_bounds")
    y = jnp.concatenate([prefix, kept], axis=-2)
    chex.assert_shape(y, (*x.shape[:-2], patches.num_prefix + patches.num_keep, x.shape[-1]))
    return y, indices


def _numbers(x, patches):
    """0, 1, ... for the patches of each sample."""
    shape = (*patches.batch_shape, patches.num_patches)
    axis = len(shape) - 1
    return jax.lax.broadcasted_iota(np.int32, shape, axis, out_sharding=_batch_sharding(x))


def _batch_sharding(x):
    """How draws [*batch, patches] are to lie where x's type says how it does."""
    sharding = explicit_sharding(x)
    return None if sharding is None else NamedSharding(sharding.mesh, P(*sharding.spec[:-2], None))


def _with_whole_tokens(x):
    """X, but for a sharding of its tokens in its type: their number is about to change."""
    sharding = explicit_sharding(x)
    if sharding is None or sharding.spec[-2] is None:
        return x
    *batch, _, features = sharding.spec
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, P(*batch, None, features)))
