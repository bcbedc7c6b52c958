"""Patch dropout: removes patches, so that later layers process fewer tokens."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from .._checks import (
    check_array,
    check_batch_dims,
    check_key,
    check_known_rate,
    check_whole,
    is_at_most,
    is_symbolic,
    plural,
    shown,
)
from .._compat import assert_shape
from .._noise_shape import can_broadcast, shape_given
from .._random.sharding import explicit_sharding, shard_axis
from .._random.subset import all_indices, sample_subset
from .._rates import count_kept
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
    """Removes patches of each sample at random, and keeps a fixed number of them.

        y = concatenate(x[:, :prefix], x[:, prefix + indices]),   indices = k of n patches, sorted

    The output has fewer tokens than x, so later layers compute less. Prefix tokens, such as the
    class token, are kept. Each sample draws its own set of k patches, without replacement, and
    keeps them in order: those with the smallest random bits, which are
    `jax.random.bits(key, [*batch, n], "uint32")`. Add position embeddings before this. Values are
    not scaled, and dropped values have no gradient.

    Args:
      key: a JAX PRNG key, which the call consumes. It may be None if all patches are kept.
      x: [batch, tokens, features], of any dtype. The tokens are prefix tokens and then n patches.
      rate: the fraction of patches to drop, in [0, 1]; k is round((1 - rate) * n). It determines
        the shape of y, so it must be a number, known when tracing. (If any patches are dropped, the
        number of tokens must be known too.)
      num_keep: k, from 1 to n, instead of rate.
      num_prefix_tokens: the number of tokens before the first patch.
      batch_dims: the number of leading batch axes; 0 for a single example.

    Returns:
      y: [*batch, num_prefix_tokens + k, features], in x's dtype; x itself if k is n.
      indices: int32 [*batch, k], the kept patches, where 0 is the first after the prefix.

    Raises:
      ValueError: if x does not have batch_dims + 2 axes, if the prefix leaves no patch, if k is 0
        or above n, if not exactly one of rate and num_keep is given, or if the key is missing.
      TypeError: if rate is an array, or an argument has the wrong type.

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
    """The number of patches in x, and of those to keep."""

    batch_shape: tuple[int, ...]
    num_prefix: int
    num_patches: int
    num_keep: int | None  # None if it depends on a symbolic number of patches

    @property
    def are_all_kept(self) -> bool:
        """Whether nothing is dropped, so that no key is needed."""
        return self.num_keep == self.num_patches

    @property
    def rate(self) -> float:
        """The fraction of patches to drop."""
        return math.nan if self.num_keep is None else 1 - self.num_keep / self.num_patches


def keep_patches(key: Key, x: Array, patches: Patches) -> tuple[jax.Array, jax.Array]:
    """Returns the kept tokens and the indices of the kept patches."""
    if patches.are_all_kept:
        x, shape = jnp.asarray(x), (*patches.batch_shape, patches.num_patches)
        return x, all_indices(shape, _batch_sharding(x))
    if patches.num_keep is None:
        raise ValueError(
            "x must have a known number of tokens if patches are dropped: "
            f"got the symbolic size {shown(x.shape[-2])}"
        )
    kept: tuple[jax.Array, jax.Array] = _keep(check_key(key), jnp.asarray(x), patches)
    return kept


def count_patches(
    x: Array, rate: Any, num_keep: Any, num_prefix_tokens: Any, batch_dims: int
) -> Patches:
    """Checks the arguments, and counts the patches of x and those to keep."""
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
            f"num_prefix_tokens must be at least 0 and below {shape[-2]}, the number of tokens: "
            f"got num_prefix_tokens={num_prefix_tokens} for x.shape={shape}"
        )
    if (rate is None) == (num_keep is None):
        raise ValueError(
            "exactly one of rate and num_keep must be given: "
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
                f"num_keep must be from 1 to {num_patches}, the number of patches: "
                f"got num_keep={kept} for x.shape={shape}"
            )
    return Patches(shape[:-2], num_prefix_tokens, num_patches, kept)


def check_rate_of_patches(rate: Any) -> float:
    """Returns a rate that is known when tracing."""
    return check_known_rate(rate, "the rate of patch dropout determines the shape of the output")


def _num_kept(rate: Any, num_patches: int) -> int | None:
    rate = check_rate_of_patches(rate)
    if rate == 0:
        return num_patches
    return None if is_symbolic(num_patches) else count_kept(rate, num_patches, "patches")


@partial(jax.jit, static_argnums=2)
def _keep(key: jax.Array, x: jax.Array, patches: Patches) -> tuple[jax.Array, jax.Array]:
    num_keep: int = patches.num_keep  # type: ignore[assignment]  # it is known here
    shape = (*patches.batch_shape, patches.num_patches)
    indices = sample_subset(key, shape, num_keep, _batch_sharding(x))
    prefix, rest = jnp.split(shard_axis(x, -2, None), [patches.num_prefix], axis=-2)
    kept = jnp.take_along_axis(rest, indices[..., None], axis=-2, mode="promise_in_bounds")
    y = jnp.concatenate([prefix, kept], axis=-2)
    assert_shape(y, (*x.shape[:-2], patches.num_prefix + num_keep, x.shape[-1]))
    return y, indices


def _batch_sharding(x: jax.Array) -> NamedSharding | None:
    """Returns the sharding of arrays [*batch, patches] if x has an explicit sharding."""
    sharding = explicit_sharding(x)
    return None if sharding is None else NamedSharding(sharding.mesh, P(*sharding.spec[:-2], None))


