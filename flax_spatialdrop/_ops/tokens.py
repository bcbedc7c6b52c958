"""Token dropout: ids of words replaced by the id of a mask token, before they are embedded."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._apply import by_key, by_mask
from .._checks import check_array, check_sequence, check_whole
from .._choices import Choices, drop
from .._typing import Array, Key, Rate


def token_dropout(
    key: Key,
    ids: Array,
    rate: Rate,
    *,
    mask_id: int,
    special_ids: Sequence[int] = (),
    vocab_size: int | None = None,
) -> jax.Array:
    """Replaces tokens by a mask token at random, each on its own: word dropout.

        y = where(m or ids in special_ids, ids, mask_id),   m[ids.shape] ~ Bernoulli(1 - rate)

    Ids are names and no amounts: nothing is scaled, there is no gradient, and no id is a NaN that
    could leak. `m` is `sample_mask(key, rate, ids.shape)`, special tokens have a draw as well. To
    drop the embedded tokens instead, use `timestep_dropout`; to drop a word wherever it occurs,
    `embedding_dropout`.

    Args:
      key: one JAX PRNG key; consumed. None will do at a rate of exactly 0 or 1.
      ids: any shape, of any integer dtype.
      rate: probability to replace a token, in [0, 1]; a number or a scalar array
        (clipped to [0, 1]; NaN replaces all).
      mask_id: the id that is put in, such as that of [MASK] or <unk>.
      special_ids: the ids that are never replaced, such as those of padding and of the sentence's
        start and end.
      vocab_size: how many ids there are; if given, mask_id and special_ids are checked to be
        below it. (The ids are not: their values may be known only when the program runs.)

    Returns:
      An array of the shape, dtype and sharding of ids.

    Raises:
      ValueError: for a mask_id or special id that is negative, too large for the dtype of ids, or
        outside the vocabulary; a number for rate outside [0, 1]; a missing key.
      TypeError: for ids that are not integers, or an argument of another type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import token_dropout
      >>> ids = jnp.array([[1, 7, 8, 9, 2, 0, 0]])  # start, three words, end, padding
      >>> token_dropout(jax.random.key(0), ids, 0.5, mask_id=3, special_ids=(0, 1, 2))
      Array([[1, 3, 8, 9, 2, 0, 0]], dtype=int32)

    Reference: Bowman et al., Generating Sentences from a Continuous Space, 2016,
    https://arxiv.org/abs/1511.06349; Iyyer et al., Deep Unordered Composition Rivals Syntactic
    Methods for Text Classification, 2015, https://aclanthology.org/P15-1162 (which leaves words
    out)
    """
    return drop(key, ids, rate, token_choices(ids, mask_id, special_ids, vocab_size))


def token_choices(
    ids: Array, mask_id: int, special_ids: Sequence[int], vocab_size: int | None
) -> Choices:
    """A draw for each token, and mask_id in the place of those dropped that are not special."""
    ids = check_ids(ids)
    dtype = jax.dtypes.canonicalize_dtype(ids.dtype)
    special_ids = check_sequence(special_ids, "special_ids", "a tuple of ids")
    if vocab_size is not None:
        vocab_size = check_whole(vocab_size, "vocab_size", least=1, unit="id")
    numbers = [
        _check_id(mask_id, "mask_id", dtype, vocab_size),
        *(_check_id(number, "each of special_ids", dtype, vocab_size) for number in special_ids),
    ]
    constants = [np.asarray(number, dtype) for number in numbers]

    def apply(ids: Array, mask: Array, rate: Rate) -> jax.Array:
        return by_mask(_kept_or_replaced, mask, ids, *constants)

    def redraw(ids: Array, key: jax.Array, rate: Rate) -> jax.Array:
        return by_key(_kept_or_replaced, key, ids, rate, *constants)

    return Choices(ids.shape, apply=apply, redraw=redraw)


def check_ids(ids: Any) -> Array:
    """Returns ids if they are an array of integers, or says what they are."""
    ids = check_array(ids, "ids")
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(
            f"ids must have an integer dtype, being the names of tokens: got dtype {ids.dtype}"
        )
    return ids


def _check_id(number: Any, name: str, dtype: Any, vocab_size: int | None) -> int:
    number = check_whole(number, name)
    largest = int(jnp.iinfo(dtype).max)
    if not 0 <= number <= largest:
        raise ValueError(
            f"{name} must be an id that dtype {dtype} of ids can hold, from 0 to {largest}: "
            f"got {number}"
        )
    if vocab_size is not None and number >= vocab_size:
        raise ValueError(
            f"{name} must be an id of the vocabulary, below vocab_size={vocab_size}: got {number}"
        )
    return number


def _kept_or_replaced(mask, ids, mask_id, *special_ids):
    for special_id in special_ids:
        mask = mask | (ids == special_id)
    return jnp.where(mask, ids, mask_id)
