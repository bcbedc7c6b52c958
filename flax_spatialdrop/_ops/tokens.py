"""Dropout of tokens, which replaces ids, and of the words of an embedding table."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from .._apply import Recipe, apply_mask, by_key, by_mask, drop
from .._checks import check_array, check_input, check_sequence, check_switch, check_whole
from .._random.mask import sample_sharded
from .._random.sharding import explicit_sharding, sharding_of_batch
from .._typing import Array, Key, Rate, Shape


def token_dropout(
    key: Key,
    ids: Array,
    rate: Rate,
    *,
    mask_id: int,
    special_ids: Sequence[int] = (),
    vocab_size: int | None = None,
) -> jax.Array:
    """Replaces tokens at random by a mask token; also called word dropout.

        y = where(m or ids in special_ids, ids, mask_id),   m[ids.shape] ~ Bernoulli(1 - rate)

    The mask m is `sample_mask(key, rate, ids.shape)`; it has draws for special tokens too, which
    are ignored. Ids are not scaled, and there is no gradient. To drop embedded tokens, use
    `timestep_dropout`. To drop all occurrences of a word, use `embedding_dropout`.

    Args:
      key, rate: as in `dropout`.
      ids: any shape, with any integer dtype.
      mask_id: the id to insert, such as the id of [MASK] or <unk>.
      special_ids: the ids that are never replaced, such as the ids of padding, or of the start and
        end of a sentence.
      vocab_size: the size of the vocabulary. If given, mask_id and special_ids must be below it.
        (ids are not checked: their values may be known only when the program runs.)

    Returns:
      An array with the shape, dtype and sharding of ids.

    Raises:
      ValueError: if mask_id or a special id is negative, too large for the dtype of ids, or
        outside the vocabulary; else as in `dropout`.
      TypeError: if ids is not an integer array; else as in `dropout`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import token_dropout
      >>> ids = jnp.array([[1, 7, 8, 9, 2, 0, 0]])  # start, three words, end, padding
      >>> token_dropout(jax.random.key(0), ids, 0.5, mask_id=3, special_ids=(0, 1, 2))
      Array([[1, 3, 8, 9, 2, 0, 0]], dtype=int32)

    Reference: Bowman et al., Generating Sentences from a Continuous Space, 2016,
    https://arxiv.org/abs/1511.06349; Iyyer et al., Deep Unordered Composition Rivals Syntactic
    Methods for Text Classification, 2015, https://aclanthology.org/P15-1162 (which leaves
    words out)
    """
    return drop(key, ids, rate, token_recipe(ids, mask_id, special_ids, vocab_size))


def token_recipe(
    ids: Array, mask_id: int, special_ids: Sequence[int], vocab_size: int | None
) -> Recipe:
    """Returns the recipe of token dropout for ids, which are checked here."""
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

    def apply_key(ids: Array, key: jax.Array, rate: Rate) -> jax.Array:
        return by_key(_kept_or_replaced, key, ids, rate, *constants)

    return Recipe(ids.shape, apply=apply, apply_key=apply_key)


def check_ids(ids: Any) -> Array:
    """Returns ids if they are an integer array."""
    checked = check_array(ids, "ids")
    if not jnp.issubdtype(checked.dtype, jnp.integer):
        raise TypeError(f"ids must have an integer dtype: got dtype {checked.dtype}")
    return checked


def _check_id(number: Any, name: str, dtype: Any, vocab_size: int | None) -> int:
    checked = check_whole(number, name)
    largest = int(jnp.iinfo(dtype).max)
    if not 0 <= checked <= largest:
        raise ValueError(
            f"{name} must be from 0 to {largest}, the largest id in the dtype of ids, {dtype}: "
            f"got {checked}"
        )
    if vocab_size is not None and checked >= vocab_size:
        raise ValueError(f"{name} must be below vocab_size={vocab_size}: got {checked}")
    return checked


def _kept_or_replaced(
    mask: Array, ids: jax.Array, mask_id: Array, *special_ids: Array
) -> jax.Array:
    for special_id in special_ids:
        mask = mask | (ids == special_id)
    return jnp.where(mask, ids, mask_id)


def embedding_dropout(
    key: Key,
    table: Array,
    rate: Rate,
    *,
    ids: Array | None = None,
    per_sample: bool = False,
) -> jax.Array:
    """Drops words of the vocabulary: one draw per row of the table, for all occurrences of a word.

        y[v, f] = table[v, f] * m[v] / (1 - rate),   m[vocab] ~ Bernoulli(1 - rate)

    With ids, the result is y[ids], but the table y is not computed: the rows of the ids are looked
    up and masked. Lookup works as in `nn.Embed` (`jnp.take`): negative ids count from the end, and
    the row of an id outside the vocabulary is NaN. The backward pass keeps the ids and one bool per
    id.

    Args:
      key, rate: as in `dropout`.
      table: [vocab, features], floating or complex.
      ids: the words to look up, an integer array of any shape. None returns the whole table.
      per_sample: whether each sample has its own draws. If True, ids must be [*batch, time], and
        the mask is [*batch, vocab]. If False, the mask is [vocab, 1] and shared by the batch.

    Returns:
      The table, or rows of shape [*ids.shape, features], in the table's dtype.

    Raises:
      ValueError: if table does not have two axes, or per_sample is True and ids has no batch axis
        or is missing; else as in `dropout`.
      TypeError: if table is an integer array or ids is not; else as in `dropout`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import embedding_dropout
      >>> table = jnp.ones((5, 2))
      >>> embedding_dropout(jax.random.key(0), table, 0.5, ids=jnp.array([0, 3, 1, 3, 0]))
      Array([[0., 0.],
             [2., 2.],
             [0., 0.],
             [2., 2.],
             [0., 0.]], dtype=float32)

    Reference: Gal & Ghahramani, A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks, 2016, https://arxiv.org/abs/1512.05287; Merity et al., Regularizing and
    Optimizing LSTM Language Models, 2018, https://arxiv.org/abs/1708.02182
    """
    recipe = embedding_recipe(table, ids, per_sample)
    return drop(key, look_up(table, ids), rate, recipe)


def embedding_recipe(table: Array, ids: Array | None, per_sample: bool) -> Recipe:
    """Returns the recipe of embedding dropout for table and ids, which are checked here."""
    per_sample = check_switch(per_sample, "per_sample")
    table = check_input(table, "table")
    if len(table.shape) != 2:
        raise ValueError(f"table must be [vocab, features]: got table.shape={table.shape}")
    vocab_size = table.shape[0]
    if ids is None:
        if per_sample:
            raise ValueError("per_sample=True needs ids of [*batch, time]: got ids=None")
        return Recipe((vocab_size, 1))
    ids = _widened(ids)
    if per_sample and len(ids.shape) < 2:
        raise ValueError(f"per_sample=True needs ids of [*batch, time]: got ids.shape={ids.shape}")
    noise_shape = (*ids.shape[:-1], vocab_size) if per_sample else (vocab_size, 1)

    def sample(key: Key, rate: Rate, noise_shape: Shape, _: NamedSharding | None) -> jax.Array:
        sharding = sharding_of_batch(ids, 1) if per_sample else None
        return sample_sharded(key, rate, noise_shape, sharding)

    def apply(rows: Array, mask: Array, rate: Rate) -> jax.Array:
        if mask.shape == noise_shape:  # a mask given to a module may be one of the rows
            mask = _draws_of(ids, mask) if per_sample else _rows_of(ids, mask)
        return apply_mask(rows, mask, rate)

    return Recipe(noise_shape, sample, apply, apply_key=None)


def look_up(table: Array, ids: Array | None) -> Array:
    """Returns the rows of ids, or the table if there are none."""
    table = check_input(table, "table")
    return table if ids is None else _rows_of(_widened(ids), table)


def _widened(ids: Any) -> jax.Array:
    """Returns checked ids in a dtype that can hold the size of a vocabulary."""
    checked = jnp.asarray(check_ids(ids))
    return checked.astype(np.int32) if checked.dtype.itemsize < 4 else checked


@jax.jit
def _rows_of(ids: jax.Array, table: jax.Array) -> jax.Array:
    """Returns table[ids]. Outside the vocabulary it is NaN, or True if the table is a mask."""
    if len(table) == 0:  # a gather needs a row
        outside = True if table.dtype == jnp.bool_ else jnp.nan
        return jnp.full((*ids.shape, table.shape[1]), outside, table.dtype)
    return table.at[ids].get(mode=_mode(len(table)), out_sharding=_lookup_sharding(ids, table))


@jax.jit
def _draws_of(ids: jax.Array, mask: jax.Array) -> jax.Array:
    """Looks up ids in the mask [*batch, vocab] of their own sample; returns [*batch, time, 1]."""
    if mask.shape[-1] == 0:
        return jnp.ones((*ids.shape, 1), bool)
    look_up = partial(jnp.take_along_axis, axis=-1, mode=_mode(mask.shape[-1]))
    sharding = explicit_sharding(ids)
    if sharding is not None:  # otherwise JAX would not shard the time axis
        look_up = jax.sharding.auto_axes(look_up, out_sharding=sharding)
    return look_up(mask, ids)[..., None]


def _mode(vocab_size: int) -> str:
    # With a vocabulary of one word, Flax's Embed returns that word for every id.
    return "clip" if vocab_size == 1 else "fill"


def _lookup_sharding(ids: jax.Array, table: jax.Array) -> NamedSharding | None:
    """Returns the explicit sharding of rows: as ids, with the features as in table if possible."""
    sharding = explicit_sharding(ids) or explicit_sharding(table)
    if sharding is None:
        return None
    batch = jax.typeof(ids).sharding.spec
    features = jax.typeof(table).sharding.spec[1]
    if _mesh_axes(features) & set().union(*map(_mesh_axes, batch)):
        features = None
    return NamedSharding(sharding.mesh, P(*batch, features))


def _mesh_axes(entry: Any) -> set[Any]:
    return set(entry) if isinstance(entry, tuple) else {entry} - {None}
