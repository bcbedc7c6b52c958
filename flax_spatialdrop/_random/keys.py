"""Keys made from other keys: with fewer rounds, for a name, or for a place in a mapped axis."""

import zlib
from collections.abc import Sequence

import jax

from .._checks import check_axis_names, check_key, shown
from .._typing import AxisNames, Key
from .threefry import FAST, mark_as_used, rounds_of


def fast_key(key: Key) -> jax.Array:
    """Returns a key whose masks need fewer rounds and fewer hashes than those of `key`.

        d = (c % 512) // 128 if L % 512 == 0 else (r % 32) // 8 if R % 32 == 0 else 0
        i = position in the mask of lane c - 128 d if L % 512 == 0, else of row r - 8 d
        h0, h1 = threefry2x32_13(key, i)    with 13 rounds in place of 20
        u = (h0 & 0xffff, h0 >> 16, h1 & 0xffff, h1 >> 16)[d]
        mask[..., r, c] = u < max(1, round(2^16 (1 - rate)))

    Here [..., R, L] is the shape of the mask, with R = 1 if it has one axis, and the rate is below
    1. Where d can be above 0, four elements share a hash, with 16 bits for each.

    So the rate is rounded to a multiple of 2^-16. The scale 1 / (1 - rate) is that of the rounded
    rate, which keeps the expected value exactly. If you draw and apply the mask yourself,
    `apply_mask` gives the values of `dropout` with the rate
    `min(round(rate * 2**16), 2**16 - 1) / 2**16`.

    The key works in every function and module of this package, and in all of `jax.random`. There
    each 32-bit number is h0 ^ h1 of its own position. The key draws other masks than `key`, but
    they are as independent of sharding, jit and vmap. It is faster if each element has its own draw
    and the hash limits the speed. A mask that is shared along axes takes little time with any key.
    The seeds of DropBlock, and of spans of attention weights, have a hash each and do not round the
    rate. `split` and `fold_in` return the same keys as for `key`, with all 20 rounds.

    Args:
      key: a threefry key, typed or legacy, which the call consumes.

    Returns:
      A typed key with the same two words.

    Raises:
      ValueError: if key is None or a batch of keys.
      TypeError: if key is not a key, or a key of another implementation.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import dropout, fast_key
      >>> y = dropout(fast_key(jax.random.key(0)), jnp.ones((2, 3)), 0.5)

    Reference: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011,
    https://doi.org/10.1145/2063384.2063405
    """
    key = check_key(key)
    if rounds_of(key) == 0:
        raise TypeError(f"fast_key takes a threefry2x32 key: got {jax.random.key_impl(key)}")
    words = jax.random.key_data(key)
    mark_as_used(key)
    fast: jax.Array = jax.random.wrap_key_data(words, impl=FAST)
    return fast


def fold_in_axes(key: Key, axis_names: AxisNames) -> jax.Array:
    """Returns a key that differs along mapped axes, so that each shard draws its own mask.

        fold_in_axes(key, (a, b)) = fold_in(fold_in(key, axis_index(a)), axis_index(b))

    Inside `jax.shard_map`, `jax.pmap` or `jax.vmap`, one key draws the same mask for each index of
    the mapped axis. Fold in the axes over which the array is split. Do not fold in an axis over
    which it is replicated: along this axis the masks stay equal, and a `shard_map` that checks the
    replication (`check_vma`) knows that they do.

    Args:
      key: a JAX PRNG key, typed or legacy, of any implementation. As with `jax.random.fold_in`, the
        call does not consume it.
      axis_names: the name of an axis, or a sequence of names. They are folded in from the first to
        the last, so another order gives other keys. With no names, the key itself is returned.

    Returns:
      A key of the same implementation.

    Raises:
      ValueError: if an axis is not bound, or is named twice; if key is None or a batch of keys.
      TypeError: if axis_names or key has the wrong type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import dropout, fold_in_axes
      >>> def shard(key, x):
      ...     return dropout(fold_in_axes(key, "data"), x, 0.5)
      >>> run = jax.vmap(shard, in_axes=(None, 0), axis_name="data")
      >>> y = run(jax.random.key(0), jnp.ones((4, 8)))

    Reference: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011,
    https://doi.org/10.1145/2063384.2063405
    """
    return fold_in(check_key(key), axis_names, "axis_names")


def fold_in(key: jax.Array, axis_names: AxisNames, name: str) -> jax.Array:
    """`fold_in_axes` for a checked key; messages call the axes by `name`."""
    for axis in check_axis_names(axis_names, name):
        key = jax.random.fold_in(key, _index_along(axis, name))
    return key


def _index_along(axis: str, name: str) -> jax.Array:
    try:
        return jax.lax.axis_index(axis)
    except NameError:
        raise ValueError(
            f"{name} must be axes of an enclosing jax.shard_map, jax.pmap or jax.vmap: got "
            f"{shown(axis)}, which is not bound here; under jax.jit alone no axis is needed, since "
            "one key draws one mask for the whole array"
        ) from None


def named_keys(key: Key, names: Sequence[str], what: str) -> dict[str, jax.Array]:
    """Returns a key for each name, which depends on that name and on no other.

    Unlike Python's hash of a string, crc32 is the same in every process. Messages call the names
    by `what`, a noun in the plural.
    """
    key = check_key(key)
    mark_as_used(key)
    name_of: dict[int, str] = {}
    for name in names:
        other = name_of.setdefault(_crc32(name, what), name)
        if other != name:
            raise ValueError(
                f"{what} must differ in their crc32, since masks depend on it: "
                f"got {shown(other)} and {shown(name)}"
            )
    return {name: jax.random.fold_in(key, crc32) for crc32, name in name_of.items()}


def _crc32(name: str, what: str) -> int:
    try:
        return zlib.crc32(name.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{what} must be text that UTF-8 can encode: got {shown(name)}") from None