def restore_patches(
    y: Array, indices: Array, num_patches: int, *, fill: float | Array = 0.0
) -> jax.Array:
    """Puts the tokens that `patch_dropout` kept back in their places, as a masked autoencoder does.

        x[:, :prefix] = y[:, :prefix];   x[:, prefix + indices] = y[:, prefix:];   fill elsewhere

    The tokens of y before the last k, where k is the number of indices, are the prefix. Add
    position embeddings after this: the fill is the same at all places.

    Args:
      y: [*batch, prefix + k, features], of any dtype.
      indices: integers [*batch, k], the patches that y holds, in any order, as `patch_dropout`
        returns them.
      num_patches: n, the number of patches before any were dropped.
      fill: what stands at the places of dropped patches: a number, or an array that broadcasts to
        [*batch, n, features], such as a mask token of [features]. It is cast to y's dtype and has a
        gradient.

    Returns:
      [*batch, prefix + n, features], in y's dtype.

    Raises:
      ValueError: if the shapes of y and indices do not fit each other, if there are more indices
        than num_patches, or if the fill does not broadcast.
      TypeError: if indices are not integers, or an argument has the wrong type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import patch_dropout, restore_patches
      >>> x = jnp.arange(10.0).reshape(2, 5, 1)  # a class token and 4 patches
      >>> y, indices = patch_dropout(jax.random.key(0), x, 0.5)
      >>> restore_patches(y, indices, 4, fill=-1)[..., 0]
      Array([[ 0., -1., -1.,  3.,  4.],
             [ 5., -1.,  7.,  8., -1.]], dtype=float32)

    Reference: He et al., Masked Autoencoders Are Scalable Vision Learners, 2021,
    https://arxiv.org/abs/2111.06377
    """
    y, indices = check_array(y, "y"), _check_indices(indices)
    num_patches = check_whole(num_patches, "num_patches", least=1)
    *batch, num_kept = indices.shape
    if len(y.shape) != len(indices.shape) + 1 or [*y.shape[:-2]] != batch:
        raise ValueError(
            "indices must be [*batch, k] for y of [*batch, prefix + k, features]: "
            f"got indices.shape={indices.shape} for y.shape={y.shape}"
        )
    if num_kept > min(y.shape[-2], num_patches):
        raise ValueError(
            "there must be at most as many indices as tokens of y and as patches: got "
            f"{num_kept} indices for y.shape={y.shape} and num_patches={num_patches}"
        )
    x: jax.Array = _restore(y, indices, num_patches, _check_fill(fill, y, num_patches))
    return x


def patch_mask(indices: Array, num_patches: int) -> jax.Array:
    """Returns which patches `patch_dropout` kept, such as for a loss on those that it dropped.

        mask[b, i] = True if i is one of indices[b], else False

    Args:
      indices: integers [*batch, k], as `patch_dropout` returns them.
      num_patches: n, the number of patches before any were dropped.

    Returns:
      bool [*batch, n], True = kept. Prefix tokens are not part of it.

    Raises:
      ValueError: if num_patches is below 1.
      TypeError: if indices are not integers, or num_patches is not one.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax_spatialdrop import patch_mask
      >>> patch_mask(jnp.array([[2, 3], [1, 2]]), 4)
      Array([[False, False,  True,  True],
             [False,  True,  True, False]], dtype=bool)

    Reference: He et al., Masked Autoencoders Are Scalable Vision Learners, 2021,
    https://arxiv.org/abs/2111.06377
    """
    num_patches = check_whole(num_patches, "num_patches", least=1)
    return _matches(jnp.asarray(_check_indices(indices)), num_patches).any(axis=-2)


def _check_indices(indices: Any) -> Array:
    checked = check_array(indices, "indices")
    if not jnp.issubdtype(checked.dtype, jnp.integer) or not checked.shape:
        raise TypeError(
            "indices must be an array of integers with one axis or more, as patch_dropout returns "
            f"them: got dtype {checked.dtype} and shape {checked.shape}"
        )
    return checked


def _check_fill(fill: Any, y: Array, num_patches: int) -> jax.Array:
    number = isinstance(fill, bool | int | float | complex)
    values = jnp.asarray(fill if number else check_array(fill, "fill"), y.dtype)
    shape = (*y.shape[:-2], num_patches, y.shape[-1])
    if not can_broadcast(values.shape, shape):
        raise ValueError(
            f"fill must be a number, or an array that broadcasts to {shape}, such as a mask token "
            f"of [features]: got fill.shape={values.shape}"
        )
    return values.reshape((1,) * (len(shape) - values.ndim) + values.shape)


@partial(jax.jit, static_argnums=2)
def _restore(y: jax.Array, indices: jax.Array, num_patches: int, fill: jax.Array) -> jax.Array:
    y, matches = shard_axis(y, -2, None), _matches(indices, num_patches)
    prefix, kept = jnp.split(y, [y.shape[-2] - indices.shape[-1]], axis=-2)
    is_kept = matches.any(axis=-2)[..., None]
    if indices.shape[-1] == 0:
        kept = jnp.zeros((*indices.shape[:-1], 1, y.shape[-1]), y.dtype)
        matches = matches.any(axis=-2, keepdims=True)
    places = jnp.argmax(matches, axis=-2)[..., None]
    found = jnp.take_along_axis(kept, places, axis=-2, mode="promise_in_bounds")
    return jnp.concatenate([prefix, jnp.where(is_kept, found, fill)], axis=-2)


def _matches(indices: jax.Array, num_patches: int) -> jax.Array:
    """Returns [*batch, k, n], True where an index is the number of the patch."""
    numbers = jnp.arange(num_patches, dtype=indices.dtype)
    return indices[..., None] == jnp.expand_dims(numbers, range(indices.ndim))
